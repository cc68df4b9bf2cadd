//! The settings of one Vault or OpenBao: addresses, TLS, the Transit key, the login.

use std::path::PathBuf;

use super::endpoint::Endpoint;
use super::forward_proxy::ForwardProxy;
use super::secret::{RoleId, SecretSource};
use super::spiffe::Spiffe;

#[derive(Clone, Debug)]
pub(crate) struct Vault {
    /// At least one.
    pub addresses: Vec<Endpoint>,
    /// The forward proxy to those addresses that it covers.
    pub proxy: Option<ForwardProxy>,
    /// Namespace of the Transit mount; empty for the root.
    pub namespace: String,
    /// Namespace of the login; empty for the root.
    pub auth_namespace: String,
    pub tls: Tls,
    pub transit: Transit,
    pub auth: Auth,
    /// Whether addresses, TLS and login are those of `[vault]`. Then both use one token.
    pub shares_login: bool,
}

impl Vault {
    /// Everything that identifies a login, except its secret. Elsewhere, the same secret can belong to another login.
    pub(crate) fn login_scope(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(Endpoint::name).collect();
        let method = match &self.auth.method {
            Method::None => "none".to_owned(),
            Method::Token(_) => "token".to_owned(),
            Method::AppRole { .. } => "approle".to_owned(),
            Method::Userpass { username, .. } => format!("userpass {username}"),
            Method::Cert { role } => format!("cert {}", role.as_deref().unwrap_or_default()),
            Method::JwtSvid { role, spiffe, .. } => {
                let id = spiffe.id.as_deref().unwrap_or_default();
                format!("jwt-svid {} {id}", role.as_deref().unwrap_or_default())
            }
            Method::Jwt { role, .. } => format!("jwt {}", role.as_deref().unwrap_or_default()),
            Method::Kubernetes { role, .. } => format!("kubernetes {role}"),
        };
        format!("{} {:?} {:?} {method}", addresses.join(" "), self.auth_namespace, self.auth.mount)
    }
}

#[cfg(any(test, fuzzing))]
impl Vault {
    /// For tests, which change what they are about: the key `kms-key` at `transit`, and a certificate that nobody verifies.
    pub(crate) fn example(addresses: impl IntoIterator<Item = Endpoint>, auth: Auth) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            proxy: None,
            namespace: String::new(),
            auth_namespace: String::new(),
            tls: Tls { ca_file: None, server_name: None, client: None, spiffe: None, skip_verify: true },
            transit: Transit {
                mount: "transit".into(),
                key: "kms-key".into(),
                key_id_epoch: 0,
                expect_created: None,
                accept_foreign_ciphertext: false,
            },
            auth,
            shares_login: false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// PEM file of the certificate authorities; `None` means the system's roots.
    pub ca_file: Option<PathBuf>,
    /// The name to verify instead of the address's host.
    pub server_name: Option<String>,
    /// The files of the client certificate chain and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Where the client certificate comes from, when it is an X.509-SVID and not in files.
    pub spiffe: Option<Box<Spiffe>>,
    /// Accept any server certificate.
    pub skip_verify: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Transit {
    /// Mount path without slashes at its ends.
    pub mount: String,
    pub key: String,
    /// 0 to 255.
    pub key_id_epoch: u32,
    /// Creation time of the newest version, in Unix seconds, that an administrator accepts.
    pub expect_created: Option<i64>,
    /// Whether the agent decrypts data of other Transit plugins.
    pub accept_foreign_ciphertext: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// Mount path of the auth method, without slashes at its ends.
    pub mount: String,
    pub method: Method,
}

/// A login method with the sources of its credentials. Never holds a secret.
#[derive(Clone, Debug)]
pub(crate) enum Method {
    /// No login: a proxy on this machine logs in, and adds its own token to each request.
    None,
    /// A token that somebody else created.
    Token(SecretSource),
    AppRole {
        role_id: RoleId,
        /// The secret-id, or a response-wrapping token of it. `None` for a role with `bind_secret_id=false`.
        secret_id: Option<SecretSource>,
        /// Whether it is a response-wrapping token.
        wrapped: bool,
    },
    Userpass {
        username: String,
        password: SecretSource,
    },
    Cert {
        /// `None`: the server chooses.
        role: Option<String>,
    },
    Jwt {
        /// `None`: the mount's default role.
        role: Option<String>,
        jwt: SecretSource,
    },
    /// A JWT-SVID of the SPIFFE Workload API.
    JwtSvid {
        /// `None`: the mount's default role.
        role: Option<String>,
        spiffe: Spiffe,
        /// For whom the JWT is, as the role in Vault binds it.
        audience: String,
    },
    /// The service account of a pod.
    Kubernetes {
        role: String,
        jwt: SecretSource,
    },
}

impl Method {
    /// The secret of the login with its usual name; `None` where there is none. The key of a certificate belongs to
    /// TLS.
    pub(crate) fn secret(&self) -> Option<(&'static str, &SecretSource)> {
        match self {
            Self::Token(source) => Some(("token", source)),
            Self::AppRole { secret_id, .. } => secret_id.as_ref().map(|source| ("secret-id", source)),
            Self::Userpass { password, .. } => Some(("password", password)),
            Self::Jwt { jwt, .. } | Self::Kubernetes { jwt, .. } => Some(("JWT", jwt)),
            Self::Cert { .. } | Self::JwtSvid { .. } | Self::None => None,
        }
    }

    /// The secret of the login, to change its source.
    pub(crate) fn secret_mut(&mut self) -> Option<&mut SecretSource> {
        match self {
            Self::Token(source) => Some(source),
            Self::AppRole { secret_id, .. } => secret_id.as_mut(),
            Self::Userpass { password, .. } => Some(password),
            Self::Jwt { jwt, .. } | Self::Kubernetes { jwt, .. } => Some(jwt),
            Self::Cert { .. } | Self::JwtSvid { .. } | Self::None => None,
        }
    }
}
