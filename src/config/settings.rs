//! The settings of the agent: validated and typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::defaults;
use super::local_kek::{Policy, RawLocalKek, policy};
use super::name::plain_segment;
use super::problem::{ConfigError, Problem};
use super::raw::Merged;
use super::section::RawVault;
use super::server::{RawServer, Server, own_uids, server};
use super::validate::Validator;
use super::vault::Vault;
use crate::telemetry::{Log, LogTarget};

/// The name of the key service that wraps, in logs and metrics.
const PRIMARY: &str = "primary";
/// Longest name of a `decrypt_only` entry, in bytes.
const MAX_NAME: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub server: Server,
    /// The key service that wraps and unwraps.
    pub primary: KeyServiceSettings,
    /// Further key services that only unwrap, by name.
    pub decrypt_only: Vec<(String, KeyServiceSettings)>,
    pub health: Health,
    /// `None` when local KEKs are off.
    pub local_kek: Option<Policy>,
    pub log: Log,
    /// A hash of the files that these settings came from ([`Merged::digest`]); empty when they came from no file.
    pub digest: String,
}

/// What an agent needs while its configuration does not load: where to listen, and how long the boot waits.
#[derive(Clone, Debug)]
pub(crate) struct Provisional {
    pub server: Server,
    pub ready_timeout: Duration,
    pub log: Log,
}

impl Provisional {
    /// From a configuration with problems. The tables that have one themselves count as empty.
    pub(crate) fn of(merged: &Merged) -> Self {
        let mut check = Validator::new(merged);
        let mut server = server(RawServer::readable(merged), &mut check);
        if check.has_problems() {
            server = super::server::server(RawServer::default(), &mut Validator::new(merged));
        }
        let text = |key: &str| merged.value(key).and_then(figment::value::Value::into_string);
        let with_default = |key: &str| {
            let mut check = Validator::new(merged);
            let value = check.duration(key, text(key).as_deref(), "0s", "10m");
            if check.has_problems() { defaults::duration(key) } else { value }
        };
        let mut check = Validator::new(merged);
        let log = log(&RawLog { level: text("log.level"), target: text("log.target") }, &mut check);
        Self { server, ready_timeout: with_default("health.ready_timeout"), log }
    }
}

/// One key service with its key.
#[derive(Clone, Debug)]
pub(crate) enum KeyServiceSettings {
    /// Transit in Vault or OpenBao.
    Vault(Box<Vault>),
    /// The keyring in a file, for development.
    Embedded(PathBuf),
}

impl KeyServiceSettings {
    /// The epoch of its key_ids.
    pub(crate) fn key_id_epoch(&self) -> u32 {
        match self {
            Self::Vault(vault) => vault.transit.key_id_epoch,
            Self::Embedded(_) => 0,
        }
    }

    /// The creation time of the newest key version, in Unix seconds, that an administrator expects.
    pub(crate) fn expect_created(&self) -> Option<i64> {
        match self {
            Self::Vault(vault) => vault.transit.expect_created,
            Self::Embedded(_) => None,
        }
    }

    /// Whether the agent decrypts data of other Transit plugins.
    pub(crate) fn accept_foreign_ciphertext(&self) -> bool {
        match self {
            Self::Vault(vault) => vault.transit.accept_foreign_ciphertext,
            Self::Embedded(_) => false,
        }
    }
}

