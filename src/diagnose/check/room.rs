//! The directories that the agent writes to: the service's user may write there, and there is room.
//!
//! Writes nothing: it asks the file system.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::finding::{Check, Finding};
use super::report::Report;
use super::service_user::{ServiceUser, UnknownUser};
use crate::files;

/// Less room than this is a problem, in bytes: the files of the agent have some kilobytes, and a file is replaced by a
/// second one.
const LITTLE: u64 = 1 << 20;
/// What the runtime directory is for.
pub(super) const RUNTIME: &str =
    "the agent cannot save the identity of the key: after a restart in an outage it does not know it";
/// What the state directory is for.
pub(super) const STATE: &str = "the agent cannot save the list of wrapped keys: when it starts, it does not know which keys to unwrap before an outage";
/// The section of docs/troubleshooting.md about these directories.
pub(crate) const SECTION: &str = "the-agent-cannot-write-its-files";
/// Fewer new files than this are a problem.
const FEW_FILES: u64 = 8;

/// Checks a directory, where it exists. `why` says what the agent needs it for; `time` is for the file system.
pub(super) async fn check(
    directory: &Path,
    why: &str,
    user: &Result<ServiceUser, UnknownUser>,
    time: Duration,
    report: &mut Report<'_>,
) {
    let place = directory.to_path_buf();
    let looked = files::in_time(time, move || if place.is_dir() { full(&place) } else { Ok(None) }).await;
    let looked = looked.unwrap_or_else(|cause| Some(format!("cannot be looked at: {cause}")));
    let shown = directory.display().to_string();
    let fail = |seen: String, remedy: String| Finding::fail(Check::Agent, &shown, seen, why, remedy);
    let of_user = || user.as_ref().ok().and_then(|user| Some((user, user.may_write_in(directory).err()?)));
    let finding = match looked {
        Some(seen) => fail(
            seen,
            format!(
                "free space, or make the file system larger: df -h {shown}; df -i {shown}; findmnt -T {shown}"
            ),
        ),
        None => {
            let Some((user, obstacle)) = of_user() else { return };
            fail(
                format!("user {} cannot write there: {} does not allow it", user.name, obstacle.display()),
                format!("{}, then: systemctl restart kms-plugin", user.grant_own(directory, &obstacle)),
            )
        }
    };
    report.add(finding.at(SECTION));
}

/// Why nothing can be written there.
fn full(directory: &Path) -> io::Result<Option<String>> {
    let found = statvfs(directory)?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    Ok(match () {
        () if found.flags().contains(FsFlags::ST_RDONLY) => Some("its file system is read-only".into()),
        () if free < LITTLE => Some(format!("its file system is full: {} KiB are free", free / 1024)),
        // Some file systems do not count their files.
        () if found.files() > 0 && found.files_available() < FEW_FILES => {
            Some("its file system can hold no more files: no inode is free".into())
        }
        () => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_with_room_and_one_that_is_missing_are_no_finding() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(full(directory.path()).unwrap(), None);
        let mut report = Report::new(|_| ());
        let (user, time) = (Err(UnknownUser::NotRoot), Duration::from_secs(60));
        check(&directory.path().join("missing"), "", &user, time, &mut report).await;
        check(directory.path(), "", &user, time, &mut report).await;
        assert!(report.findings().is_empty());
    }
}
