//! Reads files with a size limit, and replaces files atomically.
//!
//! Must not know what a file contains. All code that reads or writes whole files uses this module: a FIFO, a device
//! or an endless file must not block the process or fill its memory, and a crash must not leave half a file.

mod access;
mod encoding;

pub(crate) use access::FileAccess;
pub(crate) use encoding::WrongEncoding;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

/// Smallest buffer for a file, in bytes. Into a smaller one the standard library reads by way of a probe on the stack,
/// where a copy of the secret would stay.
const MIN_CAPACITY: usize = 64;
/// How temporary files begin; the random part follows.
const TEMPORARY: &str = ".kms-plugin-";
/// Age at which a temporary file was left by a process that was killed: writing takes seconds.
const STALE: Duration = Duration::from_secs(3600);

/// Opens a regular file for reading. Opening a FIFO does not wait for a writer (open(2), O_NONBLOCK).
///
/// # Errors
/// The system's, or `InvalidInput` when it is not a regular file.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok((file, metadata));
    }
    let kind = if metadata.is_dir() { "it is a directory" } else { "it is not a regular file" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, kind))
}

/// Reads a regular file of at most `max` bytes. The content is zeroized when it is dropped: many of these files
/// contain secrets.
///
/// # Errors
/// The system's, `InvalidInput` when it is not a regular file, `FileTooLarge` when it is larger.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let (file, metadata) = open(path)?;
    read_open(file, &metadata, max)
}

/// Reads a file that was named on a command line, of at most `max` bytes. It may be a pipe: `<(ssh node-2 …)`.
///
/// # Errors
/// The system's, `InvalidInput` for a directory, `FileTooLarge` when it is larger.
pub(crate) fn read_argument(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a directory"));
    }
    read_open(file, &metadata, max)
}

/// Reads an open file of at most `max` bytes, like [`read`].
///
/// # Errors
/// The system's, or `FileTooLarge`.
pub(crate) fn read_open(file: File, metadata: &Metadata, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let too_large =
        || io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {max} bytes, the limit"));
    if metadata.len() > max {
        return Err(too_large());
    }
    // Reserve the full size: a buffer that grows leaves copies of a secret in memory. A file may still be longer than
    // its metadata says: files in /proc have length 0, and a file may grow during the read.
    let capacity = usize::try_from(metadata.len().saturating_add(1)).unwrap_or_default().max(MIN_CAPACITY);
    let mut content = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max { Err(too_large()) } else { Ok(content) }
}

/// Reads a text file of at most `max` bytes, like [`read`].
///
/// # Errors
/// As [`read`], and `InvalidData` when it is not UTF-8.
pub(crate) fn read_text(path: &Path, max: u64) -> io::Result<Zeroizing<String>> {
    into_text(read(path, max)?)
}

/// Converts bytes to text. The bytes are zeroized, also when they are not UTF-8.
///
/// # Errors
/// `InvalidData` when it is not UTF-8.
pub(crate) fn into_text(mut bytes: Zeroizing<Vec<u8>>) -> io::Result<Zeroizing<String>> {
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
        }
    }
}

/// Replaces the file at `path` atomically. The new file has mode 0600. A symbolic link at `path` is replaced, not
/// followed. The temporary file has a random name, so that nobody can create it before. File and directory are
/// synced. Temporary files that killed processes have left are removed: they may hold secrets.
///
/// # Errors
/// The system's, and those of [`is_trusted_directory`]. The old file is then unchanged.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    is_trusted_directory(directory)?;
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    temporary.write_all(content)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    // The file is replaced. Without this sync, a power cut may bring back the old file, which is whole, too.
    let _synced = File::open(directory).and_then(|directory| directory.sync_all());
    remove_stale(directory);
    Ok(())
}

