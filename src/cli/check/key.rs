//! The key: what the token may do with it, what it is like, and how long calls take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::finding::{Check, Finding};
use super::report::Report;
use crate::backend::{Backend as _, BackendError, ErrorKind, KeyDescription, KeyScope, KeyVersions};
use crate::clock::Deadline;
use crate::config::vault::Vault;
use crate::vault::Inspector;

/// What is wrapped to see whether it comes back.
const SAMPLE: [u8; 32] = [0x5a; 32];
/// Round trips that are timed.
const SAMPLES: usize = 20;
/// How long kube-apiserver waits for a call unless told otherwise, and how long OpenShift's does.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// A call that takes this long leaves too little room.
const SLOW: Duration = Duration::from_secs(1);
const DENIED: &str = "the token's policy does not allow it";
const LOST: &str = "without the key nothing can be wrapped, and what it wrapped cannot be read";

/// What was learnt of the key.
#[derive(Default)]
pub(super) struct Learnt {
    /// Where the key is, and what it is like.
    pub(super) key: Option<(KeyScope, KeyDescription)>,
    /// The slowest call.
    pub(super) slowest: Option<Duration>,
}

/// One key with the paths that are asked for.
pub(super) struct KeyCheck<'a> {
    inspector: &'a Inspector,
    /// Whether it also wraps.
    wraps: bool,
    /// The key that the running agent uses, where that is another one.
    other: Option<KeyScope>,
    time: Duration,
    paths: Paths,
    /// What the token may do at each path, where it may ask.
    allowed: Option<BTreeMap<String, Vec<String>>>,
}

struct Paths {
    encrypt: String,
    decrypt: String,
    keys: String,
}

