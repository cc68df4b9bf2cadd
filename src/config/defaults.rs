//! The defaults of the settings, read from the schema: each default value is written once.
//!
//! A text that cannot be read gives zero or nothing. A test below reads every default of the schema.

use std::time::Duration;

use super::schema::{self, DefaultValue};

/// The default of a key, as text; empty when it has no fixed value.
pub(crate) fn text(path: &str) -> &'static str {
    match schema::find(path).map(|key| key.default) {
        Some(DefaultValue::Value(text)) => text,
        _ => "",
    }
}

pub(super) fn duration(path: &str) -> Duration {
    parse_duration(text(path)).unwrap_or_default()
}

pub(super) fn count(path: &str) -> usize {
    text(path).parse().unwrap_or_default()
}

pub(super) fn switch(path: &str) -> bool {
    text(path) == "true"
}

/// A duration as the configuration writes it, such as `90s` or `1h 30m`; `0` needs no unit.
pub(super) fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    match text.trim() {
        "0" => Ok(Duration::ZERO),
        text => humantime::parse_duration(text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::config::schema::{KEYS, Kind};
    use crate::config::secret::SecretSource;
    use crate::config::settings::{Grace, KeyServiceSettings};
    use crate::config::vault::Method;
    use crate::config::{Merged, Settings, Sources};
    use crate::telemetry::LogTarget;

    /// The settings of a configuration with these flags beside what it must have.
    fn settings(flags: &[(&str, &str)]) -> Result<Settings, super::super::ConfigError> {
        let needed = [
            ("vault.addresses", "https://vault.example:8200"),
            ("vault.transit.key", "kms-key"),
            ("vault.auth.method", "token"),
            ("vault.auth.token_file", "/token"),
        ];
        let flags = needed.iter().chain(flags).map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Settings::from_merged(&Merged::load(&Sources { flags, ..Sources::default() }).unwrap())
    }

    /// The value of a key in the settings, as the schema writes it.
    fn actual(path: &str, settings: &Settings) -> String {
        let KeyServiceSettings::Vault(vault) = &settings.primary else { panic!("no Vault") };
        let Method::Token(SecretSource::File { allow_world_readable, .. }) = &vault.auth.method else {
            panic!("another method")
        };
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let server = &settings.server;
        let health = &settings.health;
        let local_kek = settings_with_local_kek().local_kek.unwrap();
        match path {
            "server.socket" => server.socket.display().to_string(),
            "server.admin" => server.admin.unwrap().to_string(),
            "server.insecure_admin_beyond_loopback" => {
                self::settings(&[("server.admin", "0.0.0.0:1")]).is_ok().to_string()
            }
            "server.runtime_dir" => server.runtime_dir.display().to_string(),
            "server.state_dir" => server.state_dir.display().to_string(),
            "server.max_in_flight" => server.max_in_flight.to_string(),
            "server.call_timeout" => time(server.call_timeout),
            "server.drain_timeout" => time(server.drain_timeout),
            "vault.insecure_skip_verify" => vault.tls.skip_verify.to_string(),
            "vault.insecure_plain_http" => {
                self::settings(&[("vault.addresses", "http://vault.example")]).is_ok().to_string()
            }
            "vault.transit.mount" => vault.transit.mount.clone(),
            "vault.transit.key_id_epoch" => vault.transit.key_id_epoch.to_string(),
            "vault.transit.accept_foreign_ciphertext" => vault.transit.accept_foreign_ciphertext.to_string(),
            "vault.auth.secret_id_wrapped" => secret_id_is_wrapped().to_string(),
            "vault.auth.allow_world_readable" => allow_world_readable.to_string(),
            "health.outage_grace" => match health.outage_grace {
                Grace::For(grace) => time(grace),
                Grace::Unlimited => "unlimited".into(),
            },
            "health.ready_timeout" => time(health.ready_timeout),
            "health.key_check_interval" => time(health.key_check_interval),
            "health.probe_interval" => time(health.probe_interval),
            "health.sealed" => if health.sealed_is_denied { "denied" } else { "outage" }.into(),
            "local_kek.enabled" => settings.local_kek.is_some().to_string(),
            "local_kek.max_offline" => time(local_kek.max_offline),
            "local_kek.max_age" => time(local_kek.max_age),
            "local_kek.max_uses" => local_kek.max_uses.to_string(),
            "log.level" => settings.log.level.to_string().to_lowercase(),
            "log.target" => match settings.log.target {
                LogTarget::Auto => "auto",
                LogTarget::Journal => "journal",
                LogTarget::Stderr => "stderr",
            }
            .into(),
            _ => panic!("{path} has a default, and this test does not know its setting"),
        }
    }

    fn settings_with_local_kek() -> Settings {
        settings(&[("local_kek.enabled", "true")]).unwrap()
    }

    fn secret_id_is_wrapped() -> bool {
        let flags = [
            ("vault.auth.method", "approle"),
            ("vault.auth.role_id", "r"),
            ("vault.auth.secret_id_file", "/s"),
        ];
        let KeyServiceSettings::Vault(vault) = settings(&flags).unwrap().primary else { panic!("no Vault") };
        matches!(vault.auth.method, Method::AppRole { wrapped: true, .. })
    }

    #[test]
    fn every_default_of_the_schema_is_what_the_settings_have() {
        let settings = settings(&[]).unwrap();
        for key in KEYS {
            let DefaultValue::Value(shown) = key.default else { continue };
            let actual = actual(key.path, &settings);
            match key.kind {
                Kind::Duration => assert_eq!(
                    parse_duration(shown).unwrap(),
                    parse_duration(&actual).unwrap(),
                    "{}",
                    key.path
                ),
                _ => assert_eq!(shown, actual, "{}", key.path),
            }
        }
    }

    #[test]
    fn every_default_can_be_read_as_its_type() {
        for key in KEYS {
            let DefaultValue::Value(text) = key.default else { continue };
            let fits = match key.kind {
                Kind::Text | Kind::TextList => true,
                Kind::Integer => text.parse::<usize>().is_ok(),
                Kind::IntegerList => false,
                Kind::Boolean => text.parse::<bool>().is_ok(),
                Kind::Duration => parse_duration(text).is_ok(),
            };
            assert!(fits, "{}", key.path);
        }
    }
}
