//! The answers of the admin API. The server serializes these types, and the client deserializes them.
//!
//! During an upgrade, the client may be older or newer than the agent. So a missing field gets its default, and an
//! unknown field is ignored. An unknown phase or KMS status becomes `Unknown`. The kind of a reason stays text.

use serde::{Deserialize, Serialize};

use crate::health::ReasonKind;
use crate::key_service::{KeyScope, KeyVersions};

/// The phase of the agent: `health::Phase`, and one value for the phases of other versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// No round trip has worked yet.
    Starting,
    /// Everything works.
    Ready,
    /// There is a fault, and KMS Status is still ok.
    Degraded,
    /// There is a fault, and KMS Status is not ok.
    Failed,
    /// The process stops.
    Stopping,
    /// A phase of another version of the agent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What KMS Status answers: `health::Announce`, and one value for the answers of other versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KmsStatus {
    /// `ok` and the key_id.
    Ok,
    /// The reason and the key_id: the grace period is over.
    Unhealthy,
    /// An error: a confirmed refusal, or another key.
    Refused,
    /// An error: the agent is still starting. Also an answer of another version of the agent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Why the agent is not ready, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reason {
    /// The stable name of a [`crate::health::ReasonKind`].
    pub kind: String,
    /// What happened, to what.
    pub text: String,
    /// What an operator should do.
    pub remedy: String,
}

/// The answer of `/status`: the snapshot without secrets. Durations are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// The version of the agent.
    pub version: String,
    /// The FIPS 140-3 module that its cryptography comes from; absent when it is not the FIPS build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fips: Option<String>,
    pub phase: Phase,
    /// The state in one line, as `systemctl status` shows it.
    pub line: String,
    /// The same without the remedy.
    pub summary: String,
    /// How long the agent has been in this phase.
    pub for_seconds: u64,
    /// Why the agent is not ready.
    pub reason: Option<Reason>,
    /// How long Status stays ok in this outage; absent outside an outage, and without a limit.
    pub grace_left_seconds: Option<u64>,
    /// Time since the last good answer of the primary key service.
    pub last_contact_seconds_ago: Option<u64>,
    /// What KMS Status answers.
    pub kms_status: KmsStatus,
    /// The key service that wraps.
    pub primary: Service,
    /// The key services that only unwrap.
    pub decrypt_only: Vec<Service>,
    /// How many key_ids could not be unwrapped when a Decrypt last used them.
    pub unreadable_key_ids: u64,
    /// The state of local KEKs; absent when they are off.
    pub offline: Option<LocalKeks>,
    /// Whether the agent uses the configuration on disk.
    pub config: Config,
}

/// The configuration that the agent uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Whether the last read of the configuration on disk is in use.
    pub in_use: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// A hash of the files that are in use, with their names; empty when they are not known.
    pub digest: String,
}

impl Default for Config {
    /// An older agent does not tell.
    fn default() -> Self {
        Self { in_use: true, problem: None, digest: String::new() }
    }
}

impl Status {
    /// The id that Status announces; `None` before the key is known.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.primary.key.as_ref().map(|key| key.key_id.as_str())
    }
}

impl Reason {
    /// The kind, if this version knows it.
    pub(crate) fn known_kind(&self) -> Option<ReasonKind> {
        ReasonKind::from_name(&self.kind)
    }
}

/// One key service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    /// `primary`, or the name of the `decrypt_only` entry.
    pub name: String,
    /// Its key, once known.
    pub key: Option<Key>,
    /// The agent's token.
    pub token: Option<Token>,
    pub addresses: Vec<Address>,
    /// The error of its last check.
    pub problem: Option<String>,
    /// The warning about a configured namespace that the server ignores.
    pub ignored_namespace: Option<Warning>,
}

