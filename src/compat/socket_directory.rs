//! The directory of a sidecar's socket: a pod's emptyDir, which every user may write to (mode 0777).
//!
//! The agent refuses a directory where others can replace its socket, and in a pod nobody can change the mode.

use std::fs::{Permissions, metadata, set_permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// Sets the sticky bit on the socket's directory, when it belongs to the agent and every user may write to it.
/// Returns a message about the change; `None` when nothing was changed.
///
/// Others can still create files of their own in the directory.
pub(crate) fn protect(socket: &Path) -> Option<String> {
    let directory = socket.parent()?;
    let found = metadata(directory).ok()?;
    let open = found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0;
    if !open || found.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    set_permissions(directory, Permissions::from_mode(found.mode() & 0o7777 | 0o1000)).ok()?;
    let shown = directory.display();
    Some(format!(
        "every user could replace files in {shown}, also the socket; the directory has the sticky bit now, so only the owner of a file can replace it"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_directory_is_changed() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |bits| {
            set_permissions(&directory, Permissions::from_mode(bits)).unwrap();
            let message = protect(&directory.path().join("kms.sock"));
            (message.is_some(), metadata(&directory).unwrap().mode() & 0o7777)
        };
        assert_eq!(mode(0o777), (true, 0o1777));
        assert_eq!(mode(0o1777), (false, 0o1777));
        assert_eq!(mode(0o755), (false, 0o755));
        assert_eq!(protect(Path::new("/nonexistent/kms.sock")), None);
    }
}
