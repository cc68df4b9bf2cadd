//! A secret that came as text, put where files are read: in memory, for this process alone.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Keeps `secret` in a file of memory until the process ends; the path that only this process can open.
///
/// # Errors
/// When the system gives no such file.
pub(super) fn keep(secret: &str) -> std::io::Result<String> {
    let mut file = File::from(memfd_create(c"kms-plugin-secret", MFdFlags::MFD_CLOEXEC)?);
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(secret.as_bytes())?;
    // Open for good: every login reads it again.
    Ok(format!("/proc/self/fd/{}", file.into_raw_fd()))
}
