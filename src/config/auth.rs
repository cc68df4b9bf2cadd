//! `[vault.auth]` as written: the login method and the sources of its credentials.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::endpoint::Endpoint;
use super::name::{normalise, plain_path, plain_segment};
use super::secret::{RoleId, SecretSource};
use super::spiffe::Spiffe;
use super::validate::Validator;
use super::vault::{Auth, Method};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAuth {
    method: Option<String>,
    mount: Option<String>,
    token_file: Option<PathBuf>,
    role_id: Option<String>,
    role_id_file: Option<PathBuf>,
    secret_id_file: Option<PathBuf>,
    secret_id_wrapped: bool,
    username: Option<String>,
    password_file: Option<PathBuf>,
    role: Option<String>,
    jwt_file: Option<PathBuf>,
    credential: Option<String>,
    allow_world_readable: bool,
}

impl RawAuth {
    pub(super) fn validate(
        self,
        check: &mut Validator<'_>,
        prefix: &str,
        has_client_cert: bool,
        addresses: &[Endpoint],
        (spiffe, audience): (Option<&Spiffe>, Option<&str>),
    ) -> Option<Auth> {
        let key = |name: &str| format!("{prefix}.auth.{name}");
        let Some(name) = self.method.clone() else {
            check.problem(
                &key("method"),
                "the login method is missing: token, approle, userpass, cert, jwt, kubernetes or none",
            );
            return None;
        };
        let method = match name.as_str() {
            "token" => Method::Token(self.secret(check, &key("token_file"), self.token_file.as_deref())?),
            "approle" => {
                let role_id = match (&self.role_id, &self.role_id_file) {
                    (Some(role_id), None) if !role_id.trim().is_empty() => {
                        RoleId::Literal(role_id.trim().to_owned())
                    }
                    (None, Some(file)) => RoleId::File(file.clone()),
                    _ => {
                        let both = self.role_id.is_some() && self.role_id_file.is_some();
                        let message = match both {
                            true => "role_id and role_id_file are both given; keep one",
                            false => "approle needs either role_id or role_id_file",
                        };
                        check.problem(&key("role_id"), message);
                        return None;
                    }
                };
                let secret_id = match (&self.secret_id_file, &self.credential, self.secret_id_wrapped) {
                    // A role with `bind_secret_id=false`. Where the role wants a secret-id, the login says so.
                    (None, None, false) => None,
                    _ => Some(self.secret(check, &key("secret_id_file"), self.secret_id_file.as_deref())?),
                };
                Method::AppRole { role_id, secret_id, wrapped: self.secret_id_wrapped }
            }
            "userpass" => {
                let password = self.secret(check, &key("password_file"), self.password_file.as_deref());
                let Some(username) = self.username.clone().filter(|name| plain_segment(name)) else {
                    check.problem(&key("username"), "userpass needs a user name, without slashes and spaces");
                    return None;
                };
                Method::Userpass { username, password: password? }
            }
            "cert" if has_client_cert => Method::Cert { role: self.role.clone() },
            "cert" => {
                check.problem(
                    &key("method"),
                    format!(
                        "cert needs {prefix}.client_cert_file and {prefix}.client_key_file, or {prefix}.spiffe.socket"
                    ),
                );
                return None;
            }
            "jwt" if self.jwt_file.is_none() && self.credential.is_none() && spiffe.is_some() => {
                let Some(audience) = audience.map(str::trim).filter(|audience| !audience.is_empty()) else {
                    check.problem(
                        &format!("{prefix}.spiffe.audience"),
                        "jwt needs the audience of the JWT-SVID: a name that the role in Vault has in bound_audiences",
                    );
                    return None;
                };
                Method::JwtSvid {
                    role: self.role.clone(),
                    spiffe: spiffe.cloned()?,
                    audience: audience.to_owned(),
                }
            }
            "jwt" => Method::Jwt { role: self.role.clone(), jwt: self.jwt(check, &key("jwt_file"), None)? },
            "kubernetes" => {
                let default = Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token");
                let jwt = self.jwt(check, &key("jwt_file"), Some(default))?;
                let Some(role) = self.role.clone().filter(|role| !role.is_empty()) else {
                    check.problem(&key("role"), "kubernetes needs a role");
                    return None;
                };
                Method::Kubernetes { role, jwt }
            }
            "none" => {
                if let Some(other) = addresses.iter().find(|address| !address.is_local()) {
                    check.problem(
                        &key("method"),
                        format!(
                            "none is for a proxy on this machine that logs in by itself, at a unix socket or on loopback, and {} is another machine; use a method that logs in, or the address of such a proxy",
                            other.name()
                        ),
                    );
                }
                Method::None
            }
            other => {
                check.problem(
                    &key("method"),
                    format!("{other:?} is not one of token, approle, userpass, cert, jwt, kubernetes, none"),
                );
                return None;
            }
        };
        let mount = normalise(self.mount.as_deref().unwrap_or(&name));
        if !plain_path(&mount) {
            check.problem(&key("mount"), format!("{mount:?} is not a mount path"));
        }
        Some(Auth { mount, method })
    }

    fn secret(&self, check: &mut Validator<'_>, key: &str, file: Option<&Path>) -> Option<SecretSource> {
        match (file, &self.credential) {
            (Some(path), None) => Some(SecretSource::file(path, self.allow_world_readable)),
            (None, Some(name)) if plain_segment(name) => Some(SecretSource::Credential(name.clone())),
            (None, Some(name)) => {
                check.problem(key, format!("{name:?} is not the name of a systemd credential"));
                None
            }
            (Some(_), Some(_)) => {
                check.problem(key, "a file and a credential are both given; keep one");
                None
            }
            (None, None) => {
                check.problem(
                    key,
                    "is missing; set it, or name a systemd credential with vault.auth.credential",
                );
                None
            }
        }
    }

    /// The source of a JWT. Every user may be able to read its file: the kubelet gives such a mode to service account
    /// tokens, and they are valid for a short time.
    fn jwt(&self, check: &mut Validator<'_>, key: &str, default: Option<&Path>) -> Option<SecretSource> {
        let file = self.jwt_file.as_deref().or(default.filter(|_| self.credential.is_none()));
        let relaxed = Self { allow_world_readable: true, ..self.clone() };
        relaxed.secret(check, key, file)
    }
}
