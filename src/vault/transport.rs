//! Sends one HTTP request to one address, and reads the answer within limits of time and size.
//!
//! Must not know which address is tried next, nor what an answer is used for.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Method, Request as Prepared};
use zeroize::Zeroizing;

use super::address::Address;
use super::classification::{self, Call};
use crate::clock::Deadline;
use crate::http::{Answer as HttpAnswer, Client};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::Secret;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// The same of a read of the key: the longest list of versions that is kept fits, in whatever form a server writes it.
const MAX_KEY: usize = 4 * 1024 * 1024;
/// Longest `Retry-After` that is accepted, in seconds. A server, or a load balancer in front of it, may send an hour;
/// the agent would then not see a revocation for an hour.
const MAX_RETRY_AFTER: u64 = 30;

/// What the path of each request begins with.
const VERSION: &str = "v1/";
/// Room for the headers of a request.
const HEADERS: usize = 10;
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const INDEX: HeaderName = HeaderName::from_static("x-vault-index");
const INCONSISTENT: HeaderName = HeaderName::from_static("x-vault-inconsistent");
const QUOTA: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const QUOTA_LEFT: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
/// What a server does that is behind the index of a request (`X-Vault-Inconsistent`). Without it, it refuses.
const FORWARD: &str = "forward-active-node";

/// A request, the same for every address.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub method: Method,
    /// Which call it is, by its path.
    pub call: Call,
    /// Below `/v1/`, with a query if there is one.
    pub path: &'a str,
    pub namespace: &'a str,
    pub token: Option<&'a Secret>,
    /// The replication state that the server must have. One that is behind sends the request on. The client sets it.
    pub index: Option<&'a str>,
    pub body: Option<&'a Zeroizing<Vec<u8>>>,
}

impl<'a> Request<'a> {
    /// A request without a token and a body, in the root namespace.
    pub(super) fn new(method: Method, path: &'a str) -> Self {
        Self { method, call: Call::of(path), path, namespace: "", token: None, index: None, body: None }
    }
}

/// What is left of a rate limit quota. The server sends it only with `enable_rate_limit_response_headers` in
/// `sys/quotas/config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Requests in one interval.
    pub limit: u64,
    /// Requests left in this interval.
    pub remaining: u64,
}

/// An answer with any status.
pub(crate) struct Response {
    pub status: u16,
    pub location: Option<String>,
    pub retry_after: Option<Duration>,
    pub index: Option<String>,
    pub quota: Option<Quota>,
    pub body: Zeroizing<Vec<u8>>,
}

/// What sends requests: HTTP in the daemon, a model of the servers in the simulation (`tests/simulation`).
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Sends `request` to `address` and reads the whole answer before `deadline`.
    ///
    /// # Errors
    /// When no whole answer came. An answer with any status is `Ok`.
    async fn send(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Response, KeyServiceError>;
}

/// HTTP/1.1, by the client of each address.
pub(crate) struct Http;

#[async_trait]
impl Transport for Http {
    async fn send(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Response, KeyServiceError> {
        send(address, request, deadline).await
    }
}

async fn send(
    address: &Address,
    request: &Request<'_>,
    deadline: Deadline,
) -> Result<Response, KeyServiceError> {
    let client = address.http();
    let prepared = prepare(&client, request)?;
    let failed = |cause| classification::transport(&address.name, address.proxy.as_deref(), &cause);
    // Pinned here: a future of this size must not be moved.
    let attempt = pin!(async {
        let answer = client.send(prepared).await.map_err(failed)?;
        let mut response = head(&answer);
        let limit = if request.call == Call::ReadKey { MAX_KEY } else { MAX_ANSWER };
        let body = answer.body(limit).await.map_err(failed)?;
        response.body = body.ok_or_else(|| classification::too_large(&address.name, limit))?;
        Ok(response)
    });
    match tokio::time::timeout_at(deadline.instant(), attempt).await {
        Ok(answer) => answer,
        Err(_) => Err(classification::timeout(&address.name)),
    }
}

/// What the head of an answer says.
fn head(answer: &HttpAnswer<'_>) -> Response {
    let text = |name: HeaderName| answer.header(&name).map(str::to_owned);
    let number = |name: HeaderName| answer.header(&name).and_then(|text| text.parse::<u64>().ok());
    let status = answer.status();
    let quota = number(QUOTA).zip(number(QUOTA_LEFT));
    let seconds = number(RETRY_AFTER);
    Response {
        status,
        location: text(LOCATION).filter(|_| (300..400).contains(&status)),
        retry_after: seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_RETRY_AFTER))),
        index: text(INDEX),
        quota: quota.map(|(limit, remaining)| Quota { limit, remaining }),
        body: Zeroizing::default(),
    }
}

fn prepare(client: &Client, request: &Request<'_>) -> Result<Prepared<Full<Bytes>>, KeyServiceError> {
    let mut path = String::with_capacity(VERSION.len() + request.path.len());
    path.push_str(VERSION);
    path.push_str(request.path);
    let uri = client.uri(&path).ok_or_else(|| {
        let message = format!("{} is not a valid request path", request.path);
        KeyServiceError::new(
            ErrorKind::Internal,
            message,
            "check vault.transit.mount, vault.transit.key and the names in the configuration",
        )
    })?;
    // The owner zeroizes its bytes when the request has ended.
    let body = request.body.map(|body| Bytes::from_owner(body.clone()));
    let mut prepared = Prepared::new(Full::new(body.unwrap_or_default()));
    *prepared.method_mut() = request.method.clone();
    *prepared.uri_mut() = uri;
    let headers = prepared.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(REQUEST, HeaderValue::from_static("true"));
    let mut put = |name: HeaderName, value: &str, secret: bool| {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            KeyServiceError::new(
                ErrorKind::CredentialsUnreadable,
                format!("the value for {name} has characters that HTTP does not allow"),
                "check the file that holds it",
            )
        })?;
        value.set_sensitive(secret);
        headers.insert(name, value);
        Ok::<_, KeyServiceError>(())
    };
    if let Some(token) = request.token {
        put(TOKEN, token.expose(), true)?;
    }
    if !request.namespace.is_empty() {
        put(NAMESPACE, request.namespace, false)?;
    }
    if let Some(index) = request.index {
        put(INDEX, index, false)?;
        put(INCONSISTENT, FORWARD, false)?;
    }
    if request.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(prepared)
}
