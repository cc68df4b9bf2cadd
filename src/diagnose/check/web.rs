//! HTTP to agents: this one's admin address, and other nodes'.

use std::time::Duration;

use rustls::ClientConfig;

use crate::admin::types::Status;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// A client without a proxy from the environment.
pub(crate) struct Web {
    http: Result<reqwest::Client, String>,
}

impl Web {
    pub(crate) fn new() -> Self {
        let told = |error: &dyn std::error::Error| format!("no HTTP client can be made: {error}");
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let http = tls.map_err(|error| told(&error)).and_then(|builder| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .tls_backend_preconfigured(builder.with_root_certificates(roots).with_no_client_auth())
                .build()
                .map_err(|error| told(&error))
        });
        Self { http }
    }

    /// `/status` below `base`, of an agent.
    pub(crate) async fn status(&self, base: &str, time: Duration) -> Result<Status, String> {
        let http = self.http.as_ref().map_err(Clone::clone)?;
        let asked = async {
            let url = format!("{}/status", base.trim_end_matches('/'));
            let mut response = http.get(url).send().await.map_err(|error| chain(&error))?;
            if !response.status().is_success() {
                return Err(format!("it answers {}", response.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Err("its answer has no end".to_owned());
                }
                body.extend_from_slice(&chunk);
            }
            super::peer::parse(&body).ok_or_else(|| "its answer is not that of an agent".to_owned())
        };
        match tokio::time::timeout(time, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {time:?}")),
        }
    }
}

/// The last cause says what happened; the first only that something did.
fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}
