//! The key services that a configuration names, made ready.

use std::sync::Arc;

use super::error::AgentError;
use super::publisher::DecryptOnly;
use crate::backend::Backend;
use crate::config::Settings;
use crate::config::settings::KeyService;
use crate::embedded::EmbeddedBackend;
use crate::telemetry::metrics::Metrics;
use crate::vault::TransitBackend;

/// The primary, and those that only unwrap. Reads TLS files and keyrings; sends nothing yet.
pub(super) fn build(
    settings: &Settings,
    metrics: &Metrics,
) -> Result<(Arc<dyn Backend>, Vec<DecryptOnly>), AgentError> {
    let main = match &settings.primary {
        KeyService::Vault(vault) => Some(Arc::new(TransitBackend::new(vault, metrics.clone())?)),
        KeyService::Embedded(_) => None,
    };
    let open = |service: &KeyService| -> Result<Arc<dyn Backend>, AgentError> {
        Ok(match (service, &main) {
            (KeyService::Vault(vault), Some(main)) if vault.shares_login => Arc::new(main.beside(vault)),
            (KeyService::Vault(vault), _) => Arc::new(TransitBackend::new(vault, metrics.clone())?),
            (KeyService::Embedded(path), _) => Arc::new(EmbeddedBackend::open(path.clone())?),
        })
    };
    let decrypt_only = settings.decrypt_only.iter().map(|(name, service)| {
        let (backend, epoch) = (open(service)?, service.key_id_epoch());
        Ok(DecryptOnly {
            name: name.clone(),
            epoch,
            backend,
            key: None,
            problem: None,
            contact: None,
            refuses: false,
        })
    });
    let decrypt_only = decrypt_only.collect::<Result<Vec<_>, AgentError>>()?;
    let primary: Arc<dyn Backend> = match &main {
        Some(main) => main.clone(),
        None => open(&settings.primary)?,
    };
    Ok((primary, decrypt_only))
}
