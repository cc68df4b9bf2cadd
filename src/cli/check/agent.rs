//! The running agent, as its private socket shows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::PRIMARY;
use super::finding::{Check, Finding, REASONS};
use super::report::Report;
use crate::backend::{KeyDescription, KeyScope, KeyVersions};
use crate::cli::client;
use crate::supervisor::ADMIN_SOCKET;

/// The section of docs/troubleshooting.md on a reason of the agent's.
fn section(reason: &str) -> &'static str {
    REASONS.iter().find(|(kind, _)| *kind == reason).map_or(Check::Agent.section(), |(_, section)| section)
}

/// The id that a status announces.
pub(super) fn key_id(status: &Value) -> Option<&str> {
    status.pointer("/primary/key/key_id")?.as_str()
}

/// `/status` of the agent on this node, or why there is none.
pub(super) struct AgentView {
    socket: PathBuf,
    time: Duration,
    status: Result<Value, String>,
    /// A hash of the credentials that were refused, by key service.
    refused: BTreeMap<String, String>,
}

impl AgentView {
    pub(super) async fn read(runtime_dir: &Path, time: Duration) -> Self {
        let socket = runtime_dir.join(ADMIN_SOCKET);
        let status = ask(&socket, time).await;
        let refused = client::admin(&socket, hyper::Method::GET, "/refused", time).await;
        let refused = refused.ok().and_then(|(_, text)| serde_json::from_str(&text).ok()).unwrap_or_default();
        Self { socket, time, status, refused }
    }

    /// Whether a process has the private socket, and does not answer on it.
    pub(super) fn hangs(&self) -> bool {
        self.status.as_ref().is_err_and(|why| why.contains("deadline"))
    }

    /// Whether an agent answers.
    pub(super) fn runs(&self) -> bool {
        self.status.is_ok()
    }

    fn at(&self, pointer: &str) -> Option<&Value> {
        self.status.as_ref().ok()?.pointer(pointer)
    }

    /// The id that it announces.
    pub(super) fn key_id(&self) -> Option<&str> {
        key_id(self.status.as_ref().ok()?)
    }

    /// Whether it announces this id now: a rotation may have been seen since it was read.
    pub(super) async fn announces(&self, announced: &str) -> bool {
        let now = ask(&self.socket, self.time).await.ok();
        self.key_id() == Some(announced) || now.as_ref().and_then(key_id) == Some(announced)
    }

    /// Whether it tells the API server that something is wrong.
    pub(super) fn complains(&self) -> bool {
        self.at("/kms_status").and_then(Value::as_str).is_some_and(|announced| announced != "ok")
    }

    /// What it was told when it sent these credentials, if they were refused: they are not sent once more.
    pub(super) fn refused_login(&self, name: &str, login_id: &str) -> Option<String> {
        if self.refused.get(name).is_none_or(|refused| refused != login_id) {
            return None;
        }
        let text = |pointer: &str| self.at(pointer)?.as_str().map(str::to_owned);
        let problem = text("/primary/token/problem").filter(|_| name == PRIMARY);
        Some(problem.or_else(|| text("/reason/text")).unwrap_or_else(|| "see its journal".into()))
    }

    /// Where its key is.
    pub(super) fn scope(&self) -> Option<KeyScope> {
        serde_json::from_value(self.at("/primary/key/scope")?.clone()).ok()
    }

    /// The versions that it knows of this key, and when each was made.
    pub(super) fn versions(&self, scope: &KeyScope) -> Option<KeyVersions> {
        let versions = self.at("/primary/key/versions").filter(|_| self.scope().as_ref() == Some(scope))?;
        serde_json::from_value(versions.clone()).ok()
    }

    /// The version of its key.
    pub(super) fn version(&self) -> Option<u32> {
        u32::try_from(self.at("/primary/key/version")?.as_u64()?).ok()
    }

    /// Tells what the agent says of itself.
    pub(super) fn judge(&self, report: &mut Report) {
        let status = match &self.status {
            Ok(status) => status,
            Err(why) if self.hangs() => {
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
                report.add(Finding::skipped(Check::Agent, "", format!("no agent answers: {why}")));
                return;
            }
        };
        let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let line = text("/line");
        // The remedy has a place of its own.
        let seen = line.split("; remedy: ").next().unwrap_or(line);
        let remedy = text("/reason/remedy");
        let finding = match text("/phase") {
            "ready" => Finding::ok(Check::Agent, "", seen),
            "failed" => Finding::fail(
                Check::Agent,
                "",
                seen,
                "the API server is told so, and its writes stop",
                remedy,
            ),
            "degraded" => {
                Finding::warn(Check::Agent, "", seen, "it rides this out as long as the line says", remedy)
            }
            _ => Finding::warn(Check::Agent, "", seen, "the API server is not ready before it is", remedy),
        };
        report.add(finding.at(section(text("/reason/kind"))));
        if let Some(problem) = status.pointer("/primary/token/problem").and_then(Value::as_str) {
            let warning = Finding::warn(
                Check::Agent,
                "token",
                problem,
                match status.pointer("/primary/token/held").and_then(Value::as_bool) {
                    Some(true) => "the token that it holds still works; when it ends, nothing does",
                    _ => "it has no token: it can neither wrap nor unwrap",
                },
                "if the lines on login and token above are good, it tries again by itself within seconds (systemctl reload kms-plugin does at once); else do what they say",
            );
            report.add(warning.at(section("credentials_refused")));
        }
    }

    /// What it says of an outage; nothing where no agent answers, null without local KEKs.
    pub(super) fn offline(&self) -> Option<&Value> {
        self.at("/offline")
    }

    /// Whether the API server asked for data that no configured key can unwrap.
    pub(super) fn judge_data(&self, key: Option<&KeyDescription>, report: &mut Report) {
        let unreadable = self.at("/unreadable_key_ids").and_then(Value::as_u64).unwrap_or_default();
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

async fn ask(socket: &Path, time: Duration) -> Result<Value, String> {
    match client::admin(socket, hyper::Method::GET, "/status", time).await {
        Ok((200, text)) => serde_json::from_str(&text).map_err(|error| error.to_string()),
        Ok((code, _)) => Err(format!("it answers {code}")),
        Err(error) => Err(format!("{}: {error}", socket.display())),
    }
}
