//! `[vault]` and the `vault` table of each `decrypt_only` entry: as written, inherited, and validated into settings.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::auth::RawAuth;
use super::defaults;
use super::name::{is_host_name, normalise, plain_path, plain_segment};
use super::validate::Validator;
use super::vault::{Tls, Transit, Vault, is_loopback, without_userinfo};

/// Highest key_id epoch; ids of every epoch up to the current one are accepted in Decrypt.
const MAX_EPOCH: i64 = 255;
/// Most addresses of one cluster.
const MAX_ADDRESSES: usize = 16;

/// `[vault]` as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawVault {
    addresses: Option<Vec<String>>,
    namespace: Option<String>,
    auth_namespace: Option<String>,
    ca_file: Option<PathBuf>,
    server_name: Option<String>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    insecure_skip_verify: Option<bool>,
    insecure_plain_http: Option<bool>,
    transit: RawTransit,
    auth: Option<RawAuth>,
    #[serde(skip)]
    shares_login: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawTransit {
    mount: Option<String>,
    key: Option<String>,
    key_id_epoch: i64,
    expect_created: Option<i64>,
    accept_foreign_ciphertext: Option<bool>,
}

impl RawVault {
    /// A `decrypt_only` entry inherits from `[vault]` what it does not set. An entry with addresses of its own is for
    /// another cluster: it inherits nothing and must have a login, so that no credential is sent to the wrong
    /// cluster.
    pub(super) fn inherit(self, main: &Self, check: &mut Validator<'_>, prefix: &str) -> Option<Self> {
        if self.addresses.is_some() {
            if self.auth.is_none() {
                check.problem(
                    &format!("{prefix}.auth"),
                    "an entry with addresses of its own needs an auth table of its own, so that no credential is sent to the wrong cluster",
                );
                return None;
            }
            return Some(self);
        }
        // An inherited login stays in its own namespace, also when the key is in another one.
        let main_auth = main.auth_namespace.clone().or_else(|| main.namespace.clone());
        let auth_namespace = match &self.auth {
            None => self.auth_namespace.clone().or(main_auth.clone()),
            Some(_) => self.auth_namespace.clone(),
        };
        let shares_login = self.auth.is_none()
            && self.ca_file.is_none()
            && self.server_name.is_none()
            && self.client_cert_file.is_none()
            && self.client_key_file.is_none()
            && self.insecure_skip_verify.is_none()
            && auth_namespace == main_auth;
        Some(Self {
            addresses: main.addresses.clone(),
            namespace: self.namespace.or_else(|| main.namespace.clone()),
            auth_namespace,
            ca_file: self.ca_file.or_else(|| main.ca_file.clone()),
            server_name: self.server_name.or_else(|| main.server_name.clone()),
            client_cert_file: self.client_cert_file.or_else(|| main.client_cert_file.clone()),
            client_key_file: self.client_key_file.or_else(|| main.client_key_file.clone()),
            insecure_skip_verify: self.insecure_skip_verify.or(main.insecure_skip_verify),
            insecure_plain_http: self.insecure_plain_http.or(main.insecure_plain_http),
            transit: self.transit,
            auth: self.auth.or_else(|| main.auth.clone()),
            shares_login,
        })
    }

