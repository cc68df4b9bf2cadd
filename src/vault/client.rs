//! One request to the cluster: several addresses in order, failover, and memory of the good one.
//!
//! Must not know tokens' lives or Transit. Every attempt's time comes from what is left of the caller's
//! deadline; there are no hidden retries, and redirects lead only to configured addresses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::address::Address;
use super::error::{self, Refusal};
use crate::backend::{AddressState, BackendError, ErrorKind};
use crate::clock::Deadline;
use crate::retry;
use crate::secret::Secret;

/// Largest answer that is read, in bytes. Metadata of a key with thousands of versions fits.
const MAX_ANSWER: usize = 1024 * 1024;
/// Least time that one of several addresses gets before the next is tried.
const MIN_SHARE: Duration = Duration::from_millis(250);
/// Longest pause that a `Retry-After` may ask for inside one call.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A request, the same for every address.
pub(super) struct Request<'a> {
    pub method: Method,
    /// Below `/v1/`.
    pub path: &'a str,
    pub namespace: &'a str,
    pub token: Option<&'a Secret>,
    /// The replication state of our login (Vault Enterprise), sent back as it came.
    pub index: Option<&'a str>,
    pub body: Option<&'a Zeroizing<Vec<u8>>>,
}

/// A good answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub body: Zeroizing<Vec<u8>>,
    pub index: Option<String>,
    pub address: usize,
}

/// Why there is no good answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The server refuses, in its own words.
    Refused(Refusal),
    /// Nobody answered properly.
    Failed(BackendError),
}

impl From<BackendError> for CallError {
    fn from(error: BackendError) -> Self {
        Self::Failed(error)
    }
}

/// `sys/health`, as far as it is used.
#[derive(Debug, Deserialize)]
struct SysHealth {
    #[serde(default)]
    cluster_id: Option<String>,
    #[serde(default)]
    sealed: bool,
    #[serde(default = "initialized")]
    initialized: bool,
}

fn initialized() -> bool {
    true
}

/// The cluster's addresses.
pub(super) struct Client {
    addresses: Vec<Address>,
    preferred: AtomicUsize,
    /// The cluster that our key is known to live in.
    cluster_id: Mutex<Option<String>>,
}

