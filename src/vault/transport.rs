//! Sends one HTTP request to one address, and reads the answer within limits of time and size.
//!
//! Must not know which address is tried next, nor what an answer is used for.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, RequestBuilder};
use zeroize::Zeroizing;

use super::address::Address;
use super::classification::{self, Call};
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::Secret;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// The same of a read of the key: the longest list of versions that is kept fits, in whatever form a server writes it.
const MAX_KEY: usize = 4 * 1024 * 1024;
/// Longest `Retry-After` that is accepted, in seconds. A server, or a load balancer in front of it, may send an hour;
/// the agent would then not see a revocation for an hour.
const MAX_RETRY_AFTER: u64 = 30;

/// What a server does that is behind the index of a request (`X-Vault-Inconsistent`). Without it, it refuses.
const FORWARD: &str = "forward-active-node";

/// A request, the same for every address.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub method: Method,
    /// Below `/v1/`, with a query if there is one.
    pub path: &'a str,
    pub namespace: &'a str,
    pub token: Option<&'a Secret>,
    /// The replication state that the server must have. One that is behind sends the request on. The client sets it.
    pub index: Option<&'a str>,
    pub body: Option<&'a Zeroizing<Vec<u8>>>,
}

impl Request<'_> {
    /// Which call it is.
    pub(crate) fn call(&self) -> Call {
        Call::of(self.path)
    }

    /// The call as a label.
    pub(crate) fn operation(&self) -> &'static str {
        self.call().label()
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
    let prepared = prepare(address, request)?;
    let failed = |cause| classification::transport(&address.name, address.proxy.as_deref(), &cause);
    let attempt = async {
        let response = prepared.send().await.map_err(failed)?;
        let text = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let status = response.status();
        let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
        let quota = number("x-ratelimit-limit").zip(number("x-ratelimit-remaining"));
        let seconds = number(RETRY_AFTER.as_str());
        let mut answer = Response {
            status: status.as_u16(),
            location: text(LOCATION.as_str()).filter(|_| status.is_redirection()),
            retry_after: seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_RETRY_AFTER))),
            index: text("x-vault-index"),
            quota: quota.map(|(limit, remaining)| Quota { limit, remaining }),
            body: Zeroizing::default(),
        };
        let limit = if request.call() == Call::ReadKey { MAX_KEY } else { MAX_ANSWER };
        answer.body = read(response, address, limit).await?;
        Ok(answer)
    };
    match tokio::time::timeout_at(deadline.instant(), attempt).await {
        Ok(answer) => answer,
        Err(_) => Err(classification::timeout(&address.name)),
    }
}

fn prepare(address: &Address, request: &Request<'_>) -> Result<RequestBuilder, KeyServiceError> {
    let url = address.base.join(&format!("v1/{}", request.path)).map_err(|_| {
        let message = format!("{} is not a valid request path", request.path);
        KeyServiceError::new(
            ErrorKind::Internal,
            message,
            "check vault.transit.mount, vault.transit.key and the names in the configuration",
        )
    })?;
    let mut headers = HeaderMap::new();
    headers.insert("x-vault-request", HeaderValue::from_static("true"));
    let mut put = |name: &'static str, value: &str, secret: bool| {
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
        put("x-vault-token", token.expose(), true)?;
    }
    if !request.namespace.is_empty() {
        put("x-vault-namespace", request.namespace, false)?;
    }
    if let Some(index) = request.index {
        put("x-vault-index", index, false)?;
        put("x-vault-inconsistent", FORWARD, false)?;
    }
    let mut builder = address.http().request(request.method.clone(), url).headers(headers);
    if let Some(body) = request.body {
        // The owner zeroizes its bytes when the request has ended.
        let bytes = bytes::Bytes::from_owner(body.clone());
        builder = builder.header(CONTENT_TYPE, "application/json").body(bytes);
    }
    Ok(builder)
}

async fn read(
    mut response: reqwest::Response,
    address: &Address,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
    // Allocated once: a buffer that grows leaves copies of a plaintext that are not zeroized.
    let expected =
        response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(16 * 1024);
    let mut body = Zeroizing::new(Vec::with_capacity(expected.min(limit)));
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|cause| classification::transport(&address.name, address.proxy.as_deref(), &cause))?
    {
        if body.len() + chunk.len() > limit {
            return Err(classification::too_large(&address.name, limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
