//! The files that hold credentials and certificates: there, of the right mode, readable by the service's user,
//! not too old, and something in them.

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
use super::service_user::ServiceUser;
use super::unit::{PASSED, Units};
use crate::clock::unix_seconds;
use crate::config::secret::{RoleId, SecretSource};
use crate::config::vault::{Method, Vault};
use crate::display::ago;
use crate::systemd::credentials as systemd_credentials;

/// Age from which a secret should be replaced by a new one.
const OLD: Duration = Duration::from_secs(365 * 86_400);
/// Below it systemd puts the credentials of every service that runs.
const CREDENTIALS: &str = "/run/credentials";
const WHY: &str = "without it the agent cannot log in";

/// A file that the agent reads.
struct Place {
    what: &'static str,
    path: PathBuf,
    /// Secret, with the source to read it by; a certificate is none.
    secret: Option<SecretSource>,
}

/// Where systemd's credentials can be read from outside of the service: as passed to the running one, else the
/// files that its unit names. What is in neither place stays as it is. Whether such a place was found: then it
/// is systemd that reads it, not the service.
pub(crate) fn from_outside(vault: &mut Vault, units: &Units) -> bool {
    let place = |source: &mut SecretSource| {
        let SecretSource::Credential(name) = source else { return false };
        if systemd_credentials::path(name).is_some() {
            return false;
        }
        let passed = Path::new(PASSED).join(&*name);
        let named = units.credential_source(name).map(PathBuf::from);
        let Some(path) = Some(passed).filter(|path| path.exists()).or(named) else { return false };
        // A credential's file is root's alone, wherever it comes from.
        *source = SecretSource::file(&path, true);
        true
    };
    vault.auth.method.secret_mut().is_some_and(place)
}

fn places(vault: &Vault) -> Vec<Result<Place, String>> {
    let secret = |what, source: &SecretSource| match (source, source.path()) {
        (SecretSource::Credential(name), None) => Err(name.clone()),
        (_, path) => Ok(Place { what, path: path.unwrap_or_default(), secret: Some(source.clone()) }),
    };
    let file = |what, path: &Path| Ok(Place { what, path: path.to_path_buf(), secret: None });
    let mut places = Vec::new();
    if let Method::AppRole { role_id: RoleId::File(path), .. } = &vault.auth.method {
        places.push(file("role-id", path));
    }
    places.extend(vault.auth.method.secret().map(|(what, source)| secret(what, source)));
    places.extend(vault.tls.ca_file.iter().map(|path| file("authorities", path)));
    if let Some((certificate, key)) = &vault.tls.client {
        places.push(file("client certificate", certificate));
        let key = SecretSource::file(key, false);
        places.push(secret("client key", &key));
    }
    places
}

/// Whether the files of a login can be used from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readable {
    Yes,
    /// A credential that only the running service sees.
    Hidden,
    No,
}

/// Looks at every file of one key service. `passed` is whether systemd reads the secret for the service.
pub(crate) fn check(
    vault: &Vault,
    user: &Result<ServiceUser, String>,
    passed: bool,
    report: &mut Report,
) -> Readable {
    let mut readable = Readable::Yes;
    for place in places(vault) {
        let finding = match place {
            Ok(place) if passed && place.is_credential() => place.check(None),
            Ok(place) => place.check(user.as_ref().ok()),
            Err(name) => Finding::skipped(
                Check::Credentials,
                name,
                "a systemd credential that only the running service sees: it is looked at when the service runs",
            ),
        };
        readable = readable.max(match finding.outcome {
            Outcome::Fail => Readable::No,
            Outcome::Skipped => Readable::Hidden,
            _ => Readable::Yes,
        });
        report.add(finding);
    }
    readable
}

impl Place {
    /// What the method logs in with.
    fn is_credential(&self) -> bool {
        self.secret.is_some() && self.what != "client key"
    }

    fn check(&self, user: Option<&ServiceUser>) -> Finding {
        let shown = self.path.display().to_string();
        let fail =
            |seen: String, remedy: String| Finding::fail(Check::Credentials, &shown, seen, WHY, remedy);
        if self.path.starts_with(CREDENTIALS) && !self.path.exists() {
            let because = "systemd puts it there when the service runs: it is looked at then";
            return Finding::skipped(Check::Credentials, &shown, because);
        }
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(cause) if hidden_from_us(&cause) => {
                return Finding::skipped(
                    Check::Credentials,
                    &shown,
                    format!("cannot be looked at by this user: {cause}"),
                );
            }
            Err(cause) => {
                let remedy =
                    format!("write the {} there, or correct its place in the configuration", self.what);
                return fail(format!("{}: {cause}", self.what), remedy);
            }
        };
        if let Some(user) = user
            && let Err(obstacle) = user.may_read(&self.path)
        {
            let name = &user.name;
            // Only a file that is root's own is given to the service: anything else belongs to somebody.
            let remedy = if obstacle == self.path && metadata.uid() == 0 {
                format!("chown root:{name} {shown} && chmod 0640 {shown}")
            } else {
                format!(
                    "put a copy where the service may read it, and name that: install -m 0640 -o root -g {name} {shown} /etc/kms-plugin/"
                )
            };
            return fail(
                format!("user {name} may not read it: {} is in the way", obstacle.display()),
                remedy,
            );
        }
        if let Err(cause) = fs::File::open(&self.path)
            && hidden_from_us(&cause)
        {
            return Finding::skipped(
                Check::Credentials,
                &shown,
                format!("cannot be read by this user: {cause}"),
            );
        }
        if let Some(source) = self.secret.as_ref().filter(|_| self.is_credential()) {
            match source.read() {
                Err(error) => return fail(error.to_string(), error.remedy),
                Ok(secret) if self.what == "JWT" => {
                    if let Some(finding) = jwt(&shown, secret.expose()) {
                        return finding;
                    }
                }
                Ok(_) => {}
            }
        }
        if self.what == "client key" && metadata.mode() & 0o007 != 0 {
            return fail(
                format!("every user of this machine can read it (mode {:04o})", metadata.mode() & 0o7777),
                format!("chmod 0640 {shown}, and treat the key as known to others"),
            );
        }
        if self.what == "client certificate"
            && let Some(finding) = certificate::of_client(&shown, &self.path)
        {
            return finding;
        }
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
        let age = age.unwrap_or_default();
        let seen = format!("{}, mode {:04o}, {} old", self.what, metadata.mode() & 0o7777, ago(age));
        if self.secret.is_some() && age > OLD {
            let why = "the longer a secret lives, the more places it has been in";
            let remedy =
                format!("make a new one and write it into {shown}; it is taken up without a restart");
            return Finding::warn(Check::Credentials, &shown, seen, why, remedy);
        }
        Finding::ok(Check::Credentials, &shown, seen)
    }
}

/// Root would see it.
fn hidden_from_us(cause: &std::io::Error) -> bool {
    cause.kind() == std::io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root()
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<i64>,
}

/// A JWT says itself when it ends.
fn jwt(shown: &str, token: &str) -> Option<Finding> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let ended = unix_seconds() - serde_json::from_slice::<Claims>(&payload).ok()?.exp?;
    let ended = u64::try_from(ended).ok().map(Duration::from_secs)?;
    Some(Finding::fail(
        Check::Credentials,
        shown,
        format!("the JWT ended {} ago", ago(ended)),
        WHY,
        "see why nobody writes a new one: the kubelet does for a projected service account token",
    ))
}
