//! A drop-in for kms-plugin.service that passes the secrets of the configuration as systemd credentials.

use super::ManifestError;
use super::credentials::{Credential, replace_files};
use crate::config::Merged;

/// With `encrypted`, systemd expects FILE.cred, encrypted by systemd-creds.
///
/// # Errors
/// The configuration names no secret.
pub(crate) fn render(merged: &Merged, encrypted: bool) -> Result<String, ManifestError> {
    let mut config = merged.extract()?;
    let credentials = replace_files(&mut config);
    if credentials.is_empty() {
        return Err(ManifestError::NoSecrets);
    }
    Ok(drop_in(&credentials, encrypted))
}

pub(super) fn drop_in(credentials: &[Credential], encrypted: bool) -> String {
    let mut text = String::from(
        "# Secrets of kms-plugin. systemd passes them at each start (systemd.exec(5)). After a change, run\n\
         # systemctl restart kms-plugin. It refuses no connection.\n[Service]\n",
    );
    let (key, suffix) = if encrypted { ("LoadCredentialEncrypted", ".cred") } else { ("LoadCredential", "") };
    for credential in credentials {
        let file = credential.file.clone();
        let file = file.unwrap_or_else(|| format!("/etc/kms-plugin/{}", credential.name));
        text.push_str(&format!("{key}={}:{file}{suffix}\n", credential.name));
    }
    text
}
