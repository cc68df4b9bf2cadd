//! A socket that the agent binds itself. It replaces a stale socket, sets the mode before anybody can connect, and
//! removes only its own file.
//!
//! Must not know the protocol on the socket. A socket that another process serves is never replaced, and a file that
//! is not a socket is never removed.

use std::fs::{self, FileType};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use super::SocketError;

/// Mode of the socket: a process that can connect can ask the agent to unwrap every DEK seed.
const MODE: Mode = Mode::from_bits_truncate(0o600);

/// A bound socket. Drop removes its file, unless another socket has replaced it.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    path: PathBuf,
    /// Device and inode of the file.
    inode: (u64, u64),
    listener: UnixListener,
}

impl BoundSocket {
    /// Binds `path` with mode 0600. Nobody can connect before the mode is set. A stale socket is replaced atomically:
    /// the path always exists.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let error = |action: &'static str| {
            let path = path.to_path_buf();
            move |cause: io::Error| SocketError::Io { path, action, cause }
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !directory.is_dir() {
            return Err(SocketError::NoDirectory(directory.to_path_buf()));
        }
        let mode = fs::metadata(directory).map_err(error("inspected"))?.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Err(SocketError::OpenDirectory(directory.to_path_buf()));
        }
        // Two agents that start at the same time would both find a stale socket. The lock lets one wait for the
        // other.
        let locked = fs::File::open(directory).map_err(error("locked"))?;
        let _lock = Flock::lock(locked, FlockArg::LockExclusive)
            .map_err(|(_, errno)| error("locked")(errno.into()))?;
        refuse_if_taken(path)?;
        let temporary = temporary_name(path);
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(|errno| error("created")(errno.into()))?;
        // The file gets the mode of the socket. A change of the mode by its path would follow a link that somebody has put
        // there in the meantime.
        fchmod(&fd, MODE).map_err(|errno| error("created")(errno.into()))?;
        let address = UnixAddr::new(&temporary).map_err(|errno| error("bound")(errno.into()))?;
        bind(fd.as_raw_fd(), &address).map_err(|errno| error("bound")(errno.into()))?;
        let finish = || -> io::Result<(u64, u64)> {
            // The longest queue of waiting connections: the limit is `net.core.somaxconn` (listen(2)).
            listen(&fd, Backlog::MAXALLOWABLE)?;
            let metadata = fs::symlink_metadata(&temporary)?;
            fs::rename(&temporary, path)?;
            Ok((metadata.dev(), metadata.ino()))
        };
        match finish() {
            Ok(inode) => Ok(Self { path: path.to_path_buf(), inode, listener: UnixListener::from(fd) }),
            Err(cause) => {
                let _gone = fs::remove_file(&temporary);
                Err(error("moved to its path")(cause))
            }
        }
    }

    /// A copy of the listener. It is non-blocking.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Whether our socket is still at the path: false when it was deleted or replaced.
    pub(crate) fn in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode)
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if self.in_place() {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// What is in place of a socket, in words that an article can precede; `None` for a socket.
pub(crate) fn occupant(kind: FileType) -> Option<&'static str> {
    match () {
        () if kind.is_socket() => None,
        () if kind.is_dir() => Some("directory"),
        () if kind.is_symlink() => Some("symbolic link"),
        () if kind.is_file() => Some("file"),
        () => Some("special file"),
    }
}

/// Returns an error if the path exists, unless it is a stale socket.
fn refuse_if_taken(path: &Path) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(SocketError::Io { path: path.to_path_buf(), action: "inspected", cause }),
    };
    if let Some(kind) = occupant(metadata.file_type()) {
        return Err(SocketError::NotASocket { path: path.to_path_buf(), kind });
    }
    match probe(path) {
        Ok(()) => Err(SocketError::InUse(path.to_path_buf())),
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{} is a stale socket; replacing it", path.display());
            Ok(())
        }
        // The queue of another server is full: it is alive.
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::InUse(path.to_path_buf()))
        }
        Err(cause) => Err(SocketError::Io { path: path.to_path_buf(), action: "probed", cause }),
    }
}

/// Connects without blocking: with a full queue, a blocking connect would wait.
fn probe(path: &Path) -> io::Result<()> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    Ok(connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?)
}

/// A name in the same directory, seven bytes longer. It contains the process id, so that no other agent uses it.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:06x}", std::process::id() & 0xff_ffff));
    let name = PathBuf::from(name);
    // A file that a crashed agent with the same process id left.
    if fs::symlink_metadata(&name).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        let _gone = fs::remove_file(&name);
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn test_path() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kms.sock");
        (directory, path)
    }

    #[test]
    fn a_bound_socket_is_private_and_removed_on_drop() {
        let (directory, path) = test_path();
        let bound = BoundSocket::bind(&path).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert!(bound.in_place());
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "no temporary file is left");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_in_use_is_not_replaced() {
        let (_directory, path) = test_path();
        let bound = BoundSocket::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(SocketError::InUse(_))));
        assert!(bound.in_place() && UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let (_directory, path) = test_path();
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err());
        let _bound = BoundSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_never_removed() {
        let (directory, path) = test_path();
        fs::write(&path, "precious").unwrap();
        let error = BoundSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("a file is at the path of the socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let error = BoundSocket::bind(directory.path()).unwrap_err().to_string();
        assert!(error.contains("a directory is at the path of the socket"), "{error}");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(BoundSocket::bind(&link).unwrap_err().to_string().contains("symbolic link"));
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    }

    #[test]
    fn only_our_own_inode_is_removed() {
        let (_directory, path) = test_path();
        let first = BoundSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!first.in_place());
        let second = BoundSocket::bind(&path).unwrap();
        drop(first);
        assert!(second.in_place(), "the newer socket stays");
    }

    #[test]
    fn a_missing_directory_is_reported() {
        let (directory, _) = test_path();
        let path = directory.path().join("missing/kms.sock");
        let error = BoundSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("mkdir"), "{error}");
    }
}
