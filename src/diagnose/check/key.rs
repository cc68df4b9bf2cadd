//! The key: the permissions of the token, the key's state, and the time of calls.

use std::time::Duration;

use super::finding::{Check, Finding};
use super::policy::Policy;
use super::report::Report;
use super::round_trips::{Call, LOST, RoundTrips};
use crate::clock::Deadline;
use crate::config::vault::Vault;
use crate::key_service::{ErrorKind, KeyDescription, KeyScope, KeyService as _, KeyServiceError};
use crate::vault::Inspector;

/// Round trips that are timed.
const SAMPLES: usize = 20;

/// The result of the check of one key.
#[derive(Default)]
pub(crate) struct KeyFacts {
    /// The scope of the key, and its description.
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
        let count = if often { SAMPLES } else { 1 };
        let trips = RoundTrips::measure(self.inspector, version, count, self.time).await;
        let wrap_error = trips.error_of(Call::Wrap);
        self.check_policy(&self.paths.encrypt, &["update"], wrap_error, report);
        match wrap_error {
            None => self.check_policy(&self.paths.decrypt, &["update"], trips.error_of(Call::Unwrap), report),
            Some(_) => self.unwrap_only(report).await,
        }
        report.add(trips.finding(&self.paths.encrypt, &self.paths.decrypt));
        trips.slowest()
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
