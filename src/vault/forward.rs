//! The forward proxy of `vault.proxy`, as the HTTP client takes it.
//!
//! Must not know which addresses it is for. Nothing is taken from the environment.

use super::pem::TlsError;
use crate::config::forward_proxy::ForwardProxy;

/// Reads the password of the proxy's user, if there is one.
///
/// # Errors
/// When the password cannot be read.
pub(super) fn read(proxy: Option<&ForwardProxy>) -> Result<Option<reqwest::Proxy>, TlsError> {
    let Some(proxy) = proxy else { return Ok(None) };
    let built = reqwest::Proxy::all(proxy.url.clone())
        .map_err(|_| TlsError::new(format!("vault.proxy {} cannot be used", proxy.name())))?;
    let Some((user, password)) = &proxy.login else { return Ok(Some(built)) };
    let password = password.read().map_err(|error| {
        TlsError::new(format!("the password for vault.proxy {}: {error}; {}", proxy.name(), error.remedy))
    })?;
    Ok(Some(built.basic_auth(user, password.expose())))
}
