//! The running agent, by the status from its admin socket.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding, section_of};
use super::report::Report;
use crate::admin::api_types::{KmsStatus, LocalKeks, Phase, Service, Status};
use crate::admin::{Client, ClientError};
use crate::diagnose::PRIMARY;
use crate::display::with_causes;
use crate::health::ReasonKind;
use crate::key_service::{KeyDescription, KeyScope, KeyVersions};

/// The status of the agent on this node, or why there is none.
pub(crate) struct AgentView {
    client: Client,
    status: Result<Status, ClientError>,
    /// A hash of the refused credentials, by the name of the key service.
    refused: BTreeMap<String, String>,
    /// A hash of the credentials that it is logged in with, by the name of the key service.
    accepted: BTreeMap<String, String>,
}

impl AgentView {
    /// Reads the status of the agent with this runtime directory.
    pub(crate) async fn read(runtime_dir: &Path, timeout: Duration) -> Self {
        let client = Client::new(runtime_dir, timeout);
        let status = client.status().await;
        // An agent that does not answer would make this wait three times.
        let (refused, accepted) = match status {
            Ok(_) => (
                client.refused_credentials().await.unwrap_or_default(),
                client.accepted_credentials().await.unwrap_or_default(),
            ),
            Err(_) => Default::default(),
        };
        Self { client, status, refused, accepted }
    }

    /// Whether an agent accepts connections and does not answer.
    pub(crate) fn hangs(&self) -> bool {
        self.status.as_ref().is_err_and(ClientError::is_hang)
    }

    /// Whether an agent answers.
    pub(crate) fn runs(&self) -> bool {
        self.status.is_ok()
    }

    fn status(&self) -> Option<&Status> {
        self.status.as_ref().ok()
    }

