//! The flags of two other Transit plugins, and what each means here.
//!
//! docs/flags.md shows the same table; a test holds the two together.

/// The prefixes of those plugins' variables: the flag's name in capitals follows.
pub(super) const PREFIXES: [&str; 2] = ["VAULT_KMS_", "VAULT_KUBE_KMS_"];

/// A login method, for flags that belong to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Any,
    AppRole,
    Userpass,
    Cert,
    Jwt,
}

/// What a flag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It sets this key of ours, where the login is of that method.
    Key(&'static str, Of),
    /// It switches this key of ours to `true`.
    Switch(&'static str),
    /// A secret itself: it is put where this key of ours can name it.
    Secret(&'static str),
    /// The mount and the key in one path: `<mount>/keys/<key>`.
    KeyPath,
    /// The level of the log, in zap's words.
    LogLevel,
    /// A switch for the log level `debug`.
    DebugLevel,
    /// The port of the health endpoints.
    HealthPort,
    /// The port of the metrics; 0 is off.
    MetricsPort,
    /// It has no meaning here, and this is why.
    Obsolete(&'static str),
    /// The same, without a value.
    ObsoleteSwitch(&'static str),
}

use Meaning::{
    DebugLevel, HealthPort, Key, KeyPath, LogLevel, MetricsPort, Obsolete, ObsoleteSwitch, Secret, Switch,
};

const RENEWAL: &str = "a token is renewed by its own lease, and replaced before it ends";

/// The flags of the static pod of OpenShift's guide and the rest of that plugin's (vault-kubernetes-kms),
/// without their dashes. The sidecar's plugin has some of them, too.
#[rustfmt::skip]
const POD: &[(&str, Meaning)] = &[
    ("socket",                   Key("server.socket", Of::Any)),
    ("vault-address",            Key("vault.addresses", Of::Any)),
    ("vault-namespace",          Key("vault.namespace", Of::Any)),
    ("vault-ca-cert",            Key("vault.ca_file", Of::Any)),
    ("transit-mount",            Key("vault.transit.mount", Of::Any)),
    ("transit-key",              Key("vault.transit.key", Of::Any)),
    ("auth-method",              Key("vault.auth.method", Of::Any)),
    ("token",                    Secret("vault.auth.token_file")),
    ("approle-mount",            Key("vault.auth.mount", Of::AppRole)),
    ("approle-role-id",          Key("vault.auth.role_id", Of::AppRole)),
    ("approle-secret-id",        Secret("vault.auth.secret_id_file")),
    ("userpass-mount",           Key("vault.auth.mount", Of::Userpass)),
    ("userpass-username",        Key("vault.auth.username", Of::Userpass)),
    ("userpass-password",        Secret("vault.auth.password_file")),
    ("cert-mount",               Key("vault.auth.mount", Of::Cert)),
    ("cert-role",                Key("vault.auth.role", Of::Cert)),
    ("cert-file",                Key("vault.client_cert_file", Of::Any)),
    ("cert-key",                 Key("vault.client_key_file", Of::Any)),
    ("jwt-mount",                Key("vault.auth.mount", Of::Jwt)),
    ("jwt-role",                 Key("vault.auth.role", Of::Jwt)),
    ("jwt-token-path",           Key("vault.auth.jwt_file", Of::Jwt)),
    ("health-port",              HealthPort),
    ("debug",                    DebugLevel),
    ("force-socket-overwrite",   ObsoleteSwitch("a stale socket is always replaced, and a live one never")),
    ("token-refresh-interval",   Obsolete(RENEWAL)),
    ("token-renewal",            Obsolete(RENEWAL)),
    ("disable-v1",               ObsoleteSwitch("there is no KMS v1 here")),
    ("disable-v2",               ObsoleteSwitch("KMS v2 is all that there is")),
];

/// The flags that only the sidecar of OpenShift's operator has (vault-kube-kms).
#[rustfmt::skip]
const SIDECAR: &[(&str, Meaning)] = &[
    ("listen-address",           Key("server.socket", Of::Any)),
    ("vault-key-path",           KeyPath),
    ("vault-auth-namespace",     Key("vault.auth_namespace", Of::Any)),
    ("vault-connection-timeout", Obsolete("the time for a call comes from the caller's deadline; server.call_timeout bounds it")),
    ("approle-secret-id-path",   Key("vault.auth.secret_id_file", Of::AppRole)),
    ("auth-mount",               Key("vault.auth.mount", Of::Any)),
    ("tls-ca-file",              Key("vault.ca_file", Of::Any)),
    ("tls-sni",                  Key("vault.server_name", Of::Any)),
    ("tls-skip-verify",          Switch("vault.insecure_skip_verify")),
    ("metrics-port",             MetricsPort),
    ("zap-log-level",            LogLevel),
];

/// Every flag.
fn all() -> impl Iterator<Item = &'static (&'static str, Meaning)> {
    POD.iter().chain(SIDECAR)
}

/// What the plugin assumes whose flag or variable `spellings` are; it is the sidecar's as soon as one is.
pub(super) fn defaults<'a>(
    mut spellings: impl Iterator<Item = &'a str>,
) -> &'static [(&'static str, &'static str)] {
    let sidecar = |spelling: &str| {
        let flag = spelling.trim_start_matches('-');
        spelling.starts_with("VAULT_KUBE_KMS_") || SIDECAR.iter().any(|(name, _)| *name == flag)
    };
    match spellings.any(sidecar) {
        true => &[("server.socket", "/tmp/vault-kube-kms.socket")],
        false => &[("server.socket", "/opt/kms/vaultkms.socket"), ("vault.transit.key", "kms")],
    }
}

impl Meaning {
    /// Whether the flag stands for `true` when no value is given.
    pub(super) fn is_switch(self) -> bool {
        matches!(self, DebugLevel | Switch(_) | ObsoleteSwitch(_))
    }
}

/// The meaning of a variable that is not called like its flag.
pub(super) fn of_its_own_name(variable: &str) -> Option<Meaning> {
    match variable {
        "VAULT_KMS_VAULT_ADDR" => find("vault-address"),
        "VAULT_KMS_TOKEN_RENEWAL_SECONDS" => find("token-renewal"),
        _ => None,
    }
}

/// The flag that is most like `name`, when one is near enough to be meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let near = |(known, _): &(&'static str, Meaning)| (strsim::jaro_winkler(name, known), *known);
    let best = all().map(near).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.9).then_some(best.1)
}

/// What a flag of this name means.
pub(super) fn find(name: &str) -> Option<Meaning> {
    all().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::schema;

    #[test]
    fn every_key_exists_and_no_flag_is_ours_with_another_meaning() {
        for (name, meaning) in all() {
            if let Key(path, _) | Switch(path) | Secret(path) = meaning {
                assert!(schema::find(path).is_some(), "{name}: {path}");
            }
            if let Some(ours) = schema::KEYS.iter().find(|key| key.flag() == *name) {
                assert_eq!(*meaning, Key(ours.path, Of::Any), "{name} means two things");
            }
        }
    }

    #[test]
    fn the_documentation_has_the_same_flags() {
        let text = include_str!("../../docs/flags.md");
        let documented: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("| `-")?.split('`').next()).collect();
        let known: Vec<&str> = all().map(|(name, _)| *name).collect();
        assert_eq!(documented, known);
        for (name, meaning) in all() {
            if let Key(path, _) | Switch(path) | Secret(path) = meaning {
                let row = text.lines().find(|line| line.starts_with(&format!("| `-{name}`"))).unwrap();
                assert!(row.contains(path), "{row} does not name {path}");
            }
        }
    }
}
