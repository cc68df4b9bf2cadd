//! Every key of the configuration, once: its path, type, help text, and so its flag and variable.
//!
//! The file checker, the environment, the flags, the man page and the nearest-name hint all read this
//! table. Must not know values or their meaning.

/// The type of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Several texts: a list in a file, separated by commas in a flag or a variable.
    TextList,
    /// A whole number.
    Integer,
    /// Several whole numbers, in the same two forms.
    IntegerList,
    /// `true` or `false`; as a flag also without a value.
    Boolean,
    /// A time with its unit, such as `90s`, `1h 30m`.
    Duration,
}

impl Kind {
    /// What a value must look like, for an error text.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Text => "text in quotes",
            Self::TextList => "a list of texts, such as [\"one\", \"two\"]",
            Self::Integer => "a whole number",
            Self::IntegerList => "a list of whole numbers, such as [0, 1000]",
            Self::Boolean => "true or false",
            Self::Duration => "a time with its unit in quotes, such as \"90s\" or \"1h\"",
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The path in the file, joined by dots.
    pub path: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// The default as shown to people; empty when there is none.
    pub default: &'static str,
    /// One line of help.
    pub help: &'static str,
}

impl Key {
    /// The environment variable: `KMS_PLUGIN_VAULT_TRANSIT_KEY`.
    pub fn variable(&self) -> String {
        format!("KMS_PLUGIN_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// The flag without its dashes: `vault-transit-key`.
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }
}

const fn key(path: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { path, kind, default, help }
}

/// Every key that is not inside a list of tables.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("server.socket", Kind::Text, "/run/kmsplugin/kms.sock",
        "Unix socket that kube-apiserver connects to; `unix://` is accepted in front"),
    key("server.admin", Kind::Text, "127.0.0.1:8690",
        "Address of /healthz, /livez, /readyz, /metrics and /status; empty turns it off"),
    key("server.insecure_admin_beyond_loopback", Kind::Boolean, "false",
        "Let server.admin listen on an address that other machines reach, without TLS"),
    key("server.runtime_dir", Kind::Text, "/run/kms-plugin",
        "Directory of the admin socket and of the saved key identity; $RUNTIME_DIRECTORY when set"),
    key("server.state_dir", Kind::Text, "/var/lib/kms-plugin",
        "Directory of the list of wrapped keys, with local KEKs; $STATE_DIRECTORY when set"),
    key("server.allowed_uids", Kind::IntegerList, "0 and the agent's own",
        "User ids whose processes may call the socket"),
    key("server.max_in_flight", Kind::Integer, "256",
        "Encrypt and Decrypt calls under way at once; one more is refused, not queued"),
    key("server.call_timeout", Kind::Duration, "10s",
        "Longest time for one call; a shorter deadline of the caller wins"),
    key("server.drain_timeout", Kind::Duration, "10s",
        "How long a stop waits for calls under way"),
    key("vault.addresses", Kind::TextList, "",
        "Addresses of one Vault or OpenBao cluster, tried in this order: https://host:port"),
    key("vault.namespace", Kind::Text, "",
        "Namespace of the Transit mount"),
    key("vault.auth_namespace", Kind::Text, "vault.namespace",
        "Namespace of the login, where it differs"),
    key("vault.ca_file", Kind::Text, "the system's roots",
        "PEM file of the certificate authorities that sign the servers' certificates"),
    key("vault.server_name", Kind::Text, "the address's host",
        "Name to ask for and to verify in the servers' certificates"),
    key("vault.client_cert_file", Kind::Text, "",
        "PEM file of a client certificate and its chain"),
    key("vault.client_key_file", Kind::Text, "",
        "PEM file of the client certificate's private key"),
    key("vault.insecure_skip_verify", Kind::Boolean, "false",
        "Accept any server certificate: whoever is in the way then reads every DEK seed"),
    key("vault.insecure_plain_http", Kind::Boolean, "false",
        "Accept http:// beyond loopback: whoever is in the way then reads every DEK seed"),
    key("vault.transit.mount", Kind::Text, "transit",
        "Mount path of the Transit engine"),
    key("vault.transit.key", Kind::Text, "",
        "Name of the Transit key; it must exist, it is never created"),
    key("vault.transit.key_id_epoch", Kind::Integer, "0",
        "Raise by one to come back to a key that was used before, so that no key_id is used twice"),
    key("vault.transit.expect_created", Kind::Integer, "",
        "Creation time of the key's newest version in unix seconds; accepts a replaced key deliberately"),
    key("vault.transit.accept_foreign_ciphertext", Kind::Boolean, "true",
        "Decrypt data that another Transit plugin wrote with the same key"),
    key("vault.auth.method", Kind::Text, "",
        "token, approle, userpass, cert, jwt or kubernetes"),
    key("vault.auth.mount", Kind::Text, "the method's name",
        "Mount path of the auth method"),
    key("vault.auth.token_file", Kind::Text, "",
        "token: file that holds the token"),
    key("vault.auth.role_id", Kind::Text, "",
        "approle: the role-id, which is no secret by itself"),
    key("vault.auth.role_id_file", Kind::Text, "",
        "approle: file that holds the role-id"),
    key("vault.auth.secret_id_file", Kind::Text, "",
        "approle: file that holds the secret-id"),
    key("vault.auth.secret_id_wrapped", Kind::Boolean, "false",
        "approle: the file holds a response-wrapping token of the secret-id, used once"),
    key("vault.auth.username", Kind::Text, "",
        "userpass: the user's name"),
    key("vault.auth.password_file", Kind::Text, "",
        "userpass: file that holds the password"),
    key("vault.auth.role", Kind::Text, "",
        "cert, jwt, kubernetes: the role to log in with"),
    key("vault.auth.jwt_file", Kind::Text, "kubernetes: the pod's service account token",
        "jwt, kubernetes: file that holds the JWT"),
    key("vault.auth.credential", Kind::Text, "",
        "Name of a systemd credential that takes the place of the method's secret file"),
    key("vault.auth.allow_world_readable", Kind::Boolean, "false",
        "Accept a secret file that every user of the machine can read"),
    key("health.outage_grace", Kind::Duration, "1h",
        "How long Status stays ok while the key service cannot be reached; 0 to unlimited"),
    key("health.ready_timeout", Kind::Duration, "30s",
        "How long readiness waits for the first good round trip"),
    key("health.key_check_interval", Kind::Duration, "60s",
        "How often the key's versions are read: how late a rotation is seen"),
    key("health.probe_interval", Kind::Duration, "90s",
        "How often a round trip is tried in the background"),
    key("health.sealed", Kind::Text, "outage",
        "What a sealed Vault is: `outage` (ridden out for the grace) or `denied`"),
    key("local_kek.enabled", Kind::Boolean, "false",
        "Wrap with a key of the agent's own, so that API servers can restart while Vault is away"),
    key("local_kek.max_offline", Kind::Duration, "8h",
        "How long keys are used, and Status stays ok, without having reached Vault; instead of health.outage_grace"),
    key("local_kek.max_age", Kind::Duration, "24h",
        "The age at which a new local KEK is made"),
    key("local_kek.max_uses", Kind::Integer, "1000000",
        "How many DEK seeds one local KEK wraps at most"),
    key("log.level", Kind::Text, "info",
        "error, warn, info, debug or trace"),
    key("log.target", Kind::Text, "auto",
        "journal, stderr, or auto: the journal when stderr leads there"),
];

