//! Every key of the configuration: its path, type, default and help text. Its flag and variable follow from the path.
//!
//! The check of files, the environment, the flags, the settings' defaults, the man page and the suggestion for a
//! misspelt key all use this table. Must not know what the values are for.

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

/// The value of a key that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// There is none.
    None,
    /// This value, as a flag would give it. The settings take their defaults from it.
    Value(&'static str),
    /// A value that depends on something else: this text describes it.
    Described(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The path in the file, joined by dots.
    pub path: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// Its value when nobody sets it.
    pub default: DefaultValue,
    /// One line of help.
    pub help: &'static str,
}

impl Key {
    /// The environment variable: `KMS_PLUGIN_VAULT_TRANSIT_KEY`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.path.replace('.', "_").to_uppercase())
    }

    /// The flag without its dashes: `vault-transit-key`.
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// The table that holds the key, and the key's name in it: `vault.transit` and `mount`.
    pub fn table_and_name(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }

    /// Whether an empty text is a value of its own: it turns the admin address off. An empty variable of any other key
    /// is a mistake, such as a template that was not filled in.
    pub(crate) fn may_be_empty(&self) -> bool {
        self.path == "server.admin"
    }

    /// The default, to show it; `None` when there is none.
    pub fn shown_default(&self) -> Option<&'static str> {
        match self.default {
            DefaultValue::None => None,
            DefaultValue::Value(text) | DefaultValue::Described(text) => Some(text),
        }
    }
}

/// The prefix of each variable.
pub(crate) const VARIABLE_PREFIX: &str = "KMS_PLUGIN_";

/// Directory of the admin socket and of the saved key identity: the default of `server.runtime_dir`. Commands look
/// there for an agent when they cannot read its configuration.
pub(crate) const DEFAULT_RUNTIME_DIR: &str = "/run/kms-plugin";

const fn key(path: &'static str, kind: Kind, default: DefaultValue, help: &'static str) -> Key {
    Key { path, kind, default, help }
}

use DefaultValue::{Described, None as Unset, Value};

