//! The runtime directory: creates it, or uses one beside the socket where it cannot be created.
//!
//! A container with a read-only root cannot write to `/run`. It can write to the directory of the socket, which is a
//! volume.

use std::fs::DirBuilder;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use super::error::AgentError;
use crate::config::server::Server;
use crate::files;

/// Creates the runtime directory, for the agent's user only. When the default one cannot be created, and none is
/// configured, creates one beside the socket and sets it in `server`.
///
/// # Errors
/// When neither can be created.
pub(crate) fn make(server: &mut Server) -> Result<(), AgentError> {
    let Err(cause) = make_at(&server.runtime_dir) else { return Ok(()) };
    let refused = matches!(cause.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied);
    match server.runtime_dir_fallback.take() {
        Some(beside) if refused => {
            make_at(&beside)
                .and_then(|()| is_ours_alone(&beside))
                .map_err(|cause| AgentError::RuntimeDir { path: beside.clone(), cause })?;
            tracing::warn!(
                "{} cannot be written to ({cause}); the admin socket and the saved identity are in {}, and the saved identity is lost when that directory is deleted. Set server.runtime_dir to use another one",
                server.runtime_dir.display(),
                beside.display()
            );
            server.runtime_dir = beside;
            Ok(())
        }
        _ => Err(AgentError::RuntimeDir { path: server.runtime_dir.clone(), cause }),
    }
}

/// Checks that only our user can use a directory. Other users of it could connect to the admin socket, and change the
/// saved identity and the list of refused credentials.
///
/// # Errors
/// When others can use it, or it cannot be read.
pub(crate) fn is_ours_alone(path: &Path) -> Result<(), Error> {
    let found = std::fs::symlink_metadata(path)?;
    if found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::other(
        "it belongs to another user, or other users have access; remove it, or set server.runtime_dir",
    ))
}

/// Creates the directory. If it exists, the agent must be able to write to it, and no other user may replace its files.
fn make_at(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    files::is_trusted_directory(path)?;
    Ok(nix::unistd::access(path, nix::unistd::AccessFlags::W_OK)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn a_file_in_the_way_is_an_error_even_with_a_fallback() {
        let directory = tempfile::tempdir().unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server =
            Settings::development(directory.path(), directory.path().join("keyring"), address).server;
        std::fs::write(directory.path().join("file"), "").unwrap();
        server.runtime_dir = directory.path().join("file/run");
        server.runtime_dir_fallback = Some(directory.path().join("beside"));
        assert!(matches!(make(&mut server), Err(AgentError::RuntimeDir { .. })));
        let (taken, link) = (directory.path().join("taken"), directory.path().join("link"));
        DirBuilder::new().mode(0o777).create(&taken).unwrap();
        std::fs::set_permissions(&taken, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(is_ours_alone(&taken).is_err() && is_ours_alone(&link).is_err());
        // Another user could have put a link or a forged identity there.
        server.runtime_dir = taken;
        server.runtime_dir_fallback = None;
        let error = make(&mut server).unwrap_err();
        assert!(
            matches!(&error, AgentError::RuntimeDir { cause, .. } if cause.to_string().contains("every user"))
        );
        server.runtime_dir = directory.path().join("run");
        make(&mut server).unwrap();
        is_ours_alone(&server.runtime_dir).unwrap();
        assert!(directory.path().join("run").is_dir());
    }
}