impl<'a> KeyCheck<'a> {
    pub(super) fn new(
        vault: &Vault,
        inspector: &'a Inspector,
        wraps: bool,
        other: Option<KeyScope>,
        time: Duration,
    ) -> Self {
        let (mount, key) = (&vault.transit.mount, &vault.transit.key);
        let path = |operation: &str| format!("{mount}/{operation}/{key}");
        let paths = Paths { encrypt: path("encrypt"), decrypt: path("decrypt"), keys: path("keys") };
        Self { inspector, wraps, other, time, paths, allowed: None }
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.time)
    }

    /// `often` is whether the token may be used for more than a few calls.
    pub(super) async fn run(mut self, often: bool, report: &mut Report) -> Learnt {
        let paths = [&*self.paths.encrypt, &self.paths.decrypt, &self.paths.keys];
        self.allowed = self.inspector.capabilities(&paths, self.deadline()).await.ok().flatten();
        let described = self.inspector.backend().describe(0, self.deadline()).await;
        self.policy(&self.paths.keys, &["read", "list"], described.as_ref().err(), report);
        let mut learnt = Learnt::default();
        match described {
            Ok(description) => {
                self.judge_key(&description, report);
                learnt.slowest = self.use_key(description.latest, often, report).await;
                learnt.key = Some((self.inspector.backend().scope().clone(), description));
            }
            Err(error) if error.kind() == ErrorKind::Denied => {
                let because = format!("{} may not be read", self.paths.keys);
                report.add(Finding::skipped(Check::Key, &self.paths.keys, because));
                self.use_blindly(report).await;
            }
            Err(error) => {
                let remedy = self.remedy(error.remedy());
                report.add(Finding::fail(Check::Key, &self.paths.keys, error.to_string(), LOST, remedy));
                report.add(Finding::skipped(Check::RoundTrip, &self.paths.encrypt, "the key cannot be used"));
            }
        }
        self.judge_quota(report);
        learnt
    }

    /// What the token may do at `path`, by its capabilities, or by the use that was made of it.
    fn policy(&self, path: &str, needed: &[&str], used: Option<&BackendError>, report: &mut Report) {
        let granted = self.allowed.as_ref().and_then(|allowed| allowed.get(path));
        let needs = needed.first().copied().unwrap_or_default();
        let fail = |seen: String| {
            let remedy = self.remedy(&format!(
                "grant {needs} on {path} in the policy that the role's token_policies name; kms-plugin render policy prints the whole of it (vault policy write replaces what was there)"
            ));
            let why =
                "every such call of the agent is refused; is this the key that is meant (vault.transit.key)?";
            Finding::fail(Check::Policy, path, seen, why, remedy)
        };
        let refused = used.is_some_and(|error| error.kind() == ErrorKind::Denied);
        // Any other answer came after the policy had let the call through.
        let unanswered = used.filter(|error| error.kind().is_outage());
        report.add(match granted {
            _ if refused => fail(format!("{DENIED} ({needs})")),
            Some(words) if words.iter().any(|word| word == "root") => {
                Finding::ok(Check::Policy, path, "everything (a root token)")
            }
            Some(words) if !words.iter().any(|word| word == needs) => {
                fail(format!("{DENIED} ({needs}): it has {}", words.join(", ")))
            }
            Some(words) if words.iter().any(|word| word == "create") && path == self.paths.encrypt => {
                Finding::warn(
                    Check::Policy,
                    path,
                    words.join(", "),
                    "with `create`, the first Encrypt after the key was deleted makes a new one in silence: the old data is lost, and nobody is told",
                    format!("grant update alone on {path}"),
                )
            }
            Some(words) if words.iter().any(|word| !needed.contains(&word.as_str())) => Finding::warn(
                Check::Policy,
                path,
                words.join(", "),
                "whoever takes this node's token may do that, too",
                format!("grant {needs} alone on {path}: kms-plugin render policy"),
            ),
            Some(words) => Finding::ok(Check::Policy, path, words.join(", ")),
            None => match unanswered {
                Some(error) => Finding::skipped(Check::Policy, path, error.to_string()),
                None => Finding::ok(
                    Check::Policy,
                    path,
                    format!("{needs}, found by use: the token may not ask sys/capabilities-self"),
                ),
            },
        });
    }

    /// A running agent with another key makes a mistake in this configuration likelier than one in Vault.
    fn remedy(&self, remedy: &str) -> String {
        match &self.other {
            Some(other) => format!(
                "the running agent uses {other}: if that is the key that is meant, correct vault.transit (and vault.namespace) in this configuration; if not, {remedy}"
            ),
            None => remedy.to_owned(),
        }
    }

    fn judge_key(&self, key: &KeyDescription, report: &mut Report) {
        let path = &self.paths.keys;
        if key.warnings.is_empty() {
            let mut seen = format!("version {}", key.latest);
            if key.min_decryption > 1 {
                let text = format!(
                    "; versions before {} are switched off (min_decryption_version)",
                    key.min_decryption
                );
                seen.push_str(&text);
            }
            report.add(Finding::ok(Check::Key, path, seen));
        }
        for warning in &key.warnings {
            let why = "the key is worth as much as all Secrets together";
            report.add(Finding::warn(Check::Key, path, &warning.text, why, &warning.remedy));
        }
    }

    /// Wraps and unwraps, several times; the slowest call.
    async fn use_key(&self, version: u32, often: bool, report: &mut Report) -> Option<Duration> {
        if !self.wraps {
            self.unwrap_only(report).await;
            return None;
        }
        let backend = self.inspector.backend();
        let (mut wraps, mut unwraps, mut failed) = (Vec::new(), Vec::new(), None);
        let begun = Instant::now();
        for _ in 0..if often { SAMPLES } else { 1 } {
            // A slow service is known as such after a few calls.
            if begun.elapsed() > self.time * 2 {
                break;
            }
            let deadline = Deadline::after(self.time.max(TIMEOUTS.1));
            let started = Instant::now();
            let wrapped = backend.wrap(version, &SAMPLE, deadline).await;
            wraps.push(started.elapsed());
            let ciphertext = match wrapped {
                Ok(ciphertext) => ciphertext,
                Err(error) => {
                    failed = Some((&self.paths.encrypt, error));
                    break;
                }
            };
            let started = Instant::now();
            let unwrapped = backend.unwrap(&ciphertext, deadline).await;
            unwraps.push(started.elapsed());
            let wrong = match unwrapped {
                Ok(plaintext) if *plaintext == SAMPLE => None,
                Ok(_) => Some(BackendError::new(
                    ErrorKind::Internal,
                    "other bytes came back than were wrapped",
                    "write nothing through this key, and look what stands between this node and Vault",
                )),
                Err(error) => Some(error),
            };
            if let Some(error) = wrong {
                failed = Some((&self.paths.decrypt, error));
                break;
            }
            // The agent of this node lives on the same quota.
            if self.inspector.quota().is_some_and(|(_, last)| last.remaining * 2 < last.limit) {
                break;
            }
        }
        let refused = |path: &String| failed.as_ref().filter(|(at, _)| *at == path).map(|(_, error)| error);
        self.policy(&self.paths.encrypt, &["update"], refused(&self.paths.encrypt), report);
        match refused(&self.paths.encrypt) {
            None => self.policy(&self.paths.decrypt, &["update"], refused(&self.paths.decrypt), report),
            Some(_) => self.unwrap_only(report).await,
        }
        match failed {
            Some((path, error)) if error.kind() == ErrorKind::Denied => {
                report.add(Finding::skipped(Check::RoundTrip, path, "it may not be used"));
                None
            }
            Some((path, error)) if error.kind() == ErrorKind::Throttled => {
                report.add(throttled(path, &error));
                None
            }
            Some((path, error)) => {
                let (seen, remedy) = (error.to_string(), error.remedy().to_owned());
                report.add(Finding::fail(Check::RoundTrip, path, seen, LOST, remedy));
                None
            }
            None => {
                let slowest = wraps.iter().chain(&unwraps).max().copied();
                report.add(self.judge_times(&mut wraps, &mut unwraps));
                slowest
            }
        }
    }

    /// The token's right to unwrap, without a ciphertext of the key.
    async fn unwrap_only(&self, report: &mut Report) {
        let tried = self.inspector.may_unwrap(self.deadline()).await;
        self.policy(&self.paths.decrypt, &["update"], tried.as_ref().err(), report);
    }

    /// Without its description, the key is not wrapped with: a server may make a missing one.
    async fn use_blindly(&self, report: &mut Report) {
        self.unwrap_only(report).await;
        if self.wraps {
            match self.allowed {
                Some(_) => self.policy(&self.paths.encrypt, &["update"], None, report),
                None => report.add(Finding::skipped(
                    Check::Policy,
                    &self.paths.encrypt,
                    "not tried: nothing is wrapped by a key that cannot be read",
                )),
            }
            report.add(Finding::skipped(Check::RoundTrip, &self.paths.encrypt, "the key may not be read"));
        }
    }

    fn judge_times(&self, wraps: &mut [Duration], unwraps: &mut [Duration]) -> Finding {
        wraps.sort_unstable();
        unwraps.sort_unstable();
        let middle = |times: &[Duration]| times.get(times.len() / 2).copied().unwrap_or_default();
        let last = |times: &[Duration]| times.last().copied().unwrap_or_default();
        let slowest = last(wraps).max(last(unwraps));
        let seen = format!(
            "{} good: wrap {:.1} ms, at most {:.1}; unwrap {:.1} ms, at most {:.1}",
            unwraps.len(),
            millis(middle(wraps)),
            millis(last(wraps)),
            millis(middle(unwraps)),
            millis(last(unwraps))
        );
        let subject = &self.paths.encrypt;
        let why = format!(
            "the API server gives up after {:?} unless its `timeout` says otherwise ({:?} on OpenShift)",
            TIMEOUTS.0, TIMEOUTS.1
        );
        let remedy = "look at the way to Vault and at its load (vault_request_duration in /metrics, Vault's own core.handle_request); a longer `timeout` in EncryptionConfiguration only helps for a while";
        match slowest {
            slow if slow >= TIMEOUTS.0 => Finding::fail(Check::RoundTrip, subject, seen, why, remedy),
            slow if slow >= SLOW => Finding::warn(Check::RoundTrip, subject, seen, why, remedy),
            _ => Finding::ok(Check::RoundTrip, subject, seen),
        }
    }

    fn judge_quota(&self, report: &mut Report) {
        let subject = self.paths.keys.split("/keys/").next().unwrap_or_default();
        if let Some((quota, _)) = self.inspector.quota() {
            let seen = format!("{} of {} requests were left in the interval", quota.remaining, quota.limit);
            let finding = if quota.remaining * 10 < quota.limit {
                Finding::warn(
                    Check::Quota,
                    subject,
                    seen,
                    "an API server that starts unwraps many seeds at once; a request over the quota fails",
                    "raise it: vault write sys/quotas/rate-limit/NAME rate=…, or see who else uses this mount",
                )
            } else {
                Finding::ok(Check::Quota, subject, seen)
            };
            report.add(finding);
        }
    }
}

