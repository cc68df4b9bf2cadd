//! `[vault]` and the `vault` table of each `decrypt_only` entry: as written, inherited, and validated into settings.

use std::path::PathBuf;

use serde::Deserialize;

use super::auth::RawAuth;
use super::defaults;
use super::endpoint::{Endpoint, without_userinfo};
use super::forward_proxy::{ForwardProxy, RawForwardProxy};
use super::name::{is_host_name, normalise, plain_path, plain_segment};
use super::spiffe::RawSpiffe;
use super::validate::Validator;
use super::vault::{Method, Tls, Transit, Vault};

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
    proxy: Option<String>,
    proxy_password_file: Option<PathBuf>,
    proxy_credential: Option<String>,
    proxy_except: Option<Vec<String>>,
    spiffe: Option<RawSpiffe>,
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
            && self.spiffe.is_none()
            && self.proxy.is_none()
            && self.proxy_password_file.is_none()
            && self.proxy_credential.is_none()
            && self.proxy_except.is_none()
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
            proxy_password_file: self.proxy_password_file.or_else(|| main.proxy_password_file.clone()),
            proxy_credential: self.proxy_credential.or_else(|| main.proxy_credential.clone()),
            proxy_except: self.proxy_except.or_else(|| main.proxy_except.clone()),
            proxy: self.proxy.or_else(|| main.proxy.clone()),
            spiffe: self.spiffe.or_else(|| main.spiffe.clone()),
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
        let raw_spiffe = self.spiffe.unwrap_or_default();
        let spiffe = raw_spiffe.validate(check, prefix);
        let auth = self.auth.unwrap_or_default().validate(
            check,
            prefix,
            client.is_some() || spiffe.is_some(),
            &addresses,
            (spiffe.as_ref(), raw_spiffe.audience.as_deref()),
        );
        // Files come first; the other methods need no client certificate.
        let by_cert = auth.as_ref().is_some_and(|auth| matches!(auth.method, Method::Cert { .. }));
        let svid = spiffe.filter(|_| by_cert && client.is_none()).map(Box::new);
        let proxy = RawForwardProxy {
            url: self.proxy,
            password_file: self.proxy_password_file,
            credential: self.proxy_credential,
            except: self.proxy_except.unwrap_or_default(),
        };
        let proxy = proxy.validate(check, prefix);
        let is_covered = |proxy: &ForwardProxy| addresses.iter().any(|address| proxy.covers(address));
        if self.server_name.is_some() && proxy.as_ref().is_some_and(is_covered) {
            check.problem(
                &key("server_name"),
                format!("cannot be used together with {prefix}.proxy, which is told the name to connect to; write that name into {prefix}.addresses"),
            );
        }
        Some(Vault {
            addresses,
            proxy,
            auth_namespace,
            namespace,
            tls: Tls {
                ca_file: self.ca_file,
                server_name: self.server_name,
                client,
                spiffe: svid,
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

fn addresses(key: &str, texts: Vec<String>, plain_http: bool, check: &mut Validator<'_>) -> Vec<Endpoint> {
    if texts.is_empty() {
        check.problem(
            key,
            "no address of Vault or OpenBao is given, such as [\"https://vault.example:8200\"]",
        );
    }
    if texts.len() > MAX_ADDRESSES {
        check.problem(key, format!("{} addresses are given; the limit is {MAX_ADDRESSES}", texts.len()));
    }
    let mut found: Vec<Endpoint> = Vec::new();
    for text in texts {
        match Endpoint::parse(&text, plain_http) {
            Ok(endpoint) if found.contains(&endpoint) => {
                check.problem(key, format!("{text:?} is given twice"));
            }
            Ok(endpoint) => found.push(endpoint),
            Err(message) => check.problem(key, format!("{:?} {message}", without_userinfo(&text))),
        }
    }
    found
}
