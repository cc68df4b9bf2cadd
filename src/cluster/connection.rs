//! The connection to one API server: a login from a kubeconfig or a service account, and single calls with a deadline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode, header};
use kube::Config;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, NamedCluster};
use serde::de::DeserializeOwned;
use url::Url;

use super::error::{CallError, ConnectionError, Refusal};
use crate::display::{fit, with_causes};
use crate::http::PROGRAM;

/// Largest body of an error that is read, in bytes.
const MAX_ERROR: usize = 64 * 1024;
/// Longest line of a text that is read, in bytes.
const MAX_LINE: usize = 64 * 1024;
/// Longest text that is read line by line, in bytes. The metrics of a large API server have some 10 MB.
const MAX_TEXT: usize = 512 * 1024 * 1024;

/// JSON as it is.
pub(super) const JSON: &str = "application/json";

/// Where the address and the login come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    /// `None`: as for kubectl, and in a pod the service account.
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
}

/// A connection to one API server, or to a load balancer before several.
#[derive(Clone)]
pub(crate) struct Connection {
    client: kube::Client,
    config: Arc<Config>,
    timeout: Duration,
}

/// One call.
pub(super) struct Call<'a> {
    pub method: Method,
    /// With the query; already encoded.
    pub path: String,
    pub accept: &'a str,
    /// The content type, and the content.
    pub body: Option<(&'static str, String)>,
    /// Largest answer, in bytes.
    pub limit: usize,
}

impl<'a> Call<'a> {
    pub(super) fn get(path: impl Into<String>, accept: &'a str, limit: usize) -> Self {
        Self { method: Method::GET, path: path.into(), accept, body: None, limit }
    }
}

enum Found {
    Kubeconfig(Box<Kubeconfig>),
    /// The service account of a pod.
    Pod(Box<Config>),
}

/// The kubeconfig that is named, or that kubectl would use; in a pod without one, the service account.
fn found(login: &Login) -> Result<Found, ConnectionError> {
    let unusable = |error| ConnectionError::Kubeconfig(Box::new(error));
    if let Some(file) = &login.kubeconfig {
        return Kubeconfig::read_from(file).map(Box::new).map(Found::Kubeconfig).map_err(unusable);
    }
    match (Kubeconfig::read(), Config::incluster()) {
        (Ok(kubeconfig), _) => Ok(Found::Kubeconfig(Box::new(kubeconfig))),
        (Err(_), Ok(config)) => Ok(Found::Pod(Box::new(config))),
        (Err(error), Err(_)) => Err(ConnectionError::NoLogin(Box::new(error))),
    }
}

impl Connection {
    /// Reads the kubeconfig, or the service account of this pod. Does not connect yet. Each call has `timeout`.
    ///
    /// # Errors
    /// There is no login, or it cannot be used.
    pub(crate) async fn open(login: &Login, timeout: Duration) -> Result<Self, ConnectionError> {
        let mut config = match found(login)? {
            Found::Pod(config) => *config,
            Found::Kubeconfig(kubeconfig) => {
                let proxied = |named: &NamedCluster| {
                    named.cluster.as_ref().is_some_and(|cluster| cluster.proxy_url.is_some())
                };
                if kubeconfig.clusters.iter().any(proxied) {
                    return Err(ConnectionError::Proxy);
                }
                let options =
                    KubeConfigOptions { context: login.context.clone(), ..KubeConfigOptions::default() };
                let config = Config::from_custom_kubeconfig(*kubeconfig, &options).await;
                config.map_err(|error| ConnectionError::Kubeconfig(Box::new(error)))?
            }
        };
        // No proxy from the environment, as everywhere in kms-plugin.
        config.proxy_url = None;
        // The caller waits and tries again itself: it knows how fast it may be.
        config.default_retry = false;
        config.connect_timeout = Some(timeout);
        // The audit log of the API server names it.
        config.headers.push((header::USER_AGENT, HeaderValue::from_static(PROGRAM)));
        Self::new(config, timeout)
    }

