//! The flags of two other Transit plugins, and the meaning of each here.
//!
//! docs/flags.md shows the same table; a test compares the two.

/// The prefixes of the other plugins' variables. The flag's name in capitals follows.
pub(super) const PREFIXES: [&str; 2] = ["VAULT_KMS_", "VAULT_KUBE_KMS_"];

/// The login method that a flag belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Any,
    AppRole,
    Userpass,
    Cert,
    Jwt,
    /// A JWT in a file.
    JwtFile,
    /// A JWT of the SPIFFE Workload API.
    JwtSvid,
}

/// What a flag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It sets this key of ours, when the login uses that method.
    Key(&'static str, Of),
    /// It sets this key of ours to `true`.
    Switch(&'static str),
    /// A secret. It is written to a file, and this key of ours names the file.
    Secret(&'static str),
    /// The mount and the key in one path: `<mount>/keys/<key>`.
    KeyPath,
    /// A file with a certificate and its key.
    CertAndKey,
    /// Where a JWT comes from: a file, or SPIFFE's Workload API.
    TokenSource,
    /// The level of the log, as the other plugins and the library zap name it.
    LogLevel,
    /// A switch that sets the log level `debug`.
    DebugLevel,
    /// The port of the health endpoints.
    HealthPort,
    /// The port of the metrics; 0 turns them off.
    MetricsPort,
    /// It has no effect here, for this reason.
    Obsolete(&'static str),
    /// The same, for a switch.
    ObsoleteSwitch(&'static str),
}

use Meaning::{
    CertAndKey, DebugLevel, HealthPort, Key, KeyPath, LogLevel, MetricsPort, Obsolete, ObsoleteSwitch,
    Secret, Switch, TokenSource,
};

const RENEWAL: &str = "the token's lease decides when the agent renews it";

/// The flags of vault-kubernetes-kms, which the static pod of OpenShift's guide runs, without their dashes.
/// vault-kube-kms has some of them, too.
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
    ("cert-pem",                 CertAndKey),
    ("jwt-mount",                Key("vault.auth.mount", Of::Jwt)),
    ("jwt-role",                 Key("vault.auth.role", Of::Jwt)),
    ("jwt-token-path",           Key("vault.auth.jwt_file", Of::JwtFile)),
    ("jwt-token-source",         TokenSource),
    ("jwt-spiffe-endpoint",      Key("vault.spiffe.socket", Of::JwtSvid)),
    ("jwt-spiffe-audience",      Key("vault.spiffe.audience", Of::JwtSvid)),
    ("jwt-spiffe-id",            Key("vault.spiffe.id", Of::JwtSvid)),
    ("health-port",              HealthPort),
    ("debug",                    DebugLevel),
    ("force-socket-overwrite",   ObsoleteSwitch("the agent always replaces a stale socket, and never a socket in use")),
    ("token-refresh-interval",   Obsolete(RENEWAL)),
    ("token-renewal",            Obsolete(RENEWAL)),
    ("disable-v1",               ObsoleteSwitch("kms-plugin has no KMS v1")),
    ("disable-v2",               ObsoleteSwitch("kms-plugin has only KMS v2")),
];

/// The flags that only vault-kube-kms has, the sidecar of OpenShift's operator.
#[rustfmt::skip]
const SIDECAR: &[(&str, Meaning)] = &[
    ("listen-address",           Key("server.socket", Of::Any)),
    ("vault-key-path",           KeyPath),
    ("vault-auth-namespace",     Key("vault.auth_namespace", Of::Any)),
    ("vault-connection-timeout", Obsolete("the caller's deadline limits each call, and so does server.call_timeout")),
    ("approle-secret-id-path",   Key("vault.auth.secret_id_file", Of::AppRole)),
    ("auth-mount",               Key("vault.auth.mount", Of::Any)),
    ("tls-ca-file",              Key("vault.ca_file", Of::Any)),
    ("tls-sni",                  Key("vault.server_name", Of::Any)),
    ("tls-skip-verify",          Switch("vault.insecure_skip_verify")),
    ("metrics-port",             MetricsPort),
    ("log-level",                LogLevel),
    ("zap-log-level",            LogLevel),
    ("disable-runtime-metrics",  ObsoleteSwitch("kms-plugin has no metrics of a language's runtime")),
];

/// Variables of the client libraries of Vault and of SPIFFE, which the other plugins read through them.
#[rustfmt::skip]
const CLIENT: &[(&str, Meaning)] = &[
    ("VAULT_CACERT",             Key("vault.ca_file", Of::Any)),
    ("VAULT_NAMESPACE",          Key("vault.namespace", Of::Any)),
    ("VAULT_TLS_SERVER_NAME",    Key("vault.server_name", Of::Any)),
    ("VAULT_CAPATH",             Obsolete("name one file with the authorities: vault.ca_file")),
    ("VAULT_CLIENT_CERT",        Obsolete("set vault.client_cert_file")),
    ("VAULT_CLIENT_KEY",         Obsolete("set vault.client_key_file")),
    ("VAULT_SKIP_VERIFY",        Obsolete("set vault.insecure_skip_verify, if the certificate really must not be checked")),
    ("VAULT_CLIENT_TIMEOUT",     Obsolete("the caller's deadline limits each call, and so does server.call_timeout")),
    ("SPIFFE_ENDPOINT_SOCKET",   Key("vault.spiffe.socket", Of::JwtSvid)),
];

/// The meaning of a variable of a client library: other programs read it, too.
pub(super) fn of_client(variable: &str) -> Option<Meaning> {
    CLIENT.iter().find(|(name, _)| *name == variable).map(|(_, meaning)| *meaning)
}

fn all() -> impl Iterator<Item = &'static (&'static str, Meaning)> {
    POD.iter().chain(SIDECAR)
}

/// The defaults of the plugin whose flags or variables are given: of the sidecar, when one of them is only the
/// sidecar's.
pub(super) fn defaults<'a>(
    mut spellings: impl Iterator<Item = &'a str>,
) -> &'static [(&'static str, &'static str)] {
    let sidecar = |spelling: &str| {
        let flag = spelling.trim_start_matches('-');
        // `-log-level` is ours, too.
        spelling.starts_with("VAULT_KUBE_KMS_")
            || SIDECAR.iter().any(|(name, _)| *name == flag && *name != "log-level")
    };
    match spellings.any(sidecar) {
        true => &[("server.socket", "/tmp/vault-kube-kms.socket")],
        false => &[("server.socket", "/opt/kms/vaultkms.socket"), ("vault.transit.key", "kms")],
    }
}

impl Meaning {
    /// Whether the flag means `true` when it has no value.
    pub(super) fn is_switch(self) -> bool {
        matches!(self, DebugLevel | Switch(_) | ObsoleteSwitch(_))
    }
}

/// The meaning of a variable that does not have its flag's name.
pub(super) fn of_its_own_name(variable: &str) -> Option<Meaning> {
    match variable {
        "VAULT_KMS_VAULT_ADDR" => find("vault-address"),
        "VAULT_KMS_VAULT_CACERT" => find("vault-ca-cert"),
        "VAULT_KMS_VAULT_TOKEN" => find("token"),
        "VAULT_KMS_TOKEN_RENEWAL_SECONDS" => find("token-renewal"),
        _ => None,
    }
}

/// The flag that is most like `name`; `None` when none is similar.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let near = |(known, _): &(&'static str, Meaning)| (strsim::jaro_winkler(name, known), *known);
    let best = all().map(near).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.9).then_some(best.1)
}

/// The meaning of the flag with this name.
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
                // The other plugin has more levels; ours mean the same there.
                let same =
                    *meaning == Key(ours.path, Of::Any) || (*meaning == LogLevel && ours.path == "log.level");
                assert!(same, "{name} means two things");
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
