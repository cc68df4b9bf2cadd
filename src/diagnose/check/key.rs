//! The key: the permissions of the token, the key's state, and the time of calls.

use std::time::{Duration, Instant};

use super::finding::{Check, Finding};
use super::policy::Policy;
use super::report::Report;
use crate::clock::Deadline;
use crate::config::vault::Vault;
use crate::diagnose::millis;
use crate::key_service::{ErrorKind, KeyDescription, KeyScope, KeyService as _, KeyServiceError};
use crate::vault::Inspector;

/// The bytes that are wrapped and unwrapped.
const SAMPLE: [u8; 32] = [0x5a; 32];
/// Round trips that are timed.
const SAMPLES: usize = 20;
/// The default timeout of kube-apiserver for a call, and OpenShift's.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// A call that takes this long is too close to the timeout.
const SLOW: Duration = Duration::from_secs(1);
const LOST: &str = "without the key, the agent can neither wrap nor unwrap";

/// The result of the check of one key.
#[derive(Default)]
pub(crate) struct KeyFacts {
    /// The place of the key, and its description.
    pub key: Option<(KeyScope, KeyDescription)>,
    /// The slowest call.
    pub slowest: Option<Duration>,
}

/// The check of one key.
pub(crate) struct KeyCheck<'a> {
    inspector: &'a Inspector,
    /// Whether the agent wraps with it.
    wraps: bool,
    time: Duration,
    paths: Paths,
    policy: Policy,
}

struct Paths {
    encrypt: String,
    decrypt: String,
    keys: String,
}

