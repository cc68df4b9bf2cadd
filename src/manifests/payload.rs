//! The files that a configuration names: which of them are secret, and what goes into a manifest.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::credentials::suffix;
use crate::cli::exit::{Exit, Failure};
use crate::config::Settings;
use crate::config::secret::{RoleId, SecretSource};
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::{Method, Vault};

/// Largest file that goes into a MachineConfig, in bytes: the whole pool's may have 1.5 MiB.
const MAX_FILE: usize = 256 * 1024;

/// A file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Anybody may read it.
    Public(PathBuf),
    /// It holds a secret, which has this name.
    Secret(String, PathBuf),
}

/// Every file that the configuration names, each once.
pub(crate) fn places(settings: &Settings) -> Vec<Place> {
    let named = settings.decrypt_only.iter().map(|(name, service)| (suffix(name), service));
    let mut places = Vec::new();
    for (suffix, service) in std::iter::once((String::new(), &settings.primary)).chain(named) {
        let KeyServiceSettings::Vault(vault) = service else { continue };
        for place in of_vault(vault, &suffix) {
            let path = |place: &Place| match place {
                Place::Public(path) | Place::Secret(_, path) => path.clone(),
            };
            if !places.iter().any(|other| path(other) == path(&place)) {
                places.push(place);
            }
        }
    }
    places
}

fn of_vault(vault: &Vault, suffix: &str) -> Vec<Place> {
    let mut places: Vec<Place> = vault.tls.ca_file.iter().cloned().map(Place::Public).collect();
    if let Some((cert, key)) = &vault.tls.client {
        places.push(Place::Public(cert.clone()));
        places.push(Place::Secret(format!("client-key{suffix}"), key.clone()));
    }
    let (name, source) = match &vault.auth.method {
        Method::AppRole { role_id, secret_id, .. } => {
            if let RoleId::File(path) = role_id {
                places.push(Place::Public(path.clone()));
            }
            ("secret-id", secret_id)
        }
        Method::Token(token) => ("token", token),
        Method::Userpass { password, .. } => ("password", password),
        Method::Jwt { jwt, .. } | Method::Kubernetes { jwt, .. } => ("jwt", jwt),
        Method::Cert { .. } => return places,
    };
    if let SecretSource::File { path, .. } = source {
        places.push(Place::Secret(format!("{name}{suffix}"), path.clone()));
    }
    places
}

/// A file for Ignition, with its contents in a data URL (RFC 2397).
pub(crate) fn file(path: &str, mode: u32, contents: &[u8]) -> Value {
    json!({
        "path": path,
        "mode": mode,
        "overwrite": true,
        "contents": { "source": format!("data:;base64,{}", STANDARD.encode(contents)) },
    })
}

/// The contents of a file of this machine that goes into a manifest.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let contents = std::fs::read(path).map_err(|error| {
        let message = format!(
            "{} is named by the configuration and cannot be read here; render on a machine that has it",
            path.display()
        );
        Failure::new(Exit::Unavailable, error).context(message)
    })?;
    if contents.len() > MAX_FILE {
        let message = format!(
            "{} has more than {MAX_FILE} bytes; a pool's MachineConfig has room for 1.5 MiB",
            path.display()
        );
        return Err(Failure::message(Exit::Config, message));
    }
    Ok(contents)
}
