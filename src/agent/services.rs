//! Sets up the key services that a configuration names.

use std::sync::Arc;

use super::error::AgentError;
use crate::config::Settings;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::Vault;
use crate::embedded::EmbeddedService;
use crate::health::{DecryptOnly, Verdict};
use crate::key_service::KeyService;
use crate::telemetry::metrics::Metrics;
use crate::vault::{Budget, TransitService, Transport};

/// The primary, and the key services that only unwrap; `transport` sends their requests. Reads TLS files and keyrings; sends nothing yet.
pub(super) fn build(
    settings: &Settings,
    metrics: &Metrics,
    transport: &Arc<dyn Transport>,
) -> Result<(Arc<dyn KeyService>, Vec<DecryptOnly>), AgentError> {
    let shares = |service: &KeyServiceSettings| matches!(service, KeyServiceSettings::Vault(vault) if vault.shares_login);
    let sharing = settings.decrypt_only.iter().filter(|(_, service)| shares(service)).count();
    let transit = |name: &str, vault: &Vault, services: usize| {
        let budget = Budget::new(name, &settings.health, services, vault.addresses.len(), metrics.clone());
        TransitService::new(vault, metrics.clone(), transport.clone(), budget).map(Arc::new)
    };
    let main = match &settings.primary {
        KeyServiceSettings::Vault(vault) => Some(transit("primary", vault, 1 + sharing)?),
        KeyServiceSettings::Embedded(_) => None,
    };
    let open = |name: &str, service: &KeyServiceSettings| -> Result<Arc<dyn KeyService>, AgentError> {
        Ok(match (service, &main) {
            (KeyServiceSettings::Vault(vault), Some(main)) if vault.shares_login => {
                Arc::new(main.beside(vault))
            }
            (KeyServiceSettings::Vault(vault), _) => transit(name, vault, 1)?,
            (KeyServiceSettings::Embedded(path), _) => Arc::new(EmbeddedService::open(path.clone())?),
        })
    };
    let decrypt_only = settings.decrypt_only.iter().map(|(name, service)| {
        let (key_service, epoch) = (open(name, service)?, service.key_id_epoch());
        Ok(DecryptOnly {
            name: name.clone(),
            epoch,
            key_service,
            key: None,
            verdict: Verdict::Unknown,
            last_contact: None,
            refused_since: None,
        })
    });
    let decrypt_only = decrypt_only.collect::<Result<Vec<_>, AgentError>>()?;
    let primary: Arc<dyn KeyService> = match &main {
        Some(main) => main.clone(),
        None => open("primary", &settings.primary)?,
    };
    Ok((primary, decrypt_only))
}
