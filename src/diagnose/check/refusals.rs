//! Credentials that a server refused, remembered from run to run: a server locks a role after a few failures, for
//! every node.
//!
//! In a directory of our own: in the agent's, its user could put a link in the file's place, and have root follow it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::is_ours_alone;
use crate::clock::unix_seconds;
use crate::key_service::KeyServiceError;

/// How long refused credentials are not sent again: as long as the agent lets them rest, in seconds.
const REST: i64 = 15 * 60;
/// Refused credentials that are remembered.
const MAX_REMEMBERED: usize = 16;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;
const FILE: &str = "refused.json";

/// Refused logins of the last minutes.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    directory: PathBuf,
    list: Vec<Refused>,
}

/// One login that was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// A hash of the credentials and of where they were sent.
    login_id: String,
    at: i64,
    pub seen: String,
    pub remedy: String,
}

impl Refused {
    pub(crate) fn age(&self) -> Duration {
        Duration::from_secs(u64::try_from(unix_seconds() - self.at).unwrap_or_default())
    }
}

impl Refusals {
    /// Those of earlier runs, for the agent with this runtime directory.
    pub(crate) fn load(runtime_dir: &Path) -> Self {
        let mut name = runtime_dir.as_os_str().to_owned();
        name.push("-check");
        let directory = PathBuf::from(name);
        let list: Vec<Refused> = read(&directory).unwrap_or_default();
        let now = unix_seconds();
        // A time in the future is of another clock: it must not keep a check from working for ever.
        let fresh = |refused: &Refused| (now - REST..=now).contains(&refused.at);
        Self { directory, list: list.into_iter().filter(fresh).collect() }
    }

    pub(crate) fn find(&self, login_id: &str) -> Option<&Refused> {
        self.list.iter().find(|refused| refused.login_id == login_id)
    }

    pub(crate) fn remember(&mut self, login_id: String, error: &KeyServiceError) -> Result<(), String> {
        let (seen, remedy) = (error.to_string(), error.remedy().to_owned());
        self.list.push(Refused { login_id, at: unix_seconds(), seen, remedy });
        let surplus = self.list.len().saturating_sub(MAX_REMEMBERED);
        self.list.drain(..surplus);
        self.save().map_err(|cause| format!("{}: {cause}", self.directory.display()))
    }

    fn save(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        is_ours_alone(&self.directory)?;
        let (file, temporary) = (self.directory.join(FILE), self.directory.join(format!("{FILE}.new")));
        let mut options = OpenOptions::new();
        let mut written = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        written.write_all(&serde_json::to_vec(&self.list)?)?;
        fs::rename(temporary, file)
    }
}

fn read(directory: &Path) -> Option<Vec<Refused>> {
    is_ours_alone(directory).ok()?;
    let mut text = Vec::new();
    File::open(directory.join(FILE)).ok()?.take(MAX_FILE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_service::ErrorKind;

    #[test]
    fn what_was_refused_is_found_again_and_only_in_a_directory_of_ours() {
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
