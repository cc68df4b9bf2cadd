//! Refused credentials, remembered from run to run. After a few failed logins a server locks the role, for every
//! node.
//!
//! The file is in a directory of our own. In the runtime directory, the user of the agent could replace the file by a
//! link, and root would follow it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::is_ours_alone;
use crate::clock::unix_seconds;
use crate::files;
use crate::key_service::KeyServiceError;

/// How long refused credentials are not sent again, in seconds: as long as in the agent.
const REST: i64 = 15 * 60;
/// Most refused credentials in the file; the oldest are dropped.
const MAX_REMEMBERED: usize = 16;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;
const FILE: &str = "refused.json";

/// A refusal cannot be saved.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", .directory.display())]
pub(super) struct SaveError {
    directory: PathBuf,
    cause: io::Error,
}

/// The refused logins of the last 15 minutes.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    directory: PathBuf,
    list: Vec<Refused>,
}

/// One refused login.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Refused {
    /// A hash of the credentials and of the place they were sent to.
    login_id: String,
    /// In seconds since 1970.
    at: i64,
    pub(super) seen: String,
    pub(super) remedy: String,
}

impl Refused {
    pub(super) fn age(&self) -> Duration {
        Duration::from_secs(u64::try_from(unix_seconds().saturating_sub(self.at)).unwrap_or_default())
    }
}

impl Refusals {
    /// The refusals of earlier runs, for the agent with this runtime directory. A file that cannot be read counts as
    /// empty.
    pub(super) fn load(runtime_dir: &Path) -> Self {
        let mut name = runtime_dir.as_os_str().to_owned();
        name.push("-check");
        let directory = PathBuf::from(name);
        let list: Vec<Refused> = read(&directory).unwrap_or_default();
        let now = unix_seconds();
        // A time in the future comes from a wrong clock: it must not stop the check for ever.
        let fresh = |refused: &Refused| (now - REST..=now).contains(&refused.at);
        Self { directory, list: list.into_iter().filter(fresh).collect() }
    }

    pub(super) fn find(&self, login_id: &str) -> Option<&Refused> {
        self.list.iter().find(|refused| refused.login_id == login_id)
    }

    pub(super) fn remember(&mut self, login_id: String, error: &KeyServiceError) -> Result<(), SaveError> {
        let (seen, remedy) = (error.to_string(), error.remedy().to_owned());
        self.list.push(Refused { login_id, at: unix_seconds(), seen, remedy });
        let surplus = self.list.len().saturating_sub(MAX_REMEMBERED);
        self.list.drain(..surplus);
        self.save().map_err(|cause| SaveError { directory: self.directory.clone(), cause })
    }

    fn save(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        is_ours_alone(&self.directory)?;
        files::replace(&self.directory.join(FILE), &serde_json::to_vec(&self.list)?)
    }
}

fn read(directory: &Path) -> Option<Vec<Refused>> {
    is_ours_alone(directory).ok()?;
    serde_json::from_slice(&files::read(&directory.join(FILE), MAX_FILE).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_service::ErrorKind;

    #[test]
    fn a_refusal_is_found_again_and_only_in_a_directory_of_ours() {
        let parent = tempfile::tempdir().unwrap();
        let runtime_dir = parent.path().join("run");
        let error = KeyServiceError::new(ErrorKind::CredentialsRefused, "400", "write a new one");
        let mut refusals = Refusals::load(&runtime_dir);
        refusals.remember("one".into(), &error).unwrap();
        let again = Refusals::load(&runtime_dir);
        assert_eq!(again.find("one").unwrap().remedy, "write a new one");
        assert!(again.find("two").is_none());
        (0..MAX_REMEMBERED).for_each(|number| refusals.remember(number.to_string(), &error).unwrap());
        assert!(Refusals::load(&runtime_dir).find("one").is_none());
        let other = parent.path().join("other");
        std::os::unix::fs::symlink(parent.path().join("run-check"), parent.path().join("other-check"))
            .unwrap();
        let mut linked = Refusals::load(&other);
        assert!(linked.list.is_empty() && linked.remember("x".into(), &error).is_err());
    }
}
