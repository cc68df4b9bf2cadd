//! Reads objects from etcd over its HTTP/JSON gateway: page by page, all at one revision.
//!
//! Sends range requests only: never writes. Every request has a deadline and a size limit.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, redirect, retry};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use url::Url;

use super::Sink;
use super::range_response::{self, Gauge, Range};
use crate::clock::Deadline;
use crate::http::PROGRAM;
use crate::untrusted;

/// Objects in one page.
const PAGE: u32 = 500;
/// Largest answer that is read, in bytes: the largest value in base64, or a page of usual values.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// Largest refusal that is read, in bytes.
const MAX_REFUSAL: usize = 4096;

/// Why the objects cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    #[error("the HTTP client cannot be built: {0}")]
    Client(String),
    /// No endpoint answered.
    #[error("etcd cannot be read:{}", .0.iter().map(|refusal| format!("\n{refusal}")).collect::<String>())]
    Unavailable(Vec<Refusal>),
    /// The revision of the first page was compacted.
    #[error(
        "etcd compacted revision {0} during the read (the API server requests that every five minutes), so the result would not be consistent: try again, with fewer resources at a time (--prefix), or on a host nearer to etcd"
    )]
    Compacted(u64),
    #[error("{0} belongs to another etcd cluster than the endpoint before: use the members of one cluster")]
    OtherCluster(String),
    #[error("the value at or after {0} is larger than 4 MiB; etcd's own limit is 1.5 MiB by default")]
    TooLarge(String),
}

/// Why an endpoint did not return objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// No connection, or no answer in time.
    Transport,
    /// A certificate is missing or not trusted.
    Tls,
    /// The HTTP/JSON gateway is off, or this is not etcd.
    NoGateway,
    /// The gateway cannot connect to its own etcd.
    GatewayAlone,
    /// etcd requires a user, or the user may not read.
    Denied,
    Other,
}

/// What an endpoint answered instead of objects.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{endpoint}: {text}")]
pub(crate) struct Refusal {
    pub endpoint: String,
    pub kind: RefusalKind,
    pub text: String,
}

/// Why one request returned no page.
enum Refused {
    /// Another endpoint may succeed.
    Endpoint(Refusal),
    /// A smaller page may succeed.
    TooLarge,
    Final(EtcdError),
}

/// An etcd cluster, read at the revision of the first answer.
pub(crate) struct Etcd {
    http: Client,
    endpoints: Vec<Url>,
    timeout: Duration,
    page: u32,
    revision: Option<u64>,
    cluster_id: Option<u64>,
}