    /// The key_id in its KMS Status.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.status()?.key_id()
    }

    /// Whether it announces this key_id now. It may have seen a rotation since its status was read.
    pub(crate) async fn announces(&self, announced: &str) -> bool {
        let now = self.client.status().await.ok();
        self.key_id() == Some(announced) || now.as_ref().and_then(Status::key_id) == Some(announced)
    }

    /// Whether KMS Status reports a problem to the API server.
    pub(crate) fn reports_problem(&self) -> bool {
        self.status().is_some_and(|status| status.kms_status != KmsStatus::Ok)
    }

    /// Why a server refused these credentials when the agent sent them; `None` when it did not.
    pub(crate) fn refused_login(&self, name: &str, login_id: &str) -> Option<String> {
        if self.refused.get(name).is_none_or(|refused| refused != login_id) {
            return None;
        }
        let status = self.status()?;
        let token = status.primary.token.as_ref().filter(|_| name == PRIMARY);
        let problem = token.and_then(|token| token.problem.clone());
        let reason = || status.reason.as_ref().map(|reason| reason.text.clone());
        Some(problem.or_else(reason).unwrap_or_else(|| "see journalctl -u kms-plugin".into()))
    }

    /// Whether the agent is logged in at this key service with these credentials.
    pub(crate) fn logged_in(&self, name: &str, login_id: &str) -> bool {
        self.accepted.get(name).is_some_and(|accepted| accepted == login_id) && self.service(name).is_some()
    }

    /// What the agent knows of this key service.
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        let status = self.status()?;
        std::iter::once(&status.primary).chain(&status.decrypt_only).find(|service| service.name == name)
    }

    /// Seconds since the agent's last good round trip.
    pub(crate) fn last_contact(&self) -> Option<u64> {
        self.status()?.last_contact_seconds_ago
    }

    /// The scope of its key.
    pub(crate) fn scope(&self) -> Option<KeyScope> {
        Some(self.status()?.primary.key.as_ref()?.scope.clone())
    }

    /// The versions that it knows of this key, with their creation times.
    pub(crate) fn versions(&self, scope: &KeyScope) -> Option<KeyVersions> {
        let key = self.status()?.primary.key.as_ref()?;
        (key.scope == *scope).then(|| key.versions.clone())
    }

    /// The version that it wraps with.
    pub(crate) fn version(&self) -> Option<u32> {
        Some(self.status()?.primary.key.as_ref()?.version)
    }

    /// Reports the state of the agent.
    pub(crate) fn check(&self, report: &mut Report<'_>) {
        let status = match &self.status {
            Ok(status) => status,
            Err(why) if why.is_hang() => {
                report.add(Finding::fail(
                    Check::Agent,
                    "",
                    format!("the process runs and does not answer: {why}"),
                    "it does not answer calls to the socket either",
                    "under systemd the watchdog restarts it within 30 s; otherwise: systemctl restart kms-plugin, or kill the process",
                ));
                return;
            }
            Err(why) => {
                report.add(Finding::skipped(Check::Agent, "", with_causes(why)));
                return;
            }
        };
        let seen = if status.summary.is_empty() { &status.line } else { &status.summary };
        let reason = status.reason.clone().unwrap_or_default();
        let finding = match status.phase {
            Phase::Ready => Finding::ok(Check::Agent, "", seen),
            Phase::Failed => Finding::fail(
                Check::Agent,
                "",
                seen,
                "the API server gets this error, and its writes stop",
                &reason.remedy,
            ),
            Phase::Degraded => {
                let why = "Status is still ok; if this line has a time for that, only until then";
                Finding::warn(Check::Agent, "", seen, why, &reason.remedy)
            }
            Phase::Starting | Phase::Stopping | Phase::Unknown => {
                let why = "the API server is not ready until the agent is ready";
                Finding::warn(Check::Agent, "", seen, why, &reason.remedy)
            }
        };
        let section = reason.known_kind().map_or(Check::Agent.section(), section_of);
        report.add(finding.at(section));
        let token = status.primary.token.as_ref();
        if let Some((token, problem)) = token.and_then(|token| Some((token, token.problem.as_ref()?))) {
            let warning = Finding::warn(
                Check::Agent,
                "token",
                problem,
                match token.held {
                    true => {
                        "the current token still works; when it expires, the agent can neither wrap nor unwrap"
                    }
                    false => "the agent has no token: it can neither wrap nor unwrap",
                },
                "if the lines `login` and `token` above are ok, the agent retries within seconds (or at once: systemctl reload kms-plugin); otherwise follow their remedies",
            );
            report.add(warning.at(section_of(ReasonKind::CredentialsRefused)));
        }
    }

    /// Compares the configuration that it uses with the one on disk. `digest` is that of the files on disk, where they
    /// load.
    pub(crate) fn check_configuration(&self, digest: Option<&str>, report: &mut Report<'_>) {
        let Some(status) = self.status() else { return };
        let used = &status.config;
        let without_any = status.reason.as_ref().and_then(|reason| reason.known_kind());
        let finding = match (&used.problem, digest) {
            // The line `agent` says it.
            _ if without_any == Some(ReasonKind::Configuration) => return,
            (Some(problem), Some(digest)) if digest == used.digest => Finding::warn(
                Check::Agent,
                "configuration",
                format!(
                    "the last reload failed ({problem}), and the files are again those that the agent uses"
                ),
                "the STATUS line and an alert report the failed reload until a good one",
                "kms-plugin reload",
            ),
            (Some(problem), _) => Finding::fail(
                Check::Agent,
                "configuration",
                format!("the running agent does not use the configuration on disk: {problem}"),
                "it keeps the old one until it ends; after a restart it would use the one on disk, or have none",
                "correct the configuration, and run kms-plugin reload",
            ),
            (None, Some(digest)) if !used.digest.is_empty() && digest != used.digest => Finding::warn(
                Check::Agent,
                "configuration",
                "the configuration on disk is not the one that the running agent has read",
                "it keeps the old one until a reload or a restart",
                "kms-plugin reload; after a change of [server] or [log]: systemctl restart kms-plugin",
            ),
            _ => return,
        };
        report.add(finding.at(Check::Configuration.section()));
    }

    /// Its local KEKs: `None` when no agent answers, `Some(None)` when they are off.
    pub(crate) fn local_keks(&self) -> Option<Option<&LocalKeks>> {
        self.status().map(|status| status.offline.as_ref())
    }

    /// Reports data that the API server asked for and that no configured key can unwrap.
    pub(crate) fn check_data(&self, key: Option<&KeyDescription>, report: &mut Report<'_>) {
        let unreadable = self.status().map_or(0, |status| status.unreadable_key_ids);
        if unreadable == 0 {
            return;
        }
        let old = key.filter(|key| key.min_decryption > 1).map(|key| key.min_decryption);
        let (seen, remedy) = match old {
            Some(least) => (
                format!(
                    "the API server asked for data of {unreadable} key_id(s) that could not be unwrapped; min_decryption_version is {least}"
                ),
                "journalctl -u kms-plugin -g 'decrypt failed' names key_id and version; if the version is below min_decryption_version, lower that to the version (vault write transit/keys/NAME/config min_decryption_version=N), rewrite all data, and raise it when kms-plugin verify-etcd shows that no data of the version is left",
            ),
            None => (
                format!(
                    "the API server asked for data of {unreadable} key_id(s) that could not be unwrapped"
                ),
                "journalctl -u kms-plugin -g 'decrypt failed' names them, and says whether a server is behind. If the cause is already fixed, this line disappears after the next read of that data; otherwise add the key that wrapped it as [[decrypt_only]], or restore that key from a backup (docs/operations.md)",
            ),
        };
        let why = "the API server cannot read these objects, and every list of their kind fails";
        report.add(Finding::fail(Check::Key, "data in etcd", seen, why, remedy));
    }
}