/// Keys of a `[[decrypt_only]]` entry beside its `[decrypt_only.vault]` table.
pub const DECRYPT_ONLY: &str = "decrypt_only";
/// The entry's name, for logs.
pub const DECRYPT_ONLY_NAME: &str = "name";

/// The key with this path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a table that holds keys.
pub fn is_table(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The known key that is most like `path`, when one is near enough to be meant.
pub fn nearest(path: &str) -> Option<&'static str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let tables = ["server", "vault", "vault.transit", "vault.auth", "health", "log", DECRYPT_ONLY];
    let best = KEYS
        .iter()
        .map(|key| key.path)
        .chain(tables)
        .map(|known| {
            let whole = strsim::jaro_winkler(path, known);
            // A right name in the wrong table counts as near, too; a path that only lacks its first
            // tables is the nearest of all.
            let name = strsim::jaro_winkler(&last(path), &last(known)) * 0.99;
            let tail = known.strip_suffix(path).is_some_and(|head| head.ends_with('.'));
            (known, if tail { 1.0 } else { whole.max(name) })
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (best.1 > 0.8).then_some(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_flags_and_variables_are_unique() {
        let mut flags: Vec<String> = KEYS.iter().map(Key::flag).collect();
        let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
        for names in [&mut flags, &mut variables] {
            names.sort();
            names.dedup();
            assert_eq!(names.len(), KEYS.len());
        }
    }

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        assert_eq!(nearest("vault.adresses"), Some("vault.addresses"));
        assert_eq!(nearest("vault.transit.keyname"), Some("vault.transit.key"));
        assert_eq!(nearest("health.outagegrace"), Some("health.outage_grace"));
        assert_eq!(nearest("transit.mount"), Some("vault.transit.mount"));
        assert_eq!(nearest("vualt"), Some("vault"));
        assert_eq!(nearest("zzzz"), None);
    }
}
