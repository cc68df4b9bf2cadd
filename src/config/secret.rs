//! The source of a secret: a file or a systemd credential. The secret is read again for each use, and not stored.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files::{self, WrongEncoding};
use crate::secret::Secret;
use crate::systemd::credentials;

/// Largest secret that is read, in bytes. A JWT has a few KiB.
const MAX_SECRET: u64 = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretSource {
    File {
        path: PathBuf,
        /// Whether the file's mode may let every user of the machine read it.
        allow_world_readable: bool,
    },
    /// The name of a credential that systemd passes in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    Credential(String),
}

/// A role-id. It is no secret, so the configuration may hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoleId {
    Literal(String),
    /// A file of any mode.
    File(PathBuf),
}

/// Why a secret cannot be read. Never holds a part of the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SecretError {
    message: String,
    pub remedy: String,
}

impl SecretSource {
    pub(crate) fn file(path: &Path, allow_world_readable: bool) -> Self {
        Self::File { path: path.to_path_buf(), allow_world_readable }
    }

    /// Reads the secret, without white space at its ends.
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
    /// Reads it. Without a secret-id it is the whole credential, so the copy is zeroized.
    pub(crate) fn read(&self) -> Result<Zeroizing<String>, SecretError> {
        match self {
            Self::Literal(role_id) => Ok(Zeroizing::new(role_id.clone())),
            Self::File(path) => read(path, true).map(|role_id| Zeroizing::new(role_id.expose().to_owned())),
        }
    }

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
    let cannot = |cause: io::Error| {
        let user = nix::unistd::geteuid();
        error(
            format!("the secret file {shown} cannot be read: {cause}"),
            format!("check that it exists and that user {user} may read it: ls -l {shown}"),
        )
    };
    let (file, metadata) = files::open(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::InvalidInput => error(
            format!("the secret file {shown} cannot be read: {cause}"),
            "name the file that holds the secret".into(),
        ),
        _ => cannot(cause),
    })?;
    if metadata.mode() & 0o007 != 0 && !allow_world_readable {
        let mode = metadata.mode() & 0o7777;
        return Err(error(
            format!(
                "every user of this machine can read or change the secret file {shown} (mode {mode:04o})"
            ),
            format!("chmod 0640 {shown}, and replace the secret, because others may have read it"),
        ));
    }
    let content = files::read_open(file, &metadata, MAX_SECRET).map_err(|cause| match cause.kind() {
        io::ErrorKind::FileTooLarge => error(
            format!("the secret file {shown} has more than {MAX_SECRET} bytes"),
            "name a file that holds only the secret".into(),
        ),
        _ => cannot(cause),
    })?;
    if let Some(encoding) = WrongEncoding::of(&content) {
        let remedy = encoding.command(&shown.to_string());
        let remedy = remedy.unwrap_or_else(|| "name a file that holds only the secret, as text".into());
        return Err(error(format!("the secret file {shown} {}", encoding.what()), remedy));
    }
    let text = files::into_text(content).map_err(cannot)?;
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
            "write only the secret into it, in one line".into(),
        ));
    }
    Ok(Secret::new(secret.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_not_the_file_of_a_secret_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let problem = || SecretSource::file(&path, false).read().map(drop).unwrap_err().to_string();
        let write = |content: &[u8], mode: u32| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(problem().contains("No such file"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(problem().ends_with("cannot be read: it is not a regular file"), "{}", problem());
        std::fs::remove_file(&path).unwrap();
        for (content, mode, part) in [
            (&b"s3cr3t"[..], 0o644, "every user of this machine"),
            (&[b'x'; 64 * 1024 + 1], 0o600, "more than 65536 bytes"),
            (b"s3cr3t\xff", 0o600, "is not UTF-8 text"),
            (b"\xef\xbb\xbfs3cr3t\n", 0o600, "byte order mark"),
            (b"\xff\xfes\x003\x00c\x00r\x003\x00t\x00", 0o600, "is UTF-16"),
            (b"s\x003\x00c\x00r\x003\x00t\x00\r\x00\n\x00", 0o600, "is UTF-16"),
            (b"\x00s\x003\x00c\x00r\x003\x00t", 0o600, "is UTF-16"),
            (b"s3cr\x003t", 0o600, "control characters"),
            (b" \n", 0o600, "is empty"),
            (b"s3cr3t\nb", 0o600, "more than one line"),
        ] {
            write(content, mode);
            assert!(problem().contains(part) && !problem().contains("s3cr3t"), "{part}: {}", problem());
        }
        write(b" s3cr3t\n", 0o640);
        assert_eq!(SecretSource::file(&path, false).read().unwrap().expose(), "s3cr3t");
        let error = SecretSource::file(directory.path(), false).read().map(drop).unwrap_err();
        assert!(error.to_string().ends_with("it is a directory"), "{error}");
    }
}
