//! Where a secret is: a file or a systemd credential. Read anew at each use, never kept.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::systemd::credentials;

/// Largest secret that is read, in bytes. A JWT has a few KiB.
const MAX_SECRET: usize = 64 * 1024;

/// The place of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretSource {
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether every user of the machine may be able to read it.
        allow_world_readable: bool,
    },
    /// A credential that systemd placed in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    Credential(String),
}

/// A role-id: given literally, since it is no secret, or in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoleId {
    /// In the configuration.
    Literal(String),
    /// In a file, of any mode.
    File(PathBuf),
}

/// Why a secret cannot be read. Never holds a part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SecretError {
    message: String,
    /// What to do about it.
    pub remedy: String,
}

impl SecretSource {
    /// The file at `path`.
    pub(crate) fn file(path: &Path, allow_world_readable: bool) -> Self {
        Self::File { path: path.to_path_buf(), allow_world_readable }
    }

    /// Reads the secret; white space at its ends does not belong to it.
    pub(crate) fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::File { path, allow_world_readable } => read(path, *allow_world_readable),
            Self::Credential(name) => read(&self.credential_path(name)?, true),
        }
    }

    /// The file that holds the secret, to watch it for changes.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File { path, .. } => Some(path.clone()),
            Self::Credential(name) => credentials::path(name),
        }
    }

    fn credential_path(&self, name: &str) -> Result<PathBuf, SecretError> {
        credentials::path(name).ok_or_else(|| SecretError {
            message: format!(
                "the systemd credential {name:?} was not passed: $CREDENTIALS_DIRECTORY is not set"
            ),
            remedy: format!("add LoadCredential={name}:/path to kms-plugin.service and restart it"),
        })
    }
}

impl RoleId {
    /// Reads the role-id.
    pub(crate) fn read(&self) -> Result<String, SecretError> {
        match self {
            Self::Literal(role_id) => Ok(role_id.clone()),
            Self::File(path) => read(path, true).map(|role_id| role_id.expose().to_owned()),
        }
    }

    /// The file that holds it, if one does.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Literal(_) => None,
            Self::File(path) => Some(path.clone()),
        }
    }
}

fn read(path: &Path, allow_world_readable: bool) -> Result<Secret, SecretError> {
    let shown = path.display();
    let error = |message: String, remedy: String| SecretError { message, remedy };
    let cannot = |cause: std::io::Error| {
        let user = nix::unistd::geteuid();
        error(
            format!("the secret file {shown} cannot be read: {cause}"),
            format!("check that it exists and that user {user} may read it: ls -l {shown}"),
        )
    };
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(error(
            format!("the secret file {shown} is {kind}"),
            "name the file that holds the secret".into(),
        ));
    }
    if metadata.mode() & 0o007 != 0 && !allow_world_readable {
        let mode = metadata.mode() & 0o7777;
        return Err(error(
            format!("the secret file {shown} is open to every user of this machine (mode {mode:04o})"),
            format!("chmod 0640 {shown}, and treat the secret as known to others"),
        ));
    }
    // One allocation of the full size: growing would leave copies behind that are not zeroized.
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET + 2));
    file.take(MAX_SECRET as u64 + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() > MAX_SECRET {
        return Err(error(
            format!("the secret file {shown} has more than {MAX_SECRET} bytes"),
            "name the file that holds the secret alone".into(),
        ));
    }
    let secret = text.trim();
    if secret.is_empty() {
        return Err(error(
            format!("the secret file {shown} is empty"),
            format!("write the secret into {shown}"),
        ));
    }
    if secret.chars().any(char::is_control) {
        return Err(error(
            format!("the secret file {shown} holds more than one line, or control characters"),
            "leave only the secret in it, in one line".into(),
        ));
    }
    Ok(Secret::new(secret.to_owned()))
}