impl Client {
    pub(super) fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, preferred: AtomicUsize::new(0), cluster_id: Mutex::default() }
    }

    /// Asks the addresses in turn, the last good one first, until one answers or the time is over.
    pub(super) async fn call(&self, request: &Request<'_>, deadline: Deadline) -> Result<Answer, CallError> {
        let mut last = None;
        for round in 0..2 {
            let order = self.order();
            let count = order.len();
            for (tried, index) in order.into_iter().enumerate() {
                let left = u32::try_from(count - tried).unwrap_or(1).max(1);
                let share = (deadline.remaining() / left).max(MIN_SHARE);
                match self.once(index, request, deadline.at_most(share)).await {
                    Err(CallError::Failed(error)) if !error.kind().may_fail_over() => {
                        return Err(error.into());
                    }
                    Err(CallError::Failed(error)) if !deadline.expired() => last = Some(error),
                    Err(CallError::Failed(error)) => {
                        return Err(in_time(last.unwrap_or(error), request).into());
                    }
                    done => return done,
                }
            }
            // A broken connection or a busy server deserves one more round, where the time allows it.
            let pause = match &last {
                Some(error) => error.retry_after().unwrap_or(Duration::from_millis(20)),
                None => break,
            };
            let pause = pause.mul_f64(1.0 + retry::jitter() / 2.0);
            if round > 0 || pause > MAX_PAUSE || pause * 2 > deadline.remaining() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        let error = last.unwrap_or_else(|| {
            BackendError::new(
                ErrorKind::Unreachable,
                "every configured address belongs to another cluster than the key's",
                "correct vault.addresses: they must all lead to one cluster",
            )
        });
        Err(error.into())
    }

    /// Asks one address, and the one that it redirects to, if that is configured.
    pub(super) async fn once(
        &self,
        index: usize,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        match self.exchange(index, request, deadline).await? {
            Exchange::Answer(answer) => Ok(answer),
            Exchange::Redirect(to) => match self.exchange(to, request, deadline).await? {
                Exchange::Answer(answer) => Ok(answer),
                Exchange::Redirect(_) => {
                    let message = "the configured addresses redirect to each other".to_owned();
                    Err(BackendError::new(
                        ErrorKind::Unreachable,
                        message,
                        "wait for the cluster to elect a leader",
                    )
                    .into())
                }
            },
        }
    }

    async fn exchange(
        &self,
        index: usize,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Exchange, CallError> {
        let Some(address) = self.addresses.get(index) else {
            return Err(BackendError::deadline("no address was left").into());
        };
        let prepared = prepare(address, request)?;
        let attempt = async {
            let sent = prepared.send().await;
            let response = sent.map_err(|cause| error::transport(&address.name, &cause))?;
            let head = Head::of(&response);
            let body = read(response, address).await?;
            Ok::<_, BackendError>((head, body))
        };
        let failed = |error: BackendError| {
            address.failed(&error.to_string());
            CallError::Failed(error)
        };
        let (head, body) = match tokio::time::timeout_at(deadline.instant(), attempt).await {
            Ok(exchange) => exchange.map_err(failed)?,
            Err(_) => {
                let message = format!("{} did not answer in time", address.name);
                let remedy = "look for a firewall, a hanging server or a long way to it";
                return Err(failed(BackendError::new(ErrorKind::Unreachable, message, remedy)));
            }
        };
        if let Some(location) = &head.location {
            return self.redirect(address, location).map(Exchange::Redirect).map_err(failed);
        }
        if head.status < 300 {
            address.answered();
            self.preferred.store(index, Ordering::Relaxed);
            return Ok(Exchange::Answer(Answer { body, index: head.index, address: index }));
        }
        let text = error::server_text(&body);
        if let Some(error) = error::away(&address.name, head.status, text.as_deref()) {
            return Err(failed(error.with_retry_after(head.retry_after)));
        }
        address.answered();
        Err(CallError::Refused(Refusal {
            status: head.status,
            text: text.unwrap_or_default(),
            address: index,
            address_name: address.name.clone(),
        }))
    }

    fn redirect(&self, from: &Address, location: &str) -> Result<usize, BackendError> {
        let target = from.base.join(location).ok().map(|url| url.origin());
        self.addresses.iter().position(|address| Some(&address.origin) == target.as_ref()).ok_or_else(|| {
            let shown = target.map_or_else(|| "no address".into(), |origin| origin.ascii_serialization());
            BackendError::new(
                ErrorKind::Unreachable,
                format!("{} redirects to {shown}, which is not configured", from.name),
                "add that address to vault.addresses if it is yours; a token goes nowhere else",
            )
        })
    }

    /// Whether any address answers `sys/health` as a usable server. Needs no token.
    pub(super) async fn reachable(&self, deadline: Deadline) -> Result<(), BackendError> {
        let mut first = None;
        for index in self.order() {
            match self.health(index, deadline).await {
                Ok(_) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| BackendError::deadline("looking for a server")))
    }

    async fn health(&self, index: usize, deadline: Deadline) -> Result<SysHealth, BackendError> {
        let request = Request {
            method: Method::GET,
            path: HEALTH,
            namespace: "",
            token: None,
            index: None,
            body: None,
        };
        let answer = match self.once(index, &request, deadline).await {
            Ok(answer) => answer,
            Err(CallError::Failed(error)) => return Err(error),
            Err(CallError::Refused(refusal)) => return Err(refusal.of_transit("reading sys/health", HEALTH)),
        };
        let health: SysHealth =
            serde_json::from_slice(&answer.body).map_err(|_| not_vault(self.name(index)))?;
        if health.sealed || !health.initialized {
            let message = format!("{} is sealed or not initialised", self.name(index));
            return Err(BackendError::new(ErrorKind::Sealed, message, "unseal it: vault operator unseal"));
        }
        Ok(health)
    }

    /// Whether the address that refused us belongs to another cluster than the one our key is in.
    pub(super) async fn is_foreign(&self, index: usize, deadline: Deadline) -> bool {
        let Some(known) = self.cluster_id() else { return false };
        let Ok(health) = self.health(index, deadline).await else { return false };
        let foreign = health.cluster_id.is_some_and(|id| id != known);
        if let Some(address) = self.addresses.get(index) {
            address.set_foreign(foreign);
            if foreign {
                address.failed(&format!(
                    "{} belongs to another cluster than the key's; it is left out",
                    address.name
                ));
            }
        }
        foreign
    }

    /// The id of the cluster behind `index`, remembered as ours from the first time on.
    pub(super) async fn learn_cluster(&self, index: usize, deadline: Deadline) -> Option<String> {
        if let Some(known) = self.cluster_id() {
            return Some(known);
        }
        let id = self.health(index, deadline).await.ok()?.cluster_id?;
        *self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
        Some(id)
    }

    fn cluster_id(&self) -> Option<String> {
        self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses to ask, the last good one first, without those of another cluster.
    pub(super) fn order(&self) -> Vec<usize> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let rest = (0..self.addresses.len()).filter(|index| *index != preferred);
        let foreign = |index: &usize| self.addresses.get(*index).is_none_or(Address::is_foreign);
        std::iter::once(preferred).chain(rest).filter(|index| !foreign(index)).collect()
    }

    /// Whether an answer of this address is known to be the server's own.
    pub(super) fn is_trusted(&self, index: usize) -> bool {
        self.addresses.get(index).is_some_and(|address| address.trusted)
    }

    fn name(&self, index: usize) -> &str {
        self.addresses.get(index).map_or("an address", |address| &address.name)
    }

    /// How each address last answered.
    pub(super) fn states(&self) -> Vec<AddressState> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let state = |(index, address): (usize, &Address)| {
            let (reachable, reason) = address.state();
            AddressState { address: address.name.clone(), reachable, reason, preferred: index == preferred }
        };
        self.addresses.iter().enumerate().map(state).collect()
    }
}