/// A key as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Where the key lives.
    pub scope: KeyScope,
    /// The id that Status announces.
    pub key_id: String,
    /// The version that wraps.
    pub version: u32,
    /// When that version was made, in seconds since 1970.
    #[serde(default)]
    pub created: i64,
    /// The lowest version that may still wrap; 0 when only the newest may.
    #[serde(default)]
    pub min_encryption: u32,
    /// The lowest version that may still unwrap.
    #[serde(default)]
    pub min_decryption: u32,
    /// Every version that was ever read, and when it was made, in seconds since 1970.
    #[serde(default)]
    pub versions: KeyVersions,
    /// The cluster that the key was last read from.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// What an administrator should change about the key.
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

/// Something about a key that an administrator should change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Warning {
    /// What is wrong, and why it matters.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

/// The state of a token, without the token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Token {
    /// The login method's name.
    pub method: String,
    /// Whether a token is held.
    pub held: bool,
    /// When it expires, in seconds since 1970; absent when it does not expire.
    pub expires: Option<i64>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// How many logins succeeded since the start.
    pub logins: u64,
    /// What is wrong with renewal or login.
    pub problem: Option<String>,
}

/// One address of a key service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Address {
    /// The address as configured, without userinfo.
    pub address: String,
    /// Whether it answered at the last call; absent before the first one.
    pub reachable: Option<bool>,
    /// Why it is not reachable.
    pub reason: Option<String>,
    /// Whether calls use it first.
    pub preferred: bool,
}

/// Whether the agent is ready for an outage, with local KEKs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LocalKeks {
    /// The state in one line.
    pub line: String,
    /// How long the local KEKs may still be used, if the key service is not reached again.
    pub left_seconds: u64,
    /// Whether the agent can, without the key service, unwrap every key that was used, and wrap a seed.
    pub ready: bool,
    /// How long the local KEKs may be used after the last contact with the key service.
    pub max_offline_seconds: u64,
    /// Local KEKs in memory.
    pub keks: u64,
    /// DEK seeds in memory that the key service wrapped itself.
    pub seeds: u64,
    /// Wrapped keys that were used and are not in memory.
    pub missing: u64,
    /// Whether keys were evicted, because more are in use than fit into memory.
    pub crowded: bool,
    /// When the local KEK in use was made, in seconds since 1970.
    pub made: Option<i64>,
    /// How often it was used.
    pub uses: u64,
    /// How often the key service was asked to unwrap a local KEK or a seed.
    pub unwraps: u64,
    /// Whether the keys are locked in memory, so that they are never swapped out.
    pub locked: bool,
    /// Whether systemd holds the keys while the agent restarts.
    pub kept: bool,
}

/// The answer of `/reload` and `/accept-key` when the command succeeded: the state after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CommandDone {
    /// The phase after the command.
    pub phase: Phase,
    /// The state in one line.
    pub line: String,
}

/// The answer of `/reload` and `/accept-key` when the command failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CommandFailed {
    /// Why, and what to do.
    pub error: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_older_client_understands_a_newer_agent_and_a_newer_client_an_older_agent() {
        let newer = r#"{
            "version": "9.0.0", "phase": "hibernating", "kms_status": "perhaps", "line": "hibernating",
            "reason": { "kind": "too_cold", "text": "t", "remedy": "r", "severity": 3 },
            "primary": { "name": "primary", "key": { "scope": { "namespace": "", "mount": "t", "key": "k" },
                         "key_id": "v1.a", "version": 2, "colour": "blue" } },
            "weather": { "snow": true }
        }"#;
        let status: Status = serde_json::from_str(newer).unwrap();
        assert_eq!((status.phase, status.kms_status), (Phase::Unknown, KmsStatus::Unknown));
        assert_eq!(status.reason.unwrap().kind, "too_cold");
        assert_eq!(status.primary.key.unwrap().version, 2);
        let older: Status = serde_json::from_str(r#"{"phase": "ready"}"#).unwrap();
        assert_eq!((older.phase, older.offline, older.config.in_use), (Phase::Ready, None, true));
    }
}