/// How long Status stays ok in an outage of the key service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// For this long. With zero, an outage is reported at once.
    For(Duration),
    Unlimited,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    pub outage_grace: Grace,
    /// Longest time from the start to READY while nothing is known about the key service.
    pub ready_timeout: Duration,
    /// How often the agent reads the key's versions.
    pub key_check_interval: Duration,
    /// How often the agent wraps and unwraps random bytes.
    pub probe_interval: Duration,
    /// Whether a sealed key service counts as a refusal, and not as an outage.
    pub sealed_is_denied: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    server: RawServer,
    vault: RawVault,
    health: RawHealth,
    local_kek: RawLocalKek,
    log: RawLog,
    decrypt_only: Vec<RawDecryptOnly>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHealth {
    outage_grace: Option<String>,
    ready_timeout: Option<String>,
    key_check_interval: Option<String>,
    probe_interval: Option<String>,
    sealed: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLog {
    level: Option<String>,
    target: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawDecryptOnly {
    name: Option<String>,
    vault: RawVault,
}

impl Settings {
    /// Whether the agent reaches a key service by TCP: no unix socket, and no keyring in a file.
    pub(crate) fn uses_network(&self) -> bool {
        let all = std::iter::once(&self.primary).chain(self.decrypt_only.iter().map(|(_, service)| service));
        let by_tcp = |service: &KeyServiceSettings| match service {
            KeyServiceSettings::Vault(vault) => {
                vault.addresses.iter().any(|address| address.socket().is_none())
            }
            KeyServiceSettings::Embedded(_) => false,
        };
        all.into_iter().any(by_tcp)
    }

    /// Validates a merged configuration for `serve`.
    ///
    /// # Errors
    /// Every problem, not only the first.
    pub(crate) fn from_merged(merged: &Merged) -> Result<Self, ConfigError> {
        let raw: Raw = merged.extract()?;
        let mut check = Validator::new(merged);
        let primary = raw.vault.clone().validate(&mut check, "vault");
        let mut decrypt_only = Vec::new();
        for (index, entry) in raw.decrypt_only.into_iter().enumerate() {
            let prefix = format!("decrypt_only[{index}].vault");
            let name = entry.name.unwrap_or_default();
            let taken = |(other, _): &(String, KeyServiceSettings)| *other == name;
            if let Err(problem) = key_service_name(&name, decrypt_only.iter().any(taken)) {
                check.problem("decrypt_only", format!("entry {index}: {problem}"));
                continue;
            }
            if let Some(raw) = entry.vault.inherit(&raw.vault, &mut check, &prefix)
                && let Some(vault) = raw.validate(&mut check, &prefix)
            {
                decrypt_only.push((name, KeyServiceSettings::Vault(Box::new(vault))));
            }
        }
        let local_kek = policy(&raw.local_kek, raw.health.outage_grace.as_deref(), &mut check);
        let settings = Self {
            server: server(raw.server, &mut check),
            // Without a valid [vault] there is a problem, and nobody uses this value.
            primary: primary.map_or_else(
                || KeyServiceSettings::Embedded(PathBuf::new()),
                |vault| KeyServiceSettings::Vault(Box::new(vault)),
            ),
            decrypt_only,
            health: health(&raw.health, local_kek, &mut check),
            local_kek,
            log: log(&raw.log, &mut check),
            digest: merged.digest().to_owned(),
        };
        check.finish(settings)
    }

    /// The settings of `dev`: an embedded keyring, short intervals, all files below `directory`.
    pub(crate) fn development(directory: &std::path::Path, keyring: PathBuf, admin: SocketAddr) -> Self {
        Self {
            server: Server {
                socket: directory.join("kms.sock"),
                admin: Some(admin),
                admin_hosts: Vec::new(),
                runtime_dir: directory.to_path_buf(),
                runtime_dir_fallback: None,
                state_dir: directory.to_path_buf(),
                allowed_uids: own_uids(),
                max_in_flight: defaults::count("server.max_in_flight"),
                call_timeout: defaults::duration("server.call_timeout"),
                drain_timeout: Duration::from_secs(2),
            },
            primary: KeyServiceSettings::Embedded(keyring),
            decrypt_only: Vec::new(),
            health: Health {
                outage_grace: Grace::For(Duration::from_secs(60)),
                ready_timeout: Duration::from_secs(5),
                key_check_interval: Duration::from_secs(1),
                probe_interval: Duration::from_secs(5),
                sealed_is_denied: false,
            },
            local_kek: None,
            log: Log { level: tracing::Level::INFO, target: LogTarget::Stderr },
            digest: String::new(),
        }
    }
}

/// Checks the name of a `decrypt_only` entry: the logs, the metrics and the views tell key services apart by it.
fn key_service_name(name: &str, is_taken: bool) -> Result<(), String> {
    let is_plain = name.split(' ').all(plain_segment);
    match () {
        () if name.is_empty() => Err("it needs a name, for the logs".into()),
        () if !is_plain || name.len() > MAX_NAME => Err(format!(
            "a name has letters, digits, '.', '_', '-' and single spaces between them, and at most {MAX_NAME} bytes"
        )),
        () if name == PRIMARY => Err(format!("{PRIMARY:?} is the name of [vault]; choose another one")),
        () if is_taken => Err(format!("{name:?} is the name of an earlier entry; choose another one")),
        () => Ok(()),
    }
}

fn health(raw: &RawHealth, local_kek: Option<Policy>, check: &mut Validator<'_>) -> Health {
    let grace = match (local_kek, raw.outage_grace.as_deref()) {
        (Some(policy), _) => Grace::For(policy.max_offline),
        (None, Some("unlimited")) => Grace::Unlimited,
        (None, other) => Grace::For(check.duration("health.outage_grace", other, "0s", "365d")),
    };
    let sealed = check.choice("health.sealed", raw.sealed.as_deref(), &["outage", "denied"]);
    Health {
        outage_grace: grace,
        ready_timeout: check.duration("health.ready_timeout", raw.ready_timeout.as_deref(), "0s", "10m"),
        key_check_interval: check.duration(
            "health.key_check_interval",
            raw.key_check_interval.as_deref(),
            "100ms",
            "1h",
        ),
        probe_interval: check.duration("health.probe_interval", raw.probe_interval.as_deref(), "100ms", "1h"),
        sealed_is_denied: sealed == "denied",
    }
}

fn log(raw: &RawLog, check: &mut Validator<'_>) -> Log {
    let levels = ["error", "warn", "info", "debug", "trace"];
    let level = check.choice("log.level", raw.level.as_deref(), &levels);
    let target = check.choice("log.target", raw.target.as_deref(), &["auto", "journal", "stderr"]);
    Log {
        level: level.parse().unwrap_or(tracing::Level::INFO),
        target: match target.as_str() {
            "journal" => LogTarget::Journal,
            "stderr" => LogTarget::Stderr,
            _ => LogTarget::Auto,
        },
    }
}

impl Problem {
    /// A problem of a key, at the origin of its value.
    pub(super) fn of_key(merged: &Merged, key: &str, message: String) -> Self {
        match merged.origin(key) {
            Some(origin) => Self::new(origin, format!("{key}: {message}")),
            None => Self::new(key, message),
        }
    }
}
