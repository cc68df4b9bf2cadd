//! A file in memory for a secret that was given as a flag or a variable. Only this process can open it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Writes `secret` into a file in memory, which stays until the process ends. Returns its path.
///
/// # Errors
/// The system's.
pub(super) fn create(secret: &str) -> std::io::Result<String> {
    let mut file = File::from(memfd_create(c"kms-plugin-secret", MFdFlags::MFD_CLOEXEC)?);
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(secret.as_bytes())?;
    // Never closed: each login reads the file again.
    Ok(format!("/proc/self/fd/{}", file.into_raw_fd()))
}