/// Compares the key with what an agent knew of it: a version that was made at another time is another key.
pub(super) fn compare(scope: &KeyScope, now: &KeyVersions, known: &KeyVersions, report: &mut Report) {
    let subject = format!("{}/keys/{}", scope.mount, scope.key);
    let moment = |seconds: &i64| {
        let since = Duration::from_secs(u64::try_from(*seconds).unwrap_or_default());
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
    };
    let other = known.iter().find_map(|(version, before)| {
        let made = now.get(version).filter(|made| *made != before)?;
        Some(format!(
            "version {version} was made at {}, not at {}: the key was deleted and made again",
            moment(made),
            moment(before)
        ))
    });
    let lower = known.keys().next_back().zip(now.keys().next_back()).filter(|(before, now)| before > now);
    let lower = lower.map(|(before, now)| {
        format!("the newest version is {now}, and was {before}: Vault was restored from before a rotation")
    });
    if let Some(seen) = other.or(lower) {
        let why =
            "what was wrapped with the other key cannot be unwrapped with this one; the agent writes nothing";
        let remedy =
            "restore the old key from a backup; only if all data under it is given up: kms-plugin accept-key";
        let finding = Finding::fail(Check::Key, subject, seen, why, remedy);
        report.add(finding.at("the-key-was-replaced-or-rolled-back"));
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn throttled(path: &str, error: &BackendError) -> Finding {
    Finding::fail(
        Check::Quota,
        path,
        error.to_string(),
        "calls over the quota fail: writes of Secrets, and reads after a restart of the API server",
        error.remedy().to_owned(),
    )
}
