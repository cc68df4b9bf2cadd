//! The secrets of this node: they are read, so that the redaction can remove them.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::secret::RoleId;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::{Method, Vault};
use crate::config::{Merged, Settings};
use crate::diagnose::check::Configuration;
use crate::files;
use crate::systemd::units::Units;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;
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
    let mut texts: Vec<_> = files.iter().filter_map(|file| read(file)).collect();
    texts.extend(settings.iter().flat_map(of_settings));
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

fn of_settings(settings: &Settings) -> Vec<Zeroizing<String>> {
    let services =
        std::iter::once(&settings.primary).chain(settings.decrypt_only.iter().map(|(_, service)| service));
    let vaults = services.filter_map(|service| match service {
        KeyServiceSettings::Vault(vault) => Some(vault.as_ref()),
        KeyServiceSettings::Embedded(_) => None,
    });
    vaults.flat_map(of_login).collect()
}

fn of_login(vault: &Vault) -> Vec<Zeroizing<String>> {
    let role_id = match &vault.auth.method {
        Method::AppRole { role_id: RoleId::Literal(role_id), .. } => Some(Zeroizing::new(role_id.clone())),
        Method::AppRole { role_id: RoleId::File(path), .. } => read(path),
        _ => None,
    };
    let secret = vault.auth.method.secret().and_then(|(_, source)| read(&source.path()?));
    let key = vault.tls.client.iter().filter_map(|(_, key)| read(key));
    let proxy = vault.proxy.as_ref().and_then(|proxy| proxy.login.as_ref());
    let password = proxy.and_then(|(_, source)| read(&source.path()?));
    role_id.into_iter().chain(secret).chain(key).chain(password).collect()
}