const HEALTH: &str = "sys/health";

enum Exchange {
    Answer(Answer),
    Redirect(usize),
}

struct Head {
    status: u16,
    location: Option<String>,
    retry_after: Option<Duration>,
    index: Option<String>,
}

impl Head {
    fn of(response: &Response) -> Self {
        let text = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let status = response.status();
        Self {
            status: status.as_u16(),
            location: text(LOCATION.as_str()).filter(|_| status.is_redirection()),
            retry_after: text(RETRY_AFTER.as_str())
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
            index: text("x-vault-index"),
        }
    }
}

fn prepare(address: &Address, request: &Request<'_>) -> Result<RequestBuilder, BackendError> {
    let mut url = address.base.clone();
    url.set_path(&format!("/v1/{}", request.path));
    if request.path == HEALTH {
        url.set_query(Some("standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200"));
    }
    let mut headers = HeaderMap::new();
    headers.insert("x-vault-request", HeaderValue::from_static("true"));
    let mut put = |name: &'static str, value: &str, secret: bool| {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            BackendError::new(
                ErrorKind::CredentialsUnreadable,
                format!("the value for {name} has characters that HTTP does not allow"),
                "check the file that holds it",
            )
        })?;
        value.set_sensitive(secret);
        headers.insert(name, value);
        Ok::<_, BackendError>(())
    };
    if let Some(token) = request.token {
        put("x-vault-token", token.expose(), true)?;
    }
    if !request.namespace.is_empty() {
        put("x-vault-namespace", request.namespace, false)?;
    }
    if let Some(index) = request.index {
        put("x-vault-index", index, false)?;
    }
    let mut builder = address.http.request(request.method.clone(), url).headers(headers);
    if let Some(body) = request.body {
        // The owner zeroizes its bytes when the request is done.
        let bytes = bytes::Bytes::from_owner(body.clone());
        builder = builder.header(CONTENT_TYPE, "application/json").body(bytes);
    }
    Ok(builder)
}

async fn read(mut response: Response, address: &Address) -> Result<Zeroizing<Vec<u8>>, BackendError> {
    // Sized once: growing would leave copies of a plaintext behind that nobody zeroizes.
    let expected =
        response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(16 * 1024);
    let mut body = Zeroizing::new(Vec::with_capacity(expected.min(MAX_ANSWER)));
    while let Some(chunk) = response.chunk().await.map_err(|cause| error::transport(&address.name, &cause))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(not_vault(&address.name));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

pub(super) fn not_vault(address: &str) -> BackendError {
    BackendError::new(
        ErrorKind::Unreachable,
        format!("{address} answered in a form that is not Vault's"),
        "check vault.addresses: another server or a proxy may be there",
    )
}

/// The time is over: an error that says so, with what was seen before.
fn in_time(error: BackendError, request: &Request<'_>) -> BackendError {
    match error.kind() {
        ErrorKind::Unreachable => BackendError::new(
            ErrorKind::Deadline,
            format!("{} was not answered within the caller's deadline: {error}", request.path),
            error.remedy().to_owned(),
        ),
        _ => error,
    }
}
