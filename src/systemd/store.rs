//! systemd's file descriptor store (sd_pid_notify_with_fds(3), FileDescriptorStoreMax= in the unit). systemd passes
//! the stored descriptors back after a restart or a crash, not after a stop.

use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

/// Whether systemd can be asked to store a descriptor. It may still refuse.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Asks systemd to store `fd` under `name`: at most 255 ASCII characters, without a colon.
pub(crate) fn keep(name: &str, fd: BorrowedFd<'_>) {
    // FDPOLL= is not needed: a memfd cannot be polled, so systemd removes it only by its name.
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[fd]) {
        tracing::warn!("systemd could not store {name}: {error}; it will be lost when the agent restarts");
    }
}

/// Asks systemd to close every stored descriptor of that name.
pub(crate) fn give_up(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        tracing::warn!("systemd could not remove {name} from its store: {error}");
    }
}
