//! systemd's file descriptor store (sd_pid_notify_with_fds(3), FileDescriptorStoreMax= in the unit): what is
//! put there comes back after a restart or a crash, not after a stop.

use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

/// Whether there is a systemd that could keep a descriptor.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Has systemd keep `fd` under `name`: at most 255 characters of ASCII, without a colon.
pub(crate) fn keep(name: &str, fd: BorrowedFd<'_>) {
    // Without a poll: a descriptor is given up by name alone.
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[fd]) {
        tracing::warn!("systemd could not be given {name} to keep: {error}; it does not outlive a restart");
    }
}

/// Has systemd give up every descriptor of that name.
pub(crate) fn give_up(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        tracing::warn!("systemd could not be told to give up {name}: {error}");
    }
}
