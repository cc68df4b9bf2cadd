//! Sets up the key services that a configuration names.

use std::sync::Arc;

use super::error::AgentError;
use crate::config::Settings;
use crate::config::settings::KeyServiceSettings;
use crate::embedded::EmbeddedService;
use crate::health::{DecryptOnly, Verdict};
use crate::key_service::KeyService;
use crate::telemetry::metrics::Metrics;
use crate::vault::TransitService;

/// The primary, and the key services that only unwrap. Reads TLS files and keyrings; sends nothing yet.
pub(super) fn build(
    settings: &Settings,
    metrics: &Metrics,
) -> Result<(Arc<dyn KeyService>, Vec<DecryptOnly>), AgentError> {
    let main = match &settings.primary {
        KeyServiceSettings::Vault(vault) => Some(Arc::new(TransitService::new(vault, metrics.clone())?)),
        KeyServiceSettings::Embedded(_) => None,
    };
    let open = |service: &KeyServiceSettings| -> Result<Arc<dyn KeyService>, AgentError> {
        Ok(match (service, &main) {
            (KeyServiceSettings::Vault(vault), Some(main)) if vault.shares_login => {
                Arc::new(main.beside(vault))
            }
            (KeyServiceSettings::Vault(vault), _) => Arc::new(TransitService::new(vault, metrics.clone())?),
            (KeyServiceSettings::Embedded(path), _) => Arc::new(EmbeddedService::open(path.clone())?),
        })
    };
    let decrypt_only = settings.decrypt_only.iter().map(|(name, service)| {
        let (key_service, epoch) = (open(service)?, service.key_id_epoch());
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
        None => open(&settings.primary)?,
    };
    Ok((primary, decrypt_only))
}
