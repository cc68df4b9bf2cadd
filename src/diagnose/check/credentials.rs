//! The files with credentials and certificates: each exists, has a safe mode, is not empty and not too old, and the
//! user of the service can read it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::certificate;
use super::finding::{Check, Finding, Outcome};
use super::report::Report;
use super::service_user::{ServiceUser, UnknownUser};
use crate::clock::unix_seconds;
use crate::config::secret::{RoleId, SecretSource};
use crate::config::vault::{Method, Vault};
use crate::display::ago;
use crate::files;
use crate::systemd::credentials as systemd_credentials;
use crate::systemd::units::{self as systemd_units, Units};
use crate::vault::{TlsFile, check_tls_file};

/// A secret older than this should be replaced.
const OLD: Duration = Duration::from_secs(365 * 86_400);
/// The directory in which systemd puts the credentials of every running service.
const CREDENTIALS: &str = "/run/credentials";
const WHY: &str = "without it the agent cannot log in";

/// Where a credential or a certificate of the agent is.
enum Place {
    File(PlacedFile),
    /// The systemd credential of this name. Only the running service can read it.
    Hidden(String),
}

struct PlacedFile {
    kind: FileKind,
    path: PathBuf,
    /// The source to read it with, if it holds a secret.
    secret: Option<SecretSource>,
}

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    RoleId,
    CaCertificates,
    ClientCertificate,
    ClientKey,
    Jwt,
    /// Another secret that the login method sends, by its name: a token, a secret-id, a password.
    Credential(&'static str),
}

impl FileKind {
    fn name(self) -> &'static str {
        match self {
            Self::RoleId => "role-id",
            Self::CaCertificates => "CA certificates",
            Self::ClientCertificate => "client certificate",
            Self::ClientKey => "client key",
            Self::Jwt => "JWT",
            Self::Credential(name) => name,
        }
    }
}

/// Replaces each systemd credential by a file that this check can read: the file of the running service, or the file
/// that the unit names. Returns these files: systemd reads them, not the service.
pub(crate) fn read_from_outside(vault: &mut Vault, units: &Units) -> Vec<PathBuf> {
    let place = |source: &mut SecretSource| {
        let SecretSource::Credential(name) = source else { return None };
        if systemd_credentials::path(name).is_some() {
            return None;
        }
        let running = Path::new(systemd_units::CREDENTIALS).join(&*name);
        let named = units.credential_source(name).map(Path::to_path_buf);
        let path = Some(running).filter(|path| path.exists()).or(named)?;
        // The mode does not matter: the agent accepts a credential of any mode, too.
        *source = SecretSource::file(&path, true);
        Some(path)
    };
    let of_proxy = vault.proxy.as_mut().and_then(|proxy| proxy.login.as_mut()).map(|(_, source)| source);
    vault.auth.method.secret_mut().into_iter().chain(of_proxy).filter_map(place).collect()
}

fn places(vault: &Vault) -> Vec<Place> {
    let secret = |kind, source: &SecretSource| match (source, source.path()) {
        (SecretSource::Credential(name), None) => Place::Hidden(name.clone()),
        (_, path) => {
            Place::File(PlacedFile { kind, path: path.unwrap_or_default(), secret: Some(source.clone()) })
        }
    };
    let file = |kind, path: &Path| Place::File(PlacedFile { kind, path: path.to_path_buf(), secret: None });
    let mut places = Vec::new();
    if let Method::AppRole { role_id: RoleId::File(path), .. } = &vault.auth.method {
        places.push(file(FileKind::RoleId, path));
    }
    places.extend(vault.auth.method.secret().map(|(name, source)| match vault.auth.method {
        Method::Jwt { .. } | Method::Kubernetes { .. } => secret(FileKind::Jwt, source),
        _ => secret(FileKind::Credential(name), source),
    }));
    places.extend(vault.tls.ca_file.iter().map(|path| file(FileKind::CaCertificates, path)));
    if let Some((certificate, key)) = &vault.tls.client {
        places.push(file(FileKind::ClientCertificate, certificate));
        let key = SecretSource::file(key, false);
        places.push(secret(FileKind::ClientKey, &key));
    }
    if let Some((_, source)) = vault.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()) {
        places.push(secret(FileKind::Credential("password of vault.proxy"), source));
    }
    places
}

/// The paths of all of them.
pub(super) fn paths(vault: &Vault) -> impl Iterator<Item = PathBuf> {
    places(vault).into_iter().filter_map(|place| match place {
        Place::File(file) => Some(file.path),
        Place::Hidden(_) => None,
    })
}

/// Whether this check can read the files of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readable {
    Yes,
    /// Only the running service can read a credential.
    Hidden,
    No,
}

/// Checks every file of one key service. `by_systemd` are the files that systemd reads for the service.
pub(crate) fn check(
    vault: &Vault,
    user: &Result<ServiceUser, UnknownUser>,
    by_systemd: &[PathBuf],
    report: &mut Report<'_>,
) -> Readable {
    let mut readable = Readable::Yes;
    for place in places(vault) {
        let finding = match place {
            Place::File(file) if by_systemd.contains(&file.path) => file.check(None),
            Place::File(file) => file.check(user.as_ref().ok()),
            Place::Hidden(name) => Finding::skipped(
                Check::Credentials,
                name,
                "only the running service can read this systemd credential: start the service and check again",
            ),
        };
        readable = readable.max(match finding.outcome {
            Outcome::Fail => Readable::No,
            Outcome::Skipped => Readable::Hidden,
            _ => Readable::Yes,
        });
        report.add(finding);
    }
    bare_role_id(vault).into_iter().for_each(|finding| report.add(finding));
    readable
}