impl Etcd {
    /// The endpoints are tried in order. `timeout` is the time for one request. `tls` is needed if an endpoint is
    /// `https`.
    pub(crate) fn new(
        endpoints: Vec<Url>,
        tls: Option<ClientConfig>,
        timeout: Duration,
    ) -> Result<Self, EtcdError> {
        let tls = tls.map_or_else(no_roots, Ok).map_err(|error| EtcdError::Client(error.to_string()))?;
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .user_agent(PROGRAM)
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|error| EtcdError::Client(cause(&error)))?;
        Ok(Self { http, endpoints, timeout, page: PAGE, revision: None, cluster_id: None })
    }

    /// The revision of all objects; `None` before the first page.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// The endpoint that answered last.
    pub(crate) fn endpoint(&self) -> String {
        self.endpoints.first().map(name).unwrap_or_default()
    }

    /// Passes every object with `prefix` to `sink`. Returns their number.
    pub(crate) async fn read(&mut self, prefix: &str, sink: &mut dyn Sink) -> Result<u64, EtcdError> {
        let end = after(prefix.as_bytes());
        let mut start = prefix.as_bytes().to_vec();
        let mut objects = 0;
        loop {
            let page = self.page(&start, &end, sink).await?;
            if objects == 0 {
                sink.expect(page.count);
            }
            objects += page.objects;
            if !page.more || page.objects == 0 {
                return Ok(objects);
            }
            // The first possible key after the last one.
            start = page.last_key;
            start.push(0);
        }
    }

    /// The page from `start` on, from the first endpoint that returns it.
    async fn page(&mut self, start: &[u8], end: &[u8], sink: &mut dyn Sink) -> Result<Range, EtcdError> {
        let mut refused = Vec::new();
        while let Some(endpoint) = self.endpoints.first().cloned() {
            match self.request(&endpoint, start, end).await {
                Ok(body) => return self.read_page(&endpoint, &body, sink),
                Err(Refused::Final(error)) => return Err(error),
                Err(Refused::TooLarge) if self.page > 1 => self.page = (self.page / 4).max(1),
                Err(Refused::TooLarge) => {
                    return Err(EtcdError::TooLarge(String::from_utf8_lossy(start).replace('\0', "")));
                }
                Err(Refused::Endpoint(why)) => {
                    refused.push(why);
                    if refused.len() >= self.endpoints.len() {
                        break;
                    }
                    // The next endpoint comes first from now on: every member has the revision.
                    self.endpoints.rotate_left(1);
                }
            }
        }
        Err(EtcdError::Unavailable(refused))
    }

    /// Reads the page in an answer.
    fn read_page(&mut self, endpoint: &Url, body: &[u8], sink: &mut dyn Sink) -> Result<Range, EtcdError> {
        let invalid = || EtcdError::Unavailable(vec![not_etcd(endpoint)]);
        let mut json = serde_json::Deserializer::from_slice(body);
        let range = range_response::read(&mut json, &Gauge::default(), sink).map_err(|_| invalid())?;
        let (Some(revision), Some(cluster)) = (range.revision, range.cluster_id) else {
            return Err(invalid());
        };
        if *self.cluster_id.get_or_insert(cluster) != cluster {
            return Err(EtcdError::OtherCluster(name(endpoint)));
        }
        self.revision.get_or_insert(revision);
        Ok(range)
    }

    /// Sends one request, and returns the body of the answer.
    async fn request(&self, endpoint: &Url, start: &[u8], end: &[u8]) -> Result<Vec<u8>, Refused> {
        let name = name(endpoint);
        let refused = |kind, text| Refused::Endpoint(Refusal { endpoint: name.clone(), kind, text });
        let failed = |text: String| refused(RefusalKind::Transport, text);
        let broken = |error: reqwest::Error| {
            let text = cause(&error);
            // A server that gets no client certificate sends an alert after the handshake, or closes the connection.
            let closed = endpoint.scheme() == "https" && !error.is_connect();
            let of_tls = closed || text.contains("certificate") || text.contains("alert");
            refused(if of_tls { RefusalKind::Tls } else { RefusalKind::Transport }, text)
        };
        let url = endpoint.join("/v3/kv/range").map_err(|error| failed(error.to_string()))?;
        let body = serde_json::json!({
            "key": STANDARD.encode(start), "range_end": STANDARD.encode(end), "limit": self.page,
            "revision": self.revision.unwrap_or_default().to_string(), "serializable": false,
        });
        let request = self.http.post(url).header(CONTENT_TYPE, "application/json").body(body.to_string());
        let attempt = async {
            let mut response = request.send().await.map_err(broken)?;
            let status = response.status().as_u16();
            let most = if status == 200 { MAX_ANSWER } else { MAX_REFUSAL };
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(broken)? {
                if body.len() + chunk.len() > most {
                    return Err(if status == 200 {
                        Refused::TooLarge
                    } else {
                        self.refusal(&name, status, &[])
                    });
                }
                body.extend_from_slice(&chunk);
            }
            if status == 200 { Ok(body) } else { Err(self.refusal(&name, status, &body)) }
        };
        let deadline = Deadline::after(self.timeout).instant();
        match tokio::time::timeout_at(deadline, attempt).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(format!("no answer within {}", humantime::format_duration(self.timeout)))),
        }
    }

    /// The meaning of a refusal. Its text comes from etcd and contains no value.
    fn refusal(&self, endpoint: &str, status: u16, body: &[u8]) -> Refused {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            error: String,
            #[serde(default)]
            code: u32,
        }
        let answer: Option<Answer> = serde_json::from_slice(body).ok();
        let (error, code) = answer.map(|answer| (answer.error, answer.code)).unwrap_or_default();
        let error = untrusted::text(&error);
        // A gRPC code: 8 is a message over the gateway's own limit.
        match code {
            8 if error.contains("larger than max") => return Refused::TooLarge,
            _ if error.contains("compacted") => {
                return Refused::Final(EtcdError::Compacted(self.revision.unwrap_or_default()));
            }
            _ => {}
        }
        let denied =
            status == 401 || error.contains("user name is empty") || error.contains("permission denied");
        let (kind, text) = match status {
            _ if denied => (RefusalKind::Denied, format!("HTTP status {status}, {error}")),
            404 => {
                (RefusalKind::NoGateway, "the HTTP/JSON gateway was not found (HTTP status 404)".to_owned())
            }
            503 => (RefusalKind::GatewayAlone, format!("HTTP status 503, {error}")),
            _ if error.is_empty() => (RefusalKind::Other, format!("HTTP status {status}")),
            _ => (RefusalKind::Other, format!("HTTP status {status}, {error}")),
        };
        Refused::Endpoint(Refusal { endpoint: endpoint.to_owned(), kind, text })
    }
}

/// TLS without trusted authorities.
fn no_roots() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn not_etcd(endpoint: &Url) -> Refusal {
    let text = "the answer is not etcd's".to_owned();
    Refusal { endpoint: name(endpoint), kind: RefusalKind::Other, text }
}

/// The endpoint without a user or a password.
fn name(endpoint: &Url) -> String {
    endpoint.origin().ascii_serialization()
}

/// The first key after all keys with `prefix`. Where there is none, a single zero byte: for etcd, that is the end of
/// all keys.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

/// The last cause of an error: what the system or TLS reports.
fn cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(after(b"/registry/secrets/"), b"/registry/secrets0");
        assert_eq!(after(b"a\xff\xff"), b"b");
        assert_eq!(after(b"\xff"), [0]);
        assert_eq!(after(b""), [0]);
    }

    struct Nothing;

    impl Sink for Nothing {
        fn object(&mut self, _key: Option<&[u8]>, _value: &[u8]) {}
    }

    #[test]
    fn all_answers_must_come_from_one_cluster() {
        let mut etcd = Etcd::new(Vec::new(), None, Duration::from_secs(1)).unwrap();
        let endpoint = Url::parse("https://etcd-2:2379").unwrap();
        let mut take =
            |body: &str| etcd.read_page(&endpoint, body.as_bytes(), &mut Nothing).map(|page| page.objects);
        let page = r#"{"header":{"cluster_id":"7","revision":"3"},"kvs":[{"key":"L2E="}]}"#;
        assert_eq!(take(page).unwrap(), 1);
        assert_eq!(take(&page.replace(r#""3""#, r#""4""#)).unwrap(), 1);
        let other = take(&page.replace(r#""7""#, r#""8""#)).unwrap_err().to_string();
        assert!(other.starts_with("https://etcd-2:2379 belongs to another etcd cluster"), "{other}");
        for strange in ["", "<html>", "{}", r#"{"kvs":[]}"#, r#"{"header":{"cluster_id":"x"}}"#] {
            assert!(take(strange).unwrap_err().to_string().contains("not etcd's"), "{strange}");
        }
        assert_eq!(etcd.revision(), Some(3), "all pages are read at the revision of the first one");
    }
}
