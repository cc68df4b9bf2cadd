//! Notices changes of the files that a login uses: credentials, and the files of TLS.
//!
//! Must not read what is in them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::files::FileAccess;

/// When each file was last changed; `None` when the file does not exist.
type Stamps = Vec<(PathBuf, Option<SystemTime>)>;

/// A set of files, and how they were when they were last checked.
#[derive(Debug, Default)]
pub(super) struct WatchedFiles {
    files: Vec<PathBuf>,
    /// `None` before the first check.
    seen: Mutex<Option<Stamps>>,
}

impl WatchedFiles {
    pub(super) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut files: Vec<PathBuf> = files.into_iter().collect();
        files.sort_unstable();
        files.dedup();
        Self { files, seen: Mutex::default() }
    }

    pub(super) fn contains(&self, file: &PathBuf) -> bool {
        self.files.contains(file)
    }

    /// Whether a file has changed since the last call; `false` at the first call. While the file system hangs, this is
    /// not known, and the answer is `false`, too.
    pub(super) async fn changed(&self, access: &FileAccess) -> bool {
        if self.files.is_empty() {
            return false;
        }
        let files = self.files.clone();
        let stamp = |path: PathBuf| {
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            (path, modified)
        };
        let Ok(stamps) = access.run(move || files.into_iter().map(stamp).collect::<Stamps>()).await else {
            return false;
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.replace(stamps.clone()).is_some_and(|before| before != stamps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let (path, missing) = (directory.path().join("file"), directory.path().join("missing"));
        std::fs::write(&path, "one").unwrap();
        let (files, access) = (WatchedFiles::new([path.clone(), missing.clone()]), FileAccess::default());
        assert!(!files.changed(&access).await, "the first time");
        std::fs::write(&path, "two").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(1);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(files.changed(&access).await && !files.changed(&access).await);
        std::fs::write(&missing, "it exists now").unwrap();
        assert!(files.changed(&access).await && !files.changed(&access).await);
        std::fs::remove_file(&path).unwrap();
        assert!(files.changed(&access).await && !files.changed(&access).await);
        assert!(!WatchedFiles::default().changed(&access).await, "nothing to watch");
    }
}