impl<'a> KeyCheck<'a> {
    pub(crate) fn new(
        vault: &Vault,
        inspector: &'a Inspector,
        wraps: bool,
        other: Option<KeyScope>,
        time: Duration,
    ) -> Self {
        let (mount, key) = (&vault.transit.mount, &vault.transit.key);
        let path = |operation: &str| format!("{mount}/{operation}/{key}");
        let paths = Paths { encrypt: path("encrypt"), decrypt: path("decrypt"), keys: path("keys") };
        let policy = Policy::new(paths.encrypt.clone(), other);
        Self { inspector, wraps, time, paths, policy }
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.time)
    }

    /// `often` is whether the token allows an unlimited number of calls.
    pub(crate) async fn run(mut self, often: bool, report: &mut Report<'_>) -> KeyFacts {
        let paths = [&*self.paths.encrypt, &self.paths.decrypt, &self.paths.keys];
        self.policy
            .set_capabilities(self.inspector.capabilities(&paths, self.deadline()).await.ok().flatten());
        let described = self.inspector.key_service().describe(0, self.deadline()).await;
        self.check_policy(&self.paths.keys, &["read", "list"], described.as_ref().err(), report);
        let mut facts = KeyFacts::default();
        match described {
            Ok(description) => {
                self.check_key(&description, report);
                facts.slowest = self.use_key(description.latest, often, report).await;
                facts.key = Some((self.inspector.key_service().scope().clone(), description));
            }
            Err(error) if error.kind() == ErrorKind::Denied => {
                let because = format!("the token may not read {}", self.paths.keys);
                report.add(Finding::skipped(Check::Key, &self.paths.keys, because));
                self.use_undescribed(report).await;
            }
            Err(error) => {
                let remedy = self.policy.remedy(error.remedy());
                report.add(Finding::fail(Check::Key, &self.paths.keys, error.to_string(), LOST, remedy));
                report.add(Finding::skipped(Check::RoundTrip, &self.paths.encrypt, "the key cannot be used"));
            }
        }
        self.check_quota(report);
        facts
    }

    fn check_policy(
        &self,
        path: &str,
        needed: &[&str],
        used: Option<&KeyServiceError>,
        report: &mut Report<'_>,
    ) {
        report.add(self.policy.check(path, needed, used));
    }

    fn check_key(&self, key: &KeyDescription, report: &mut Report<'_>) {
        let path = &self.paths.keys;
        if key.warnings.is_empty() {
            let mut seen = format!("version {}", key.latest);
            if key.min_decryption > 1 {
                let text = format!(
                    "; versions before {} cannot be used (min_decryption_version)",
                    key.min_decryption
                );
                seen.push_str(&text);
            }
            report.add(Finding::ok(Check::Key, path, seen));
        }
        for warning in &key.warnings {
            let why = "whoever has the key can read all Secrets; without it nobody can";
            report.add(Finding::warn(Check::Key, path, &warning.text, why, &warning.remedy));
        }
    }

    /// Wraps and unwraps several times. Returns the time of the slowest call.
    async fn use_key(&self, version: u32, often: bool, report: &mut Report<'_>) -> Option<Duration> {
        if !self.wraps {
            self.unwrap_only(report).await;
            return None;
        }
        let key_service = self.inspector.key_service();
        let (mut wraps, mut unwraps, mut failed) = (Vec::new(), Vec::new(), None);
        let begun = Instant::now();
        for _ in 0..if often { SAMPLES } else { 1 } {
            // A few calls are enough to know that a service is slow.
            if begun.elapsed() > self.time * 2 {
                break;
            }
            let deadline = Deadline::after(self.time.max(TIMEOUTS.1));
            let started = Instant::now();
            let wrapped = key_service.wrap(version, &SAMPLE, &[], deadline).await;
            wraps.push(started.elapsed());
            let ciphertext = match wrapped {
                Ok(ciphertext) => ciphertext,
                Err(error) => {
                    failed = Some((&self.paths.encrypt, error));
                    break;
                }
            };
            let started = Instant::now();
            let unwrapped = key_service.unwrap(&ciphertext, &[], deadline).await;
            unwraps.push(started.elapsed());
            let wrong = match unwrapped {
                Ok(plaintext) if *plaintext == SAMPLE => None,
                Ok(_) => Some(KeyServiceError::new(
                    ErrorKind::Internal,
                    "unwrap returned other bytes than were wrapped",
                    "do not write with this key, and find out what changes the data between this node and Vault",
                )),
                Err(error) => Some(error),
            };
            if let Some(error) = wrong {
                failed = Some((&self.paths.decrypt, error));
                break;
            }
            // The agent of this node needs the same quota.
            if self.inspector.quota().is_some_and(|(_, last)| last.remaining * 2 < last.limit) {
                break;
            }
        }
        let error_at = |path: &String| failed.as_ref().filter(|(at, _)| *at == path).map(|(_, error)| error);
        self.check_policy(&self.paths.encrypt, &["update"], error_at(&self.paths.encrypt), report);
        match error_at(&self.paths.encrypt) {
            None => {
                self.check_policy(&self.paths.decrypt, &["update"], error_at(&self.paths.decrypt), report)
            }
            Some(_) => self.unwrap_only(report).await,
        }
        match failed {
            Some((path, error)) if error.kind() == ErrorKind::Denied => {
                report.add(Finding::skipped(Check::RoundTrip, path, "the token may not use it"));
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
                report.add(self.check_times(&mut wraps, &mut unwraps));
                slowest
            }
        }
    }

    /// Checks the permission to unwrap without a ciphertext of the key.
    async fn unwrap_only(&self, report: &mut Report<'_>) {
        let tried = self.inspector.may_unwrap(self.deadline()).await;
        self.check_policy(&self.paths.decrypt, &["update"], tried.as_ref().err(), report);
    }

    /// Checks the permissions when the key cannot be read. Nothing is wrapped: a server may create a missing key.
    async fn use_undescribed(&self, report: &mut Report<'_>) {
        self.unwrap_only(report).await;
        if self.wraps {
            match self.policy.is_known() {
                true => self.check_policy(&self.paths.encrypt, &["update"], None, report),
                false => report.add(Finding::skipped(
                    Check::Policy,
                    &self.paths.encrypt,
                    "not tried: the key cannot be read, and a wrap might create a new key",
                )),
            }
            report.add(Finding::skipped(
                Check::RoundTrip,
                &self.paths.encrypt,
                "the token may not read the key",
            ));
        }
    }

    fn check_times(&self, wraps: &mut [Duration], unwraps: &mut [Duration]) -> Finding {
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
            "by default the API server gives up after {:?} ({:?} on OpenShift)",
            TIMEOUTS.0, TIMEOUTS.1
        );
        let remedy = "check the network to Vault and Vault's load (vault_request_duration in /metrics, Vault's own core.handle_request); a longer `timeout` in EncryptionConfiguration does not remove the cause";
        match slowest {
            slow if slow >= TIMEOUTS.0 => Finding::fail(Check::RoundTrip, subject, seen, why, remedy),
            slow if slow >= SLOW => Finding::warn(Check::RoundTrip, subject, seen, why, remedy),
            _ => Finding::ok(Check::RoundTrip, subject, seen),
        }
    }

    fn check_quota(&self, report: &mut Report<'_>) {
        let subject = self.paths.keys.split("/keys/").next().unwrap_or_default();
        if let Some((quota, _)) = self.inspector.quota() {
            let seen = format!("{} of {} requests were left in the interval", quota.remaining, quota.limit);
            let finding = if quota.remaining * 10 < quota.limit {
                Finding::warn(
                    Check::Quota,
                    subject,
                    seen,
                    "an API server that starts needs many unwraps at once; requests over the quota fail",
                    "raise it (vault write sys/quotas/rate-limit/NAME rate=…), or find out who else uses this mount",
                )
            } else {
                Finding::ok(Check::Quota, subject, seen)
            };
            report.add(finding);
        }
    }
}

fn throttled(path: &str, error: &KeyServiceError) -> Finding {
    Finding::fail(
        Check::Quota,
        path,
        error.to_string(),
        "calls over the quota fail: writes of Secrets, and reads after a restart of the API server",
        error.remedy().to_owned(),
    )
}