/// Every key that is not inside a list of tables.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("server.socket", Kind::Text, Value("/run/kmsplugin/kms.sock"),
        "Unix socket that kube-apiserver connects to; it may begin with `unix://`"),
    key("server.admin", Kind::Text, Value("127.0.0.1:8690"),
        "Address of /healthz, /livez, /readyz, /metrics and /status; empty turns it off"),
    key("server.insecure_admin_beyond_loopback", Kind::Boolean, Value("false"),
        "Let server.admin listen on an address that other machines can reach; it has no TLS"),
    key("server.admin_hosts", Kind::TextList, Unset,
        "Host names under which /status is answered, beside localhost and IP addresses; any name will do for probes and /metrics"),
    key("server.runtime_dir", Kind::Text, Value(DEFAULT_RUNTIME_DIR),
        "Directory of the admin socket and of the saved key identity; $RUNTIME_DIRECTORY when set"),
    key("server.state_dir", Kind::Text, Value("/var/lib/kms-plugin"),
        "Directory of the list of wrapped local KEKs; $STATE_DIRECTORY when set"),
    key("server.allowed_uids", Kind::IntegerList, Described("0 and the agent's own"),
        "User ids that may call the socket"),
    key("server.max_in_flight", Kind::Integer, Value("256"),
        "Most Encrypt and Decrypt calls at the same time; the agent refuses further calls, without a queue"),
    key("server.call_timeout", Kind::Duration, Value("10s"),
        "Longest time for one call; a shorter deadline of the caller applies instead"),
    key("server.drain_timeout", Kind::Duration, Value("10s"),
        "How long a stopping agent waits for unfinished calls"),
    key("vault.addresses", Kind::TextList, Unset,
        "Addresses of one Vault or OpenBao cluster, tried in this order: https://host:port, with the path prefix of a gateway, or unix:///path"),
    key("vault.proxy", Kind::Text, Unset,
        "Forward proxy to addresses on other machines: http://host:port or http://user@host:port; never taken from HTTPS_PROXY"),
    key("vault.proxy_password_file", Kind::Text, Unset,
        "File that holds the password of the user in vault.proxy"),
    key("vault.proxy_credential", Kind::Text, Unset,
        "Name of the systemd credential to read instead of vault.proxy_password_file"),
    key("vault.proxy_except", Kind::TextList, Unset,
        "Hosts in vault.addresses, or domains such as .example, that the agent connects to without the proxy"),
    key("vault.namespace", Kind::Text, Unset,
        "Namespace of the Transit mount"),
    key("vault.auth_namespace", Kind::Text, Described("vault.namespace"),
        "Namespace of the login, when it is another one"),
    key("vault.ca_file", Kind::Text, Described("the system's roots"),
        "PEM file of the certificate authorities that sign the servers' certificates"),
    key("vault.server_name", Kind::Text, Described("the address's host"),
        "Name to request (SNI) and to verify in the servers' certificates"),
    key("vault.client_cert_file", Kind::Text, Unset,
        "PEM file of a client certificate and its chain"),
    key("vault.client_key_file", Kind::Text, Unset,
        "PEM file of the client certificate's private key"),
    key("vault.insecure_skip_verify", Kind::Boolean, Value("false"),
        "Accept any server certificate; anyone between the agent and the server can then read every DEK seed"),
    key("vault.insecure_plain_http", Kind::Boolean, Value("false"),
        "Accept http:// beyond loopback; anyone between the agent and the server can then read every DEK seed"),
    key("vault.spiffe.socket", Kind::Text, Unset,
        "jwt, cert: unix socket of the SPIFFE Workload API, for an identity instead of files; not taken from SPIFFE_ENDPOINT_SOCKET"),
    key("vault.spiffe.audience", Kind::Text, Unset,
        "jwt: audience of the JWT-SVID, as the role's bound_audiences has it"),
    key("vault.spiffe.id", Kind::Text, Described("the first that the API gives"),
        "SPIFFE ID to use, when the agent has several"),
    key("vault.transit.mount", Kind::Text, Value("transit"),
        "Mount path of the Transit engine"),
    key("vault.transit.key", Kind::Text, Unset,
        "Name of the Transit key; it must exist, because the agent never creates it"),
    key("vault.transit.key_id_epoch", Kind::Integer, Value("0"),
        "Add one to return to a key that was used before, so that no key_id is used twice"),
    key("vault.transit.expect_created", Kind::Integer, Unset,
        "Creation time of the key's newest version in Unix seconds; set it to accept a replaced key"),
    key("vault.transit.accept_foreign_ciphertext", Kind::Boolean, Value("true"),
        "Decrypt data that another Transit plugin encrypted with the same key"),
    key("vault.auth.method", Kind::Text, Unset,
        "token, approle, userpass, cert, jwt, kubernetes; or none: a Vault or OpenBao proxy on this machine logs in"),
    key("vault.auth.mount", Kind::Text, Described("the method's name"),
        "Mount path of the auth method"),
    key("vault.auth.token_file", Kind::Text, Unset,
        "token: file that holds the token"),
    key("vault.auth.role_id", Kind::Text, Unset,
        "approle: the role-id, which is no secret by itself"),
    key("vault.auth.role_id_file", Kind::Text, Unset,
        "approle: file that holds the role-id"),
    key("vault.auth.secret_id_file", Kind::Text, Unset,
        "approle: file that holds the secret-id; leave it out for a role with bind_secret_id=false"),
    key("vault.auth.secret_id_wrapped", Kind::Boolean, Value("false"),
        "approle: the file holds a response-wrapping token of the secret-id; the agent unwraps it once"),
    key("vault.auth.username", Kind::Text, Unset,
        "userpass: the user's name"),
    key("vault.auth.password_file", Kind::Text, Unset,
        "userpass: file that holds the password"),
    key("vault.auth.role", Kind::Text, Unset,
        "cert, jwt, kubernetes: the role to log in with"),
    key("vault.auth.jwt_file", Kind::Text, Described("kubernetes: the pod's service account token"),
        "jwt, kubernetes: file that holds the JWT"),
    key("vault.auth.credential", Kind::Text, Unset,
        "Name of the systemd credential to read instead of the method's secret file"),
    key("vault.auth.allow_world_readable", Kind::Boolean, Value("false"),
        "Accept a secret file that every user of the machine can read"),
    key("health.outage_grace", Kind::Duration, Value("1h"),
        "How long Status stays ok while the agent cannot reach the key service: 0 to unlimited"),
    key("health.ready_timeout", Kind::Duration, Value("10s"),
        "Longest time until the agent reports readiness at a start, while it does not know whether Vault works"),
    key("health.key_check_interval", Kind::Duration, Value("60s"),
        "How often the agent reads the key's versions; it notices a rotation at most this late"),
    key("health.probe_interval", Kind::Duration, Value("90s"),
        "How often the agent probes: wraps and unwraps random bytes in the background"),
    key("health.sealed", Kind::Text, Value("outage"),
        "What a sealed Vault counts as: `outage` (Status stays ok for the grace period) or `denied`"),
    key("local_kek.enabled", Kind::Boolean, Value("false"),
        "Wrap DEK seeds with a local KEK, so that API servers can restart while Vault is unreachable"),
    key("local_kek.max_offline", Kind::Duration, Value("8h"),
        "How long the agent uses local KEKs, and Status stays ok, without contact to Vault; replaces health.outage_grace"),
    key("local_kek.max_age", Kind::Duration, Value("24h"),
        "The age at which the agent makes a new local KEK"),
    key("local_kek.max_uses", Kind::Integer, Value("1000000"),
        "The number of wrapped DEK seeds at which the agent makes a new local KEK"),
    key("log.level", Kind::Text, Value("info"),
        "error, warn, info, debug or trace"),
    key("log.target", Kind::Text, Value("auto"),
        "journal, stderr, or auto: the journal when stderr is connected to it"),
];