    fn new(config: Config, timeout: Duration) -> Result<Self, ConnectionError> {
        let client = kube::Client::try_from(config.clone())
            .map_err(|error| ConnectionError::Client(Box::new(error)))?;
        Ok(Self { client, config: Arc::new(config), timeout })
    }

    /// The same login at another address. `server_name` is what the certificate there must name; `None`: the address.
    ///
    /// # Errors
    /// The address is not one.
    pub(crate) fn at(&self, address: &Url, server_name: Option<&str>) -> Result<Self, ConnectionError> {
        let mut config = Config::clone(&self.config);
        let wrong = || ConnectionError::Address(fit(address.as_str(), 200));
        config.cluster_url = address.as_str().trim_end_matches('/').parse().map_err(|_| wrong())?;
        config.tls_server_name = server_name.map(str::to_owned);
        Self::new(config, self.timeout)
    }

    /// The address.
    pub(crate) fn address(&self) -> String {
        self.config.cluster_url.to_string().trim_end_matches('/').to_owned()
    }

    /// Sends one call, and returns the body of a good answer.
    ///
    /// # Errors
    /// There is no good answer in time.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Vec<u8>, CallError> {
        let limit = call.limit;
        self.in_time(async { bytes(self.send(call).await?, limit).await }).await
    }

    /// As [`Connection::call`]: the answer as a value.
    pub(super) async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, CallError> {
        let body = self.call(call).await?;
        serde_json::from_slice(&body).map_err(|error| CallError::NotUnderstood(error.to_string()))
    }

    /// The lines of a text for which `wanted` is true. Lines that are too long are left out.
    pub(super) async fn lines(&self, path: &str, mut wanted: impl FnMut(&str)) -> Result<(), CallError> {
        self.in_time(async {
            let mut body = self.send(Call::get(path, "text/plain", MAX_ERROR)).await?.into_body();
            let (mut line, mut total) = (Vec::new(), 0_usize);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| not_reached(&error))?;
                let Ok(data) = frame.into_data() else { continue };
                total = total.saturating_add(data.len());
                if total > MAX_TEXT {
                    return Err(CallError::TooLarge(MAX_TEXT));
                }
                let mut parts = data.split(|byte| *byte == b'\n').peekable();
                while let Some(part) = parts.next() {
                    if line.len() + part.len() <= MAX_LINE {
                        line.extend_from_slice(part);
                    }
                    if parts.peek().is_some() {
                        wanted(&String::from_utf8_lossy(&line));
                        line.clear();
                    }
                }
            }
            wanted(&String::from_utf8_lossy(&line));
            Ok(())
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let timed = tokio::time::timeout(self.timeout, work).await;
        timed.unwrap_or(Err(CallError::TimedOut(self.timeout)))
    }

    async fn send(&self, call: Call<'_>) -> Result<Response<Body>, CallError> {
        let mut request =
            Request::builder().method(call.method).uri(call.path).header(header::ACCEPT, call.accept);
        let body = match call.body {
            None => Body::empty(),
            Some((content_type, content)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                Body::from(content.into_bytes())
            }
        };
        let request =
            request.body(body).map_err(|error| CallError::NotReached(format!("no request: {error}")))?;
        let answer = self.client.send(request).await.map_err(|error| not_reached(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.map(str::to_owned);
        let body = bytes(answer, MAX_ERROR).await.unwrap_or_default();
        Err(CallError::Refused(Refusal::read(StatusCode::as_u16(&code), retry_after.as_deref(), &body)))
    }
}

fn not_reached(error: &kube::Error) -> CallError {
    CallError::NotReached(fit(&with_causes(error), 400))
}

/// The body, unless it is larger than `limit` bytes.
async fn bytes(answer: Response<Body>, limit: usize) -> Result<Vec<u8>, CallError> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| not_reached(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(CallError::TooLarge(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