/// Checks that no other user can replace the files in a directory: it belongs to this user or to root, and others may
/// write to it only if they cannot remove files that are not theirs (the sticky bit). An agent of root must not put its
/// files where another user decides what is in them.
///
/// # Errors
/// `PermissionDenied` with the reason, or the system's.
pub(crate) fn is_trusted_directory(directory: &Path) -> io::Result<()> {
    let found = std::fs::metadata(directory)?;
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if found.uid() != 0 && found.uid() != nix::unistd::geteuid().as_raw() {
        return refused(format!(
            "{} belongs to user {}, who could replace every file in it",
            directory.display(),
            found.uid()
        ));
    }
    if found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0 {
        return refused(format!("every user can replace files in {}", directory.display()));
    }
    Ok(())
}

/// Removes what killed processes have left in a directory. A file that cannot be removed stays: nothing depends on it.
fn remove_stale(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
        let modified = || entry.metadata().and_then(|metadata| metadata.modified()).ok();
        if is_ours && modified().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > STALE) {
            let _removed = std::fs::remove_file(entry.path());
        }
    }
}

/// Runs `work`, which reads or writes files, in a thread of the blocking pool, and waits at most `timeout`. A file
/// system that hangs (NFS, FUSE) then blocks that thread, and not the runtime.
///
/// # Errors
/// Those of `work`, or `TimedOut`.
pub(crate) async fn in_time<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // A simulation has its own clock, which a thread of the system's does not follow.
    #[cfg(test)]
    if crate::clock::simulated::elapsed().is_some() {
        return work();
    }
    match tokio::time::timeout(timeout, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(panicked)) => Err(io::Error::other(panicked)),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the file system did not answer within {timeout:?}"),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(**read(&path, 5).unwrap(), *b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(
            read(Path::new("/proc/self/status"), 1 << 20).unwrap().len() > 100,
            "metadata with length 0 does not limit the read"
        );
        assert_eq!(read(Path::new("/proc/self/status"), 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&*fifo, directory.path(), Path::new("/dev/zero")] {
            assert_eq!(read(path, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
    }

    #[test]
    fn a_file_is_replaced_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("file"), directory.path().join("target"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        replace(&path, b"new").unwrap();
        replace(&path, b"newer").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newer");
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2, "no temporary file is left");
        assert!(replace(&directory.path().join("missing/file"), b"x").is_err());
    }

    /// A name that another user can foresee could be a link of his to any file.
    #[test]
    fn nothing_is_written_where_another_user_could_put_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let set = |mode| std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).unwrap();
        for (mode, is_trusted) in [(0o777, false), (0o1777, true), (0o770, true), (0o700, true)] {
            set(mode);
            assert_eq!(replace(&path, b"x").is_ok(), is_trusted, "{mode:o}");
        }
        // Only root can give a directory away.
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(65534), None).unwrap();
            let refused = replace(&path, b"y").unwrap_err();
            assert!(refused.to_string().contains("belongs to user 65534"), "{refused}");
            assert_eq!(std::fs::read(&path).unwrap(), b"x");
        }
    }

    #[test]
    fn a_pipe_may_be_named_on_a_command_line() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let path = fifo.clone();
        let writer = std::thread::spawn(move || std::fs::write(path, "12345").unwrap());
        assert_eq!(**read_argument(&fifo, 5).unwrap(), *b"12345");
        writer.join().unwrap();
        assert_eq!(read_argument(Path::new("/"), 5).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read_argument(Path::new("/dev/zero"), 5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (old, young) =
            (directory.path().join(".kms-plugin-old"), directory.path().join(".kms-plugin-young"));
        for path in [&old, &young] {
            std::fs::write(path, "half a file").unwrap();
        }
        let past = std::time::SystemTime::now() - STALE * 2;
        File::options().write(true).open(&old).unwrap().set_modified(past).unwrap();
        replace(&directory.path().join("file"), b"new").unwrap();
        assert!(!old.exists() && young.exists());
    }

    #[tokio::test]
    async fn a_hung_file_system_does_not_block_the_caller() {
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let work = move || hung.recv().map_err(io::Error::other);
        let waited = in_time(Duration::from_millis(10), work).await;
        assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(release);
    }
}
