//! A file system that hangs, as NFS does when its server is away: a FUSE mount whose server never answers. It is mounted in
//! a namespace of one command, and ends with it.

use std::path::Path;
use std::process::Command;

/// Mounts it, and runs the command. The descriptor stays open: when the last one is closed, the file system fails
/// instead of hanging. A user who is not root becomes root of a namespace of his own.
const SCRIPT: &str = "\
import ctypes, os, sys\n\
libc = ctypes.CDLL(None, use_errno=True)\n\
fuse = os.open('/dev/fuse', os.O_RDWR)\n\
os.set_inheritable(fuse, True)\n\
NOSUID_NODEV, PRIVATE = 6, 0x44000\n\
libc.mount(None, b'/', None, PRIVATE, None)\n\
options = f'fd={fuse},rootmode=40000,user_id=0,group_id=0'.encode()\n\
if libc.mount(b'hung', sys.argv[1].encode(), b'fuse', NOSUID_NODEV, options) != 0:\n\
\x20   sys.exit('the mount failed: ' + os.strerror(ctypes.get_errno()))\n\
os.execv(sys.argv[2], sys.argv[2:])\n";

/// Whether this machine has FUSE.
pub fn is_possible() -> bool {
    let possible = Path::new("/dev/fuse").exists();
    if !possible {
        eprintln!("NOT TESTED: a file system that hangs takes /dev/fuse");
    }
    possible
}

/// The command, for which everything below `directory` hangs.
pub fn below(directory: &Path, command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.arg("--mount");
    if !nix::unistd::geteuid().is_root() {
        wrapped.args(["--user", "--map-root-user"]);
    }
    wrapped.args(["python3", "-c", SCRIPT]).arg(directory);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}
