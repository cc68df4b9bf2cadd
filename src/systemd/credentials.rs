//! Credentials that systemd passes to a service (`LoadCredential=`, systemd.exec(5)).

use std::path::PathBuf;

/// Where the credential `name` lies, or `None` when systemd passed no credentials.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(|directory| PathBuf::from(directory).join(name))
}
