//! What need not be done again: for each resource, the revision from which on every object is under the current key.
//!
//! When a run begins, each API server has the new key. Whatever is written from then on is under it, by this run or by
//! anybody else, and has a higher revision. So one number for each resource is all that a later run needs to go on where
//! this one was; there is no list of objects and no position. Without the file, a later run asks again for each object,
//! and the API server writes nothing for those that are done: the file saves time and decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;

/// Largest file, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// The file, for one cluster and one target.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    file: Option<PathBuf>,
    content: Content,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    /// The UID of the namespace kube-system.
    cluster: String,
    /// What the objects are brought under.
    target: String,
    /// By the name of the resource.
    revisions: BTreeMap<String, u64>,
}

impl Checkpoint {
    /// Reads the file. One of another cluster or another target counts for nothing, and neither does one that cannot be
    /// read. `None`: nothing is remembered.
    pub(crate) fn open(file: Option<&Path>, cluster: &str, target: &str) -> Self {
        let fresh =
            Content { cluster: cluster.to_owned(), target: target.to_owned(), revisions: BTreeMap::new() };
        let read = file.and_then(|file| files::read(file, MAX_FILE).ok());
        let read: Option<Content> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let same = read.filter(|read| {
            !cluster.is_empty() && read.cluster == fresh.cluster && read.target == fresh.target
        });
        Self { file: file.map(Path::to_owned), content: same.unwrap_or(fresh) }
    }

    /// From which revision on the objects of a resource are done, by an older run. `now` is the revision of the first page.
    /// A higher one is from before a restore of etcd, and counts for nothing.
    pub(super) fn known(&self, resource: &str, now: u64) -> Option<u64> {
        self.content.revisions.get(resource).copied().filter(|known| *known <= now)
    }

    /// The same; without an older run, this one begins at `now`.
    pub(super) fn begin(&mut self, resource: &str, now: u64) -> io::Result<u64> {
        if let Some(known) = self.known(resource, now) {
            return Ok(known);
        }
        self.content.revisions.insert(resource.to_owned(), now);
        self.write().map(|()| now)
    }

    fn write(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)?;
        }
        files::replace(file, &serde_json::to_vec_pretty(&self.content)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_goes_on_from_the_first_revision() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/rewrite.json");
        let open = |cluster: &str, target: &str| Checkpoint::open(Some(&file), cluster, target);
        assert_eq!(open("c", "k2").begin("secrets", 100).unwrap(), 100);
        assert_eq!(open("c", "k2").begin("secrets", 250).unwrap(), 100);
        assert_eq!((open("c", "k2").known("secrets", 250), open("c", "k2").known("x", 1)), (Some(100), None));
        assert_eq!(open("c", "k2").begin("configmaps", 250).unwrap(), 250);
        assert_eq!(open("c", "k2").begin("configmaps", 260).unwrap(), 250, "both are remembered");
        assert_eq!(open("c", "k2").begin("secrets", 90).unwrap(), 90, "etcd was restored");
        assert_eq!(open("other", "k2").begin("secrets", 300).unwrap(), 300, "another cluster");
        assert_eq!(open("other", "k3").begin("secrets", 310).unwrap(), 310, "another key");
        assert_eq!(Checkpoint::open(None, "c", "k").begin("secrets", 5).unwrap(), 5);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(open("c", "k2").begin("secrets", 400).unwrap(), 400, "a broken file counts for nothing");
    }
}