/// The list of tables whose entries hold a name and a `vault` table.
pub const DECRYPT_ONLY: &str = "decrypt_only";
/// The key of an entry's name, for logs.
pub const DECRYPT_ONLY_NAME: &str = "name";

/// The key with this path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a table that holds keys.
pub fn is_table(path: &str) -> bool {
    tables().any(|table| table == path)
}

/// Each table that holds keys or tables. One may come several times.
fn tables() -> impl Iterator<Item = &'static str> {
    KEYS.iter().flat_map(|key| key.path.match_indices('.').filter_map(|(dot, _)| key.path.get(..dot)))
}

/// The known key or table that is most like `path`; `None` when none is similar.
pub fn nearest(path: &str) -> Option<&'static str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let best = KEYS
        .iter()
        .map(|key| key.path)
        .chain(tables())
        .chain([DECRYPT_ONLY])
        .map(|known| {
            let whole = strsim::jaro_winkler(path, known);
            // A right name in the wrong table is similar, too. A path that only lacks its first tables is the most
            // similar.
            let name = strsim::jaro_winkler(&last(path), &last(known)) * 0.99;
            let lacks_tables = known.strip_suffix(path).is_some_and(|head| head.ends_with('.'));
            (known, if lacks_tables { 1.0 } else { whole.max(name) })
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (best.1 > 0.8).then_some(best.0)
}

/// The known variable that is most like `variable`.
pub(crate) fn nearest_variable(variable: &str) -> String {
    let path = variable.trim_start_matches(VARIABLE_PREFIX).to_lowercase();
    let similarity = |key: &Key| strsim::jaro_winkler(&path, &key.path.replace('.', "_"));
    let nearest = KEYS.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    nearest.map(Key::variable).unwrap_or_default()
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
        assert_eq!(nearest("local_kek.max_ofline"), Some("local_kek.max_offline"));
        assert_eq!(nearest("zzzz"), None);
    }

    #[test]
    fn every_misspelt_table_gets_a_suggestion() {
        let mut found: Vec<&str> = tables().collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(
            found,
            ["health", "local_kek", "log", "server", "vault", "vault.auth", "vault.spiffe", "vault.transit"]
        );
        for table in found.into_iter().chain([DECRYPT_ONLY]) {
            assert!(table == DECRYPT_ONLY || is_table(table), "{table}");
            for at in 1..table.len() {
                let (head, tail) = table.split_at(at);
                let doubled = format!("{head}{}{tail}", &tail[..1]);
                assert!(nearest(&doubled).is_some(), "{doubled}");
                let shortened = format!("{head}{}", &tail[1..]);
                // Two letters of `log` are not similar to anything.
                assert!(table == "log" || nearest(&shortened).is_some(), "{shortened}");
            }
        }
        assert_eq!(nearest("local_kekk"), Some("local_kek"));
        assert_eq!(nearest("localkek"), Some("local_kek"));
        assert_eq!(nearest("helth"), Some("health"));
    }
}
