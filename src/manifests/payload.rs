//! The files that a configuration names: which of them are secret, and what goes into a manifest.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::credentials::suffix;
use super::error::ManifestError;
use crate::config::Settings;
use crate::config::endpoint::Endpoint;
use crate::config::secret::{RoleId, SecretSource};
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::{Method, Vault};
use crate::files;

/// Largest file in a MachineConfig, in bytes. All MachineConfigs of a pool may have 1.5 MiB together.
const MAX_FILE: u64 = 256 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NamedFile {
    /// A file that everybody may read.
    Public(PathBuf),
    /// The name of a secret and its file.
    Secret(String, PathBuf),
}

/// The files that the configuration names, each once.
pub(super) fn named_files(settings: &Settings) -> Vec<NamedFile> {
    let named = settings.decrypt_only.iter().map(|(name, service)| (suffix(name), service));
    let mut found: Vec<NamedFile> = Vec::new();
    for (suffix, service) in std::iter::once((String::new(), &settings.primary)).chain(named) {
        let KeyServiceSettings::Vault(vault) = service else { continue };
        for file in of_vault(vault, &suffix) {
            if !found.iter().any(|other| other.path() == file.path()) {
                found.push(file);
            }
        }
    }
    found
}

/// The directories of the unix sockets that the agent connects to: those of local proxies, and of SPIFFE's Workload API.
pub(super) fn socket_directories(settings: &Settings) -> Vec<PathBuf> {
    let services =
        std::iter::once(&settings.primary).chain(settings.decrypt_only.iter().map(|(_, service)| service));
    let mut found: Vec<PathBuf> = Vec::new();
    for service in services {
        let KeyServiceSettings::Vault(vault) = service else { continue };
        let addresses = vault.addresses.iter().filter_map(Endpoint::socket);
        let by_jwt = match &vault.auth.method {
            Method::JwtSvid { spiffe, .. } => Some(spiffe),
            _ => None,
        };
        let apis =
            vault.tls.spiffe.as_deref().into_iter().chain(by_jwt).map(|spiffe| spiffe.socket.as_path());
        found.extend(addresses.chain(apis).filter_map(Path::parent).map(Path::to_path_buf));
    }
    found.sort();
    found.dedup();
    found
}

impl NamedFile {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Public(path) | Self::Secret(_, path) => path,
        }
    }
}

fn of_vault(vault: &Vault, suffix: &str) -> Vec<NamedFile> {
    let mut found: Vec<NamedFile> = vault.tls.ca_file.iter().cloned().map(NamedFile::Public).collect();
    if let Some((cert, key)) = &vault.tls.client {
        found.push(NamedFile::Public(cert.clone()));
        found.push(NamedFile::Secret(format!("client-key{suffix}"), key.clone()));
    }
    if let Method::AppRole { role_id: RoleId::File(path), secret_id, .. } = &vault.auth.method {
        found.push(match secret_id {
            Some(_) => NamedFile::Public(path.clone()),
            // It is the whole credential.
            None => NamedFile::Secret(format!("role-id{suffix}"), path.clone()),
        });
    }
    if let Some((name, SecretSource::File { path, .. })) = vault.auth.method.secret() {
        found.push(NamedFile::Secret(format!("{}{suffix}", name.to_lowercase()), path.clone()));
    }
    if let Some((_, SecretSource::File { path, .. })) =
        vault.proxy.as_ref().and_then(|proxy| proxy.login.as_ref())
    {
        found.push(NamedFile::Secret(format!("proxy-password{suffix}"), path.clone()));
    }
    found
}

/// A file as Ignition takes it, with its content in a data URL (RFC 2397).
pub(super) fn ignition(path: &str, mode: u32, contents: &[u8]) -> Value {
    json!({
        "path": path,
        "mode": mode,
        "overwrite": true,
        "contents": { "source": format!("data:;base64,{}", STANDARD.encode(contents)) },
    })
}

/// The content of a file on this machine, for a manifest.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ManifestError> {
    files::read(path, MAX_FILE).map_err(|cause| match cause.kind() {
        io::ErrorKind::FileTooLarge => ManifestError::TooLarge { file: path.to_owned(), max: MAX_FILE },
        _ => ManifestError::Unreadable { file: path.to_owned(), cause },
    })
}
