//! Credentials that systemd passes to a service (`LoadCredential=`, systemd.exec(5)).

use std::path::PathBuf;

/// The file of the credential `name`, or `None` when systemd passed no credentials.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(|directory| PathBuf::from(directory).join(name))
}
