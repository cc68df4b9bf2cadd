//! HTTP requests to agents: to the admin address of this node, and to other nodes.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::admin::api_types::Status;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebError {
    #[error("no HTTP client can be made: {0}")]
    NoClient(String),
    /// With the last cause: the first one is too general.
    #[error("{}", last_cause(.0))]
    Request(reqwest::Error),
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("its answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("its answer is not the status of an agent")]
    NotAgent,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// An HTTP client that ignores the proxy of the environment.
pub(super) struct Web {
    client: Result<reqwest::Client, String>,
}

impl Web {
    pub(super) fn new() -> Self {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = tls.map_err(|error| error.to_string()).and_then(|builder| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .tls_backend_preconfigured(builder.with_root_certificates(roots).with_no_client_auth())
                .build()
                .map_err(|error| error.to_string())
        });
        Self { client }
    }

    /// The status of the agent whose admin API is at `base`.
    ///
    /// # Errors
    /// When no agent answers there in `time`.
    pub(super) async fn status(&self, base: &str, time: Duration) -> Result<Status, WebError> {
        let client = self.client.as_ref().map_err(|why| WebError::NoClient(why.clone()))?;
        let request = async {
            let url = format!("{}/status", base.trim_end_matches('/'));
            let mut response = client.get(url).send().await.map_err(WebError::Request)?;
            if !response.status().is_success() {
                return Err(WebError::Refused(response.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(WebError::Request)? {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Err(WebError::TooLong);
                }
                body.extend_from_slice(&chunk);
            }
            parse(&body).ok_or(WebError::NotAgent)
        };
        tokio::time::timeout(time, request).await.unwrap_or(Err(WebError::TimedOut(time)))
    }
}

fn last_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// The status of an agent; `None` when it is something else. Every version of the agent writes the phase.
pub(crate) fn parse(text: &[u8]) -> Option<Status> {
    #[derive(Deserialize)]
    struct Always {
        #[serde(rename = "phase")]
        _phase: IgnoredAny,
    }
    serde_json::from_slice::<Always>(text).ok()?;
    serde_json::from_slice(text).ok()
}