    pub(super) fn validate(self, check: &mut Validator<'_>, prefix: &str) -> Option<Vault> {
        let key = |name: &str| format!("{prefix}.{name}");
        let plain_http = self.insecure_plain_http.unwrap_or_default();
        let addresses = addresses(&key("addresses"), self.addresses.unwrap_or_default(), plain_http, check);
        let namespace = normalise(self.namespace.as_deref().unwrap_or_default());
        let auth_namespace = self.auth_namespace.as_deref().map_or_else(|| namespace.clone(), normalise);
        for (name, path) in [("namespace", &namespace), ("auth_namespace", &auth_namespace)] {
            if !path.is_empty() && !plain_path(path) {
                check.problem(&key(name), format!("{path:?} is not the path of a namespace"));
            }
        }
        if let Some(name) = self.server_name.as_deref().filter(|name| !is_host_name(name)) {
            check.problem(
                &key("server_name"),
                format!("{name:?} is not a host name that a certificate can contain"),
            );
        }
        let client = match (self.client_cert_file, self.client_key_file) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                check.problem(
                    &key("client_cert_file"),
                    "client_cert_file needs client_key_file, and the other way round; set both or neither",
                );
                None
            }
        };
        let transit = self.transit.validate(check, prefix);
        let auth = self.auth.unwrap_or_default().validate(check, prefix, client.is_some());
        Some(Vault {
            addresses,
            auth_namespace,
            namespace,
            tls: Tls {
                ca_file: self.ca_file,
                server_name: self.server_name,
                client,
                skip_verify: self.insecure_skip_verify.unwrap_or_default(),
            },
            transit: transit?,
            auth: auth?,
            shares_login: self.shares_login,
        })
    }
}

impl RawTransit {
    fn validate(self, check: &mut Validator<'_>, prefix: &str) -> Option<Transit> {
        let key_path = format!("{prefix}.transit.key");
        let key = match self.key.as_deref().map(str::trim) {
            None | Some("") => {
                check.problem(
                    &key_path,
                    "the name of the Transit key is missing; the key must exist in Vault",
                );
                return None;
            }
            Some(key) if !plain_segment(key) => {
                check.problem(
                    &key_path,
                    format!("{key:?} is not the name of a Transit key: letters, digits, '.', '_', '-'"),
                );
                return None;
            }
            Some(key) => key.to_owned(),
        };
        let mount = normalise(self.mount.as_deref().unwrap_or(defaults::text("vault.transit.mount")));
        if !plain_path(&mount) {
            check.problem(&format!("{prefix}.transit.mount"), format!("{mount:?} is not a mount path"));
        }
        if !(0..=MAX_EPOCH).contains(&self.key_id_epoch) {
            check.problem(
                &format!("{prefix}.transit.key_id_epoch"),
                format!("must be between 0 and {MAX_EPOCH}"),
            );
        }
        Some(Transit {
            mount,
            key,
            key_id_epoch: u32::try_from(self.key_id_epoch).unwrap_or_default(),
            expect_created: self.expect_created,
            accept_foreign_ciphertext: self
                .accept_foreign_ciphertext
                .unwrap_or_else(|| defaults::switch("vault.transit.accept_foreign_ciphertext")),
        })
    }
}

fn addresses(key: &str, texts: Vec<String>, plain_http: bool, check: &mut Validator<'_>) -> Vec<Url> {
    if texts.is_empty() {
        check.problem(
            key,
            "no address of Vault or OpenBao is given, such as [\"https://vault.example:8200\"]",
        );
    }
    if texts.len() > MAX_ADDRESSES {
        check.problem(key, format!("{} addresses are given; the limit is {MAX_ADDRESSES}", texts.len()));
    }
    let mut urls: Vec<Url> = Vec::new();
    for text in texts {
        match address(&text, plain_http) {
            Ok(url) if urls.contains(&url) => check.problem(key, format!("{text:?} is given twice")),
            Ok(url) => urls.push(url),
            Err(message) => check.problem(key, format!("{:?} {message}", without_userinfo(&text))),
        }
    }
    urls
}

fn address(text: &str, plain_http: bool) -> Result<Url, String> {
    if !text.contains("://") {
        return Err(format!("has no scheme; write https://{text}"));
    }
    let url = Url::parse(text).map_err(|error| format!("is not an address: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("must begin with https://".into());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password".into());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("must end after the port; set the mount with vault.transit.mount and the namespace with vault.namespace".into());
    }
    if url.scheme() == "http" && !plain_http && !is_loopback(&url) {
        return Err(
            "is plain HTTP beyond loopback: anyone between the agent and the server could read every DEK seed; use https://".into(),
        );
    }
    Ok(url)
}
