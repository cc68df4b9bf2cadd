//! The forward proxy of `vault.proxy`, as the HTTP client takes it.
//!
//! Must not know which addresses it is for. Nothing is taken from the environment.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use rustls::ClientConfig;
use zeroize::Zeroizing;

use super::pem::TlsError;
use crate::config::forward_proxy::ForwardProxy;
use crate::http;

/// Reads the password of the proxy's user, if there is one.
///
/// # Errors
/// When the password cannot be read.
pub(super) fn read(
    proxy: Option<&ForwardProxy>,
    tls: &Arc<ClientConfig>,
) -> Result<Option<http::Proxy>, TlsError> {
    let Some(proxy) = proxy else { return Ok(None) };
    let unusable = || TlsError::new(format!("vault.proxy {} cannot be used", proxy.name()));
    let built = |login| http::Proxy::new(&proxy.url, tls, login).map(Some).map_err(|_| unusable());
    let Some((user, password)) = &proxy.login else { return built(None) };
    let password = password.read().map_err(|error| {
        TlsError::new(format!("the password for vault.proxy {}: {error}; {}", proxy.name(), error.remedy))
    })?;
    let login = Zeroizing::new(format!("{user}:{}", password.expose()));
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(login.as_bytes())));
    let mut header = HeaderValue::try_from(text.as_str()).map_err(|_| unusable())?;
    header.set_sensitive(true);
    built(Some(header))
}