/// A finding when the role-id is the whole credential, and is kept as if it were not.
fn bare_role_id(vault: &Vault) -> Option<Finding> {
    let Method::AppRole { role_id, secret_id: None, .. } = &vault.auth.method else { return None };
    let (subject, seen) = match role_id {
        RoleId::Literal(_) => {
            ("vault.auth.role_id".to_owned(), "the role-id is in the configuration".to_owned())
        }
        RoleId::File(path) => {
            let mode = fs::metadata(path).ok()?.mode() & 0o7777;
            if mode & 0o007 == 0 {
                return None;
            }
            (
                path.display().to_string(),
                format!("every user of this machine can read the role-id (mode {mode:04o})"),
            )
        }
    };
    Some(Finding::warn(
        Check::Credentials,
        subject,
        seen,
        "without a secret-id, whoever knows the role-id can log in from the networks of the role",
        "put it into a file of mode 0640 and name that with vault.auth.role_id_file; bind the role to the nodes (token_bound_cidrs)",
    ))
}

impl PlacedFile {
    /// Whether the login method sends its content.
    fn is_credential(&self) -> bool {
        matches!(self.kind, FileKind::Jwt | FileKind::Credential(_))
    }

    fn check(&self, user: Option<&ServiceUser>) -> Finding {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(cause) => return self.missing(&cause),
        };
        self.denied(user, &metadata).or_else(|| self.bad_content()).unwrap_or_else(|| self.by_age(&metadata))
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn fail(&self, seen: String, remedy: String) -> Finding {
        Finding::fail(Check::Credentials, self.shown(), seen, WHY, remedy)
    }

    fn skipped(&self, because: String) -> Finding {
        Finding::skipped(Check::Credentials, self.shown(), because)
    }

    fn missing(&self, cause: &std::io::Error) -> Finding {
        if self.path.starts_with(CREDENTIALS) && !self.path.exists() {
            return self.skipped(
                "systemd creates it when the service starts: start the service and check again".into(),
            );
        }
        if hidden_from_us(cause) {
            return self.skipped(format!("this user cannot see it: {cause}"));
        }
        let name = self.kind.name();
        self.fail(
            format!("{name}: {cause}"),
            format!("write the {name} there, or correct the path in the configuration"),
        )
    }

    /// A finding when the user of the service, or this process, cannot read it.
    fn denied(&self, user: Option<&ServiceUser>, metadata: &fs::Metadata) -> Option<Finding> {
        let obstacle = user.and_then(|user| Some((user, user.may_read(&self.path).err()?)));
        if let Some((user, obstacle)) = obstacle {
            let (name, shown) = (&user.name, self.shown());
            // Only a file of root may get another group: any other file is used by somebody else.
            let remedy = if obstacle == self.path && metadata.uid() == 0 {
                user.grant(&self.path)
            } else {
                format!(
                    "copy it to a directory that the service can read (install -m 0640 -o root -g {name} {shown} /etc/kms-plugin/), and name the copy in the configuration"
                )
            };
            let seen = format!("user {name} cannot read it: {} does not allow it", obstacle.display());
            return Some(self.fail(seen, remedy));
        }
        let cause = files::open(&self.path).err().filter(hidden_from_us)?;
        Some(self.skipped(format!("this user cannot read it: {cause}")))
    }

    /// A finding when the agent would refuse its content, or the content has expired.
    fn bad_content(&self) -> Option<Finding> {
        let of_tls = match self.kind {
            FileKind::ClientKey => Some(TlsFile::ClientKey),
            FileKind::ClientCertificate | FileKind::CaCertificates => Some(TlsFile::Certificates),
            _ => None,
        };
        if let Some(Err(error)) = of_tls.map(|kind| check_tls_file(&self.path, kind)) {
            let remedy =
                error.remedy().unwrap_or("write a PEM file there, or correct the path in the configuration");
            return Some(self.fail(error.message().to_owned(), remedy.to_owned()));
        }
        if self.kind == FileKind::ClientCertificate {
            return certificate::expiry_of_client(&self.shown(), &self.path);
        }
        match self.secret.as_ref().filter(|_| self.is_credential())?.read() {
            Err(error) => Some(self.fail(error.to_string(), error.remedy)),
            Ok(secret) if self.kind == FileKind::Jwt => {
                let expired = expired_since(secret.expose())?;
                Some(self.fail(
                    format!("the JWT expired {} ago", ago(expired)),
                    "find out why it is not renewed; the kubelet renews a projected service account token"
                        .into(),
                ))
            }
            Ok(_) => None,
        }
    }

    fn by_age(&self, metadata: &fs::Metadata) -> Finding {
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
        let shown = self.shown();
        let seen = format!("{}, mode {:04o}, {} old", self.kind.name(), metadata.mode() & 0o7777, ago(age));
        if self.secret.is_some() && age > OLD {
            let why = "the older a secret is, the more likely somebody else knows it";
            let remedy =
                format!("make a new one and write it into {shown}; the agent reads it without a restart");
            return Finding::warn(Check::Credentials, &shown, seen, why, remedy);
        }
        Finding::ok(Check::Credentials, &shown, seen)
    }
}

/// Whether this user cannot see the file, but root can.
fn hidden_from_us(cause: &std::io::Error) -> bool {
    cause.kind() == std::io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root()
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<i64>,
}

/// How long ago a JWT expired by its own `exp` (RFC 7519, section 4.1.4); `None` when it has not.
fn expired_since(token: &str) -> Option<Duration> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let expired = unix_seconds().saturating_sub(serde_json::from_slice::<Claims>(&payload).ok()?.exp?);
    u64::try_from(expired).ok().map(Duration::from_secs)
}
