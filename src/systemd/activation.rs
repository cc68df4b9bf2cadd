//! Sockets that systemd opened for us (sd_listen_fds(3)). The only place that takes descriptors over.

use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt};

/// The name of our socket's descriptor (`FileDescriptorName=` in the socket unit).
pub const KMS: &str = "kms";

/// The listening unix socket that systemd passed: the one called `kms`, or the only one. `None` when
/// systemd passed none. Non-blocking, whatever the unit says: a blocking one would stop a whole thread.
///
/// # Errors
/// When sockets were passed and none of them is a listening unix socket that can be ours.
pub fn kms_listener() -> io::Result<Option<UnixListener>> {
    let passed: Vec<(i32, String)> = sd_notify::listen_fds_with_names()?.collect();
    let named = passed.iter().find(|(_, name)| name == KMS);
    let Some((raw, name)) = named.or(if passed.len() == 1 { passed.first() } else { None }) else {
        return match passed.len() {
            0 => Ok(None),
            count => Err(io::Error::other(format!(
                "systemd passed {count} sockets and none is called {KMS}; set FileDescriptorName={KMS} in kms-plugin.socket"
            ))),
        };
    };
    // SAFETY: systemd passes each descriptor open and to this process alone ($LISTEN_PID is checked), and
    // this function is called once, before anything else could take it over.
    #[allow(unsafe_code)] // there is no safe way to own a descriptor that comes as a number
    let fd = unsafe { OwnedFd::from_raw_fd(*raw) };
    let family = getsockname::<SockaddrStorage>(*raw)?.family();
    let listens = getsockopt(&fd.as_fd(), sockopt::AcceptConn)?;
    if family != Some(AddressFamily::Unix) || !listens {
        return Err(io::Error::other(format!(
            "the socket {name:?} that systemd passed is not a listening unix socket"
        )));
    }
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}
