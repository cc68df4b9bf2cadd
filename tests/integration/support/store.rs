//! Stands in for systemd's file descriptor store: keeps the descriptors that an agent sends, and passes them to the next.
//!
//! These tests run without root and without a systemd of their own; `tests/system` uses the real one. The stand-in does
//! what sd_pid_notify_with_fds(3) says and the agent relies on: a descriptor is kept under its name until it is removed
//! by name, and messages that were sent before the end of the sender count.

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tempfile::TempDir;

use super::PATIENCE;
use super::agent::{Agent, passing_all};
use super::tools;

/// The most descriptors that the agent sends in one message.
const AT_ONCE: usize = 4;
/// A message that ends the receiver.
const END: &str = "X_TEST_END=1";
/// A message that is answered when all messages before it have been handled. The path of the socket for the answer
/// follows.
const BARRIER: &str = "X_TEST_BARRIER=";

/// The store, and the listening socket of a socket unit, for one agent after another.
pub struct Store {
    directory: TempDir,
    listener: UnixListener,
    kept: Arc<Mutex<Vec<(String, OwnedFd)>>>,
    receiver: Option<JoinHandle<()>>,
}

impl Store {
    /// An empty one.
    pub fn new(listener: UnixListener) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let kept = Arc::<Mutex<Vec<_>>>::default();
        let taken = kept.clone();
        // A thread: an agent waits until its messages are received, while the test waits for the agent.
        let receiver = std::thread::spawn(move || while take(&socket, &taken) {});
        Self { directory, listener, kept, receiver: Some(receiver) }
    }

    /// Starts an agent with the socket and with the kept descriptors.
    pub fn start(&self, directory: TempDir, config: &str) -> Agent {
        self.start_program(directory, config, &tools::plugin())
    }

    /// The same with this executable.
    pub fn start_program(&self, directory: TempDir, config: &str, program: &Path) -> Agent {
        self.settle();
        let kept = self.kept.lock().unwrap();
        let mut passed = vec![("kms", self.listener.as_fd())];
        passed.extend(kept.iter().map(|(name, fd)| (name.as_str(), fd.as_fd())));
        Agent::start_with(directory, config, |command| {
            let mut command = passing_all(&passed, program.as_os_str(), &command);
            command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
            command
        })
    }

    /// The names of what is kept, in order.
    pub fn names(&self) -> Vec<String> {
        self.settle();
        let mut names: Vec<_> = self.kept.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Drops everything, as `systemctl stop` does.
    pub fn clear(&self) {
        self.settle();
        self.kept.lock().unwrap().clear();
    }

    /// Waits until all messages so far have been handled.
    fn settle(&self) {
        let path = self.directory.path().join("barrier");
        let answer = UnixDatagram::bind(&path).unwrap();
        answer.set_read_timeout(Some(PATIENCE)).unwrap();
        self.send(&format!("{BARRIER}{}", path.display()));
        answer.recv(&mut [0]).expect("the receiver of notifications answers");
        std::fs::remove_file(path).unwrap();
    }

    fn send(&self, message: &str) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(message.as_bytes(), self.directory.path().join("notify")).unwrap();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.send(END);
        let _ended = self.receiver.take().map(JoinHandle::join);
    }
}

/// Handles one message. False after the last one.
fn take(socket: &UnixDatagram, kept: &Mutex<Vec<(String, OwnedFd)>>) -> bool {
    let mut buffer = [0; 8192];
    let mut space = cmsg_space!([i32; AT_ONCE]);
    let (text, sent) = {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
                .unwrap();
        let mut sent = Vec::new();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has just made these descriptors for this process, and nobody else has them.
                #[allow(unsafe_code)] // there is no safe way to own a descriptor that comes as a number
                sent.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        (message.iovs().flatten().copied().collect::<Vec<u8>>(), sent)
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    if let Some(path) = value(BARRIER) {
        UnixDatagram::unbound().unwrap().send_to(&[1], path).unwrap();
    }
    let name = value("FDNAME=").unwrap_or("stored").to_owned();
    if value("FDSTOREREMOVE=") == Some("1") {
        kept.lock().unwrap().retain(|(known, _)| *known != name);
    }
    if value("FDSTORE=") == Some("1") {
        kept.lock().unwrap().extend(sent.into_iter().map(|fd| (name.clone(), fd)));
    }
    !text.contains(END)
}
