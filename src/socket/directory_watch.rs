//! Reports changes in a directory, with inotify(7): in that of a socket, and in those of the configuration.
//!
//! Must not know what the changes mean: the caller checks the files. Some changes are not reported: a file system
//! that is mounted over the directory, and a renamed parent directory.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The events that may mean that the socket is gone. IN_UNMOUNT, IN_IGNORED (the watch ended) and IN_Q_OVERFLOW are
/// always reported.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);
/// The events that may mean that a file has another content, or that another user may read it.
const FILE_EVENTS: AddWatchFlags =
    EVENTS.union(AddWatchFlags::IN_CLOSE_WRITE).union(AddWatchFlags::IN_ATTRIB);

/// An inotify instance, as `AsyncFd` needs it.
struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn open() -> io::Result<AsyncFd<Instance>> {
    let instance = Instance(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?);
    // SAFETY: `Instance` owns the descriptor, returns always the same one, and closes it only when it is dropped.
    #[allow(unsafe_code)]
    // tokio has no safe way to wait for a descriptor that is neither a socket nor a pipe
    let registered = unsafe { AsyncFd::register_with_interest(instance, Interest::READABLE) };
    Ok(registered?)
}

/// A watch on the directory at a path.
pub(crate) struct DirectoryWatch {
    directory: PathBuf,
    events: AddWatchFlags,
    /// `None` when inotify is not available.
    inotify: Option<AsyncFd<Instance>>,
    watched: Option<WatchDescriptor>,
}

impl DirectoryWatch {
    /// A watch for files that come and go. It is not armed yet. When there is no inotify, that is logged, and
    /// [`Self::arm`] returns false.
    pub(super) fn new(directory: &Path) -> Self {
        Self::with(directory, EVENTS)
    }

    /// A watch that reports also changes of the content and of the mode of files.
    pub(crate) fn of_files(directory: &Path) -> Self {
        Self::with(directory, FILE_EVENTS)
    }

    fn with(directory: &Path, events: AddWatchFlags) -> Self {
        let mut new = Self { directory: directory.to_path_buf(), events, inotify: None, watched: None };
        match open() {
            Ok(inotify) => new.inotify = Some(inotify),
            Err(error) => new.give_up(&error),
        }
        new
    }

    /// Watches the directory that is at the path now. Call this before each check of the files, so that no later
    /// change is missed. Returns false when changes are not reported: the directory is missing, or inotify is not
    /// available.
    pub(crate) fn arm(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        // For a directory that is watched already, this returns the same descriptor and changes nothing.
        match inotify.get_ref().0.add_watch(&self.directory, self.events) {
            Ok(watched) => {
                let old = self.watched.replace(watched);
                // The directory was replaced. The old one may still exist under another name. Its watch may have
                // ended.
                if let Some(old) = old.filter(|old| *old != watched) {
                    let _ended = inotify.get_ref().0.rm_watch(old);
                }
                true
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => false,
            // For example the limit fs.inotify.max_user_watches, or SELinux.
            Err(errno) => {
                self.give_up(&errno.into());
                false
            }
        }
    }

    /// Waits for a change. Never returns when changes are not reported.
    pub(crate) async fn changed(&mut self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        let result = loop {
            let mut ready = match inotify.readable().await {
                Ok(ready) => ready,
                Err(error) => break Err(error),
            };
            // The kind of the event does not matter: the caller checks the files after each one.
            let read = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?));
            if let Ok(read) = read {
                break read.map(drop);
            }
        };
        if let Err(error) = result {
            self.give_up(&error);
        }
    }

    /// Ends the use of inotify. It is not tried again: an access that SELinux denies would be in the audit log each
    /// time.
    fn give_up(&mut self, error: &io::Error) {
        self.inotify = None;
        tracing::info!(
            "changes of the directory {} are not reported (inotify: {error}); its files are checked in short intervals instead",
            self.directory.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// How long a test waits for an event that must come.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn reports(watch: &mut DirectoryWatch) -> bool {
        tokio::time::timeout(PATIENCE, watch.changed()).await.is_ok()
    }

    /// Whether nothing is reported. The time is short: an event that is wrong is there already.
    async fn is_quiet(watch: &mut DirectoryWatch) -> bool {
        tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_err()
    }

    #[tokio::test]
    async fn created_deleted_and_moved_files_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = DirectoryWatch::new(directory.path());
        assert!(watch.arm() && watch.arm());
        assert!(is_quiet(&mut watch).await);
        let (file, other) = (directory.path().join("file"), directory.path().join("other"));
        fs::write(&file, "").unwrap();
        assert!(reports(&mut watch).await);
        fs::rename(&file, &other).unwrap();
        assert!(reports(&mut watch).await);
        fs::remove_file(&other).unwrap();
        assert!(reports(&mut watch).await);
        assert!(is_quiet(&mut watch).await);
    }

    #[tokio::test]
    async fn a_replaced_directory_is_reported_and_the_new_one_is_watched() {
        let parent = tempfile::tempdir().unwrap();
        let (path, aside) = (parent.path().join("directory"), parent.path().join("aside"));
        let mut watch = DirectoryWatch::new(&path);
        assert!(!watch.arm(), "it does not exist yet");
        fs::create_dir(&path).unwrap();
        assert!(watch.arm());
        fs::rename(&path, &aside).unwrap();
        assert!(reports(&mut watch).await);
        assert!(!watch.arm());
        fs::create_dir(&path).unwrap();
        assert!(watch.arm());
        // The end of the watch on the old directory is reported, too.
        assert!(reports(&mut watch).await);
        fs::write(aside.join("file"), "").unwrap();
        assert!(is_quiet(&mut watch).await, "the old directory is not watched any more");
        fs::write(path.join("file"), "").unwrap();
        assert!(reports(&mut watch).await);
        fs::remove_dir_all(&path).unwrap();
        assert!(reports(&mut watch).await);
    }

    #[tokio::test]
    async fn a_new_content_or_mode_of_a_file_is_reported_where_it_matters() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let (mut sockets, mut files) =
            (DirectoryWatch::new(directory.path()), DirectoryWatch::of_files(directory.path()));
        assert!(sockets.arm() && files.arm());
        fs::write(&file, "new").unwrap();
        assert!(reports(&mut files).await);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(reports(&mut files).await);
        assert!(is_quiet(&mut sockets).await);
    }

    #[tokio::test]
    async fn without_inotify_nothing_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = DirectoryWatch::new(directory.path());
        watch.give_up(&io::Error::other("test"));
        assert!(!watch.arm());
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(is_quiet(&mut watch).await);
    }
}
