//! The file systems of everything that the configuration names: each answers. Nothing else is checked before that,
//! because every later check would wait for one that hangs, as the agent does.

use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;

use super::CheckOptions;
use super::credentials;
use super::finding::{Check, Finding};
use super::report::Report;
use crate::config::Settings;
use crate::config::settings::KeyServiceSettings;
use crate::files;
use crate::systemd::units::Units;

/// Looks at each file and directory, all at once. Returns whether every file system answered.
pub(super) async fn check(
    options: &CheckOptions,
    settings: &Settings,
    units: &Units,
    report: &mut Report<'_>,
) -> bool {
    let mut paths = vec![settings.server.runtime_dir.clone(), settings.server.state_dir.clone()];
    paths.extend(options.encryption_config.clone());
    let services = settings.decrypt_only.iter().map(|(_, service)| service);
    for service in std::iter::once(&settings.primary).chain(services) {
        if let KeyServiceSettings::Vault(vault) = service {
            let mut vault = vault.clone();
            // systemd may wait for the sources of its credentials.
            credentials::read_from_outside(&mut vault, units);
            paths.extend(credentials::paths(&vault));
        }
    }
    paths.sort_unstable();
    paths.dedup();
    let looks = join_all(paths.into_iter().map(|path| look(path, options.timeout))).await;
    let hung: Vec<PathBuf> = looks.into_iter().flatten().collect();
    for path in &hung {
        report.add(Finding::fail(
            Check::Credentials,
            path.display().to_string(),
            format!("its file system did not answer within {:?}", options.timeout),
            "the agent waits for it, too, and cannot log in or load a configuration meanwhile",
            "findmnt lists the mounts: repair the server of the one that holds this path, or unmount it (umount --lazy) and keep the file on a local disk",
        ));
    }
    hung.is_empty()
}

/// Looks at one path; returns it when the file system did not answer in time.
async fn look(path: PathBuf, timeout: Duration) -> Option<PathBuf> {
    let looked = path.clone();
    let answered = files::in_time(timeout, move || {
        // Any answer will do: whether the file is good is checked later.
        let _answer = first_byte(&looked);
        Ok(())
    });
    let is_hung = answered.await.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
    is_hung.then_some(path)
}

/// Of a regular file only: whoever writes into a pipe would notice that we close it.
fn first_byte(path: &Path) -> io::Result<usize> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(0);
    }
    let (mut file, _) = files::open(path)?;
    file.read(&mut [0])
}
