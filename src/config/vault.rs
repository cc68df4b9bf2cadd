//! One Vault or OpenBao as settings: addresses, TLS, the Transit key, the login.

use std::path::PathBuf;

use url::Url;

use super::secret::{RoleId, SecretSource};

/// One Vault or OpenBao with its key and login.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    /// `https://host:port`, at least one; no path, query or userinfo.
    pub addresses: Vec<Url>,
    /// Namespace of the Transit mount; empty for the root.
    pub namespace: String,
    /// Namespace of the login; empty for the root.
    pub auth_namespace: String,
    /// How the servers are verified.
    pub tls: Tls,
    /// The key.
    pub transit: Transit,
    /// The login.
    pub auth: Auth,
    /// Whether addresses, TLS and login are all those of `[vault]`: then one token serves both.
    pub shares_login: bool,
}

impl Vault {
    /// What a login depends on beside its secret: the same secret is another login elsewhere.
    pub(crate) fn login_scope(&self) -> String {
        let addresses: Vec<&str> = self.addresses.iter().map(Url::as_str).collect();
        let method = match &self.auth.method {
            Method::Token(_) => "token".to_owned(),
            Method::AppRole { .. } => "approle".to_owned(),
            Method::Userpass { username, .. } => format!("userpass {username}"),
            Method::Cert { role } => format!("cert {}", role.as_deref().unwrap_or_default()),
            Method::Jwt { role, .. } => format!("jwt {}", role.as_deref().unwrap_or_default()),
            Method::Kubernetes { role, .. } => format!("kubernetes {role}"),
        };
        format!("{} {:?} {:?} {method}", addresses.join(" "), self.auth_namespace, self.auth.mount)
    }
}

/// TLS to the servers.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// The authorities; the system's roots when absent.
    pub ca_file: Option<PathBuf>,
    /// The name to verify instead of the address's host.
    pub server_name: Option<String>,
    /// Our certificate chain and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Verify nothing.
    pub skip_verify: bool,
}

/// The Transit key.
#[derive(Clone, Debug)]
pub(crate) struct Transit {
    /// Mount path without slashes at its ends.
    pub mount: String,
    /// Name of the key.
    pub key: String,
    /// Epoch of the key_ids, 0 to 255.
    pub key_id_epoch: u32,
    /// Creation time of the newest version that is accepted deliberately.
    pub expect_created: Option<i64>,
    /// Whether ciphertexts of other Transit plugins are decrypted.
    pub accept_foreign_ciphertext: bool,
}

/// The login.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// Mount path of the method.
    pub mount: String,
    /// The method with its credentials' places.
    pub method: Method,
}

/// A login method: where its credentials are, never what they are.
#[derive(Clone, Debug)]
pub(crate) enum Method {
    /// A token made by somebody else.
    Token(SecretSource),
    /// AppRole.
    AppRole {
        /// Not secret by itself.
        role_id: RoleId,
        /// The secret-id, or a wrapping token of it.
        secret_id: SecretSource,
        /// Whether the file holds a wrapping token.
        wrapped: bool,
    },
    /// User and password.
    Userpass {
        /// The user.
        username: String,
        /// The password.
        password: SecretSource,
    },
    /// The TLS client certificate.
    Cert {
        /// The role; the server chooses when absent.
        role: Option<String>,
    },
    /// A JWT in a file.
    Jwt {
        /// The role; the mount's default role when absent.
        role: Option<String>,
        /// The token.
        jwt: SecretSource,
    },
    /// A pod's service account.
    Kubernetes {
        /// The role.
        role: String,
        /// The service account's token.
        jwt: SecretSource,
    },
}

/// An address as it may be shown: a user and a password in it are left out.
pub(crate) fn without_userinfo(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}://…@{host}"),
        None => text.to_owned(),
    }
}

impl Method {
    /// The secret that it logs in with, and how people call it; the certificate's is TLS's.
    pub(crate) fn secret(&self) -> Option<(&'static str, &SecretSource)> {
        match self {
            Self::Token(source) => Some(("token", source)),
            Self::AppRole { secret_id, .. } => Some(("secret-id", secret_id)),
            Self::Userpass { password, .. } => Some(("password", password)),
            Self::Jwt { jwt, .. } | Self::Kubernetes { jwt, .. } => Some(("JWT", jwt)),
            Self::Cert { .. } => None,
        }
    }

    /// The same, to read it from another place.
    pub(crate) fn secret_mut(&mut self) -> Option<&mut SecretSource> {
        match self {
            Self::Token(source) => Some(source),
            Self::AppRole { secret_id, .. } => Some(secret_id),
            Self::Userpass { password, .. } => Some(password),
            Self::Jwt { jwt, .. } | Self::Kubernetes { jwt, .. } => Some(jwt),
            Self::Cert { .. } => None,
        }
    }
}

/// Whether an address stays on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
