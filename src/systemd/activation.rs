//! File descriptors that systemd passes at a start (sd_listen_fds(3)): the listening socket, and the descriptors of
//! the file descriptor store. Only this module takes descriptors over.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt};

/// The name of our socket's descriptor (`FileDescriptorName=` in the socket unit).
pub(crate) const KMS: &str = "kms";

/// The descriptors that systemd passed.
#[derive(Default)]
pub(crate) struct Passed {
    /// The listening unix socket: the one called `kms`, or the only one. Non-blocking, whatever the unit says:
    /// a blocking one would stop a whole thread.
    pub listener: Option<UnixListener>,
    /// The descriptors that [`super::store`] stored before the restart, by name.
    pub kept: Vec<(String, OwnedFd)>,
}

/// Takes over what systemd passed. A name that begins with `kept` belongs to the file descriptor store. Call it once.
///
/// # Errors
/// When systemd passed sockets, and ours is not among them, or is not a listening unix socket.
pub(crate) fn take(kept: &str) -> io::Result<Passed> {
    let mut passed = Vec::new();
    for (raw, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passes each descriptor open and only to this process ($LISTEN_PID is checked),
        // and this function is called once, before anything else could take it over.
        #[allow(unsafe_code)] // there is no safe way to own a descriptor that comes as a number
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        passed.push((name, fd));
    }
    let (kept, mut sockets): (Vec<_>, Vec<_>) =
        passed.into_iter().partition(|(name, _)| name.starts_with(kept));
    let ours = match (sockets.iter().position(|(name, _)| name == KMS), sockets.len()) {
        (Some(position), _) => position,
        (None, 0) => return Ok(Passed { listener: None, kept }),
        (None, 1) => 0,
        (None, count) => {
            return Err(io::Error::other(format!(
                "systemd passed {count} sockets and none is called {KMS}; set FileDescriptorName={KMS} in kms-plugin.socket"
            )));
        }
    };
    let (name, fd) = sockets.swap_remove(ours);
    Ok(Passed { listener: Some(listener(&name, fd)?), kept })
}

fn listener(name: &str, fd: OwnedFd) -> io::Result<UnixListener> {
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family();
    let listens = getsockopt(&fd.as_fd(), sockopt::AcceptConn)?;
    if family != Some(AddressFamily::Unix) || !listens {
        return Err(io::Error::other(format!(
            "the socket {name:?} that systemd passed is not a listening unix socket"
        )));
    }
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}
