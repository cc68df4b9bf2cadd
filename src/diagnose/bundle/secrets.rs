//! The secrets of this node: they are read, so that the redaction can remove them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use zeroize::Zeroizing;

use crate::config::secret::RoleId;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::Method;
use crate::config::{Merged, Settings};
use crate::diagnose::check::Configuration;
use crate::files;
use crate::systemd::units::Units;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;
/// Longest time to read one file.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The settings that name a file with a secret.
const SECRET_FILES: [&str; 7] = [
    "vault.auth.token_file",
    "vault.auth.role_id_file",
    "vault.auth.secret_id_file",
    "vault.auth.password_file",
    "vault.auth.jwt_file",
    "vault.client_key_file",
    "vault.proxy_password_file",
];

/// Every line of every secret that this configuration and the units name.
pub(super) async fn of_this_node(configuration: &Configuration) -> Vec<Zeroizing<String>> {
    // Without the units, the credentials of the running service are still known by their directory.
    let mut files = Units::read().await.unwrap_or_default().credential_files();
    let settings = configuration.settings().ok();
    if settings.is_none() {
        // A configuration that is not valid may still name its secrets.
        files.extend(configuration.merged.iter().flat_map(named_files));
    }
    let (of_vaults, literals) = settings.as_ref().map(of_settings).unwrap_or_default();
    files.extend(of_vaults);
    let reads = files.into_iter().map(|file| files::in_time(TIMEOUT, move || Ok(read(&file))));
    // A file that cannot be read, because it is not there or its file system hangs, is left to the patterns.
    let mut texts: Vec<_> =
        join_all(reads).await.into_iter().filter_map(|read| read.ok().flatten()).collect();
    texts.extend(literals);
    let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
    // The first and last line of a PEM file are no secret.
    let secret = lines.filter(|line| !line.is_empty() && !line.starts_with("-----"));
    secret.map(|line| Zeroizing::new(line.to_owned())).collect()
}

fn named_files(merged: &Merged) -> Vec<PathBuf> {
    let file = |key: &&str| merged.value(key)?.into_string().map(PathBuf::from);
    SECRET_FILES.iter().filter_map(file).collect()
}

/// The whole file, with any mode and content. A file that the agent would refuse may hold a secret, too.
fn read(path: &Path) -> Option<Zeroizing<String>> {
    let bytes = files::read(path, MAX_FILE).ok()?;
    Some(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The files with secrets of all key services, and the secrets that are in the settings themselves.
fn of_settings(settings: &Settings) -> (Vec<PathBuf>, Vec<Zeroizing<String>>) {
    let services =
        std::iter::once(&settings.primary).chain(settings.decrypt_only.iter().map(|(_, service)| service));
    let (mut files, mut literals) = (Vec::new(), Vec::new());
    for service in services {
        let KeyServiceSettings::Vault(vault) = service else { continue };
        match &vault.auth.method {
            Method::AppRole { role_id: RoleId::Literal(role_id), .. } => {
                literals.push(Zeroizing::new(role_id.clone()));
            }
            Method::AppRole { role_id: RoleId::File(path), .. } => files.push(path.clone()),
            _ => {}
        }
        files.extend(vault.auth.method.secret().and_then(|(_, source)| source.path()));
        files.extend(vault.tls.client.iter().map(|(_, key)| key.clone()));
        let proxy = vault.proxy.as_ref().and_then(|proxy| proxy.login.as_ref());
        files.extend(proxy.and_then(|(_, source)| source.path()));
    }
    (files, literals)
}
