//! The running agent, as its private socket shows it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding, section_of};
use super::report::Report;
use crate::admin::types::{KmsStatus, LocalKeks, Phase, Status};
use crate::admin::{Client, ClientError};
use crate::cli::check::PRIMARY;
use crate::health::ReasonKind;
use crate::key_service::{KeyDescription, KeyScope, KeyVersions};

/// `/status` of the agent on this node, or why there is none.
pub(crate) struct AgentView {
    client: Client,
    status: Result<Status, ClientError>,
    /// A hash of the credentials that were refused, by key service.
    refused: BTreeMap<String, String>,
}

impl AgentView {
    /// Asks the agent with this runtime directory.
    pub(crate) async fn read(runtime_dir: &Path, timeout: Duration) -> Self {
        let client = Client::new(runtime_dir, timeout);
        let status = client.status().await;
        let refused = client.refused_credentials().await.unwrap_or_default();
        Self { client, status, refused }
    }

    /// Whether a process has the private socket, and does not answer on it.
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

    /// The id that it announces.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.status()?.key_id()
    }

    /// Whether it announces this id now: a rotation may have been seen since it was read.
    pub(crate) async fn announces(&self, announced: &str) -> bool {
        let now = self.client.status().await.ok();
        self.key_id() == Some(announced) || now.as_ref().and_then(Status::key_id) == Some(announced)
    }

    /// Whether it tells the API server that something is wrong.
    pub(crate) fn complains(&self) -> bool {
        self.status().is_some_and(|status| status.kms_status != KmsStatus::Ok)
    }

    /// What it was told when it sent these credentials, if they were refused: they are not sent once more.
    pub(crate) fn refused_login(&self, name: &str, login_id: &str) -> Option<String> {
        if self.refused.get(name).is_none_or(|refused| refused != login_id) {
            return None;
        }
        let status = self.status()?;
        let token = status.primary.token.as_ref().filter(|_| name == PRIMARY);
        let problem = token.and_then(|token| token.problem.clone());
        let reason = || status.reason.as_ref().map(|reason| reason.text.clone());
        Some(problem.or_else(reason).unwrap_or_else(|| "see its journal".into()))
    }

    /// Where its key is.
    pub(crate) fn scope(&self) -> Option<KeyScope> {
        Some(self.status()?.primary.key.as_ref()?.scope.clone())
    }

    /// The versions that it knows of this key, and when each was made.
    pub(crate) fn versions(&self, scope: &KeyScope) -> Option<KeyVersions> {
        let key = self.status()?.primary.key.as_ref()?;
        (key.scope == *scope).then(|| key.versions.clone())
    }

    /// The version of its key.
    pub(crate) fn version(&self) -> Option<u32> {
        Some(self.status()?.primary.key.as_ref()?.version)
    }

    /// Tells what the agent says of itself.
    pub(crate) fn judge(&self, report: &mut Report) {
        let status = match &self.status {
            Ok(status) => status,
            Err(why) if why.is_hang() => {
                report.add(Finding::fail(
                    Check::Agent,
                    "",
                    format!("the process is there and does not answer: {why}"),
                    "no call to the socket is answered either",
                    "the watchdog restarts it within 30 s (under systemd); else: systemctl restart kms-plugin, or kill the process",
                ));
                return;
            }
            Err(why) => {
                report.add(Finding::skipped(Check::Agent, "", why.to_string()));
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
                "the API server is told so, and its writes stop",
                &reason.remedy,
            ),
            Phase::Degraded => {
                let why = "the agent keeps Status ok as long as the line says";
                Finding::warn(Check::Agent, "", seen, why, &reason.remedy)
            }
            Phase::Starting | Phase::Stopping | Phase::Unknown => {
                let why = "the API server is not ready before the agent is";
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
                    true => "the token that it holds still works; when it ends, nothing does",
                    false => "it has no token: it can neither wrap nor unwrap",
                },
                "if the lines on login and token above are good, it tries again by itself within seconds (systemctl reload kms-plugin does at once); else do what they say",
            );
            report.add(warning.at(section_of(ReasonKind::CredentialsRefused)));
        }
    }

    /// The state of its local KEKs: `None` where no agent answers, `Some(None)` when they are off.
    pub(crate) fn local_keks(&self) -> Option<Option<&LocalKeks>> {
        self.status().map(|status| status.offline.as_ref())
    }

    /// Whether the API server asked for data that no configured key can unwrap.
    pub(crate) fn judge_data(&self, key: Option<&KeyDescription>, report: &mut Report) {
        let unreadable = self.status().map_or(0, |status| status.unreadable_key_ids);
        if unreadable == 0 {
            return;
        }
        let old = key.filter(|key| key.min_decryption > 1).map(|key| key.min_decryption);
        let (seen, remedy) = match old {
            Some(least) => (
                format!(
                    "data of {unreadable} key_id(s) was asked for and could not be unwrapped; min_decryption_version is {least}"
                ),
                "journalctl -u kms-plugin -g 'decrypt failed' names key_id and version; if the version is switched off, lower min_decryption_version to it (vault write transit/keys/NAME/config min_decryption_version=N), write all data anew, and raise it when kms-plugin verify-etcd says that nothing is left",
            ),
            None => (
                format!("data of {unreadable} key_id(s) was asked for and could not be unwrapped"),
                "journalctl -u kms-plugin -g 'decrypt failed' names them. If the cause was mended meanwhile, this goes with the next read of that data; else add the key that wrote it as [[decrypt_only]], or restore that key from a backup (docs/operations.md)",
            ),
        };
        let why = "the API server cannot read these objects, and a list of their kind fails as a whole";
        report.add(Finding::fail(Check::Key, "data in etcd", seen, why, remedy));
    }
}
