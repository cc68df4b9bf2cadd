//! A client for one HTTP/1.1 server: it keeps connections open, and drives each of them in the task that waits for the
//! answer. So a request wakes no other task, and starts none.
//!
//! Must not know what is requested, nor follow a redirect, nor send a request twice that a server may have seen. The
//! caller has the deadline: a request whose future is dropped closes its connection.

mod connection;
mod route;

use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Body as _, Bytes};
use hyper::header::HeaderName;
use hyper::{Request, Response, Uri};
use zeroize::Zeroizing;

use connection::Connection;
pub(crate) use route::{Proxy, Route};

/// What each request names as its sender, in the header `User-Agent`.
pub(crate) const PROGRAM: &str = concat!("kms-plugin/", env!("CARGO_PKG_VERSION"));
/// How long a connection is kept without a request. Vault closes it after five minutes.
const IDLE: Duration = Duration::from_secs(60);
/// Most connections that are kept without a request.
const MAX_IDLE: usize = 32;
/// Most URIs that are kept.
const MAX_URIS: usize = 8;
/// Bytes of a path that mean the same in every reading of a URL.
const PLAIN: &[u8] = b"-_/?=&";
/// The first size of the buffer for a body whose length is not known, in bytes.
const UNTOLD: usize = 16 * 1024;

type Cause = Box<dyn StdError + Send + Sync>;

/// Why there is no answer. The causes are its sources.
#[derive(Debug, thiserror::Error)]
#[error("the request was not answered")]
pub(crate) struct HttpError(#[source] Cause);

impl HttpError {
    fn new(cause: impl Into<Cause>) -> Self {
        Self(cause.into())
    }

    /// Whether the system gave the connection up, because its peer did not answer.
    pub(crate) fn is_timeout(&self) -> bool {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(cause) = next {
            let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if kind == Some(std::io::ErrorKind::TimedOut) {
                return true;
            }
            next = cause.source();
        }
        false
    }
}

/// The client.
pub(crate) struct Client {
    route: Route,
    /// Connections without a request, the one that was used last at the end.
    kept: Mutex<Vec<(Box<Connection>, Instant)>>,
    /// The URIs of the last paths. Most requests have one of a few, and to parse one costs more than to find it.
    uris: Mutex<Vec<(String, Uri)>>,
}

impl Client {
    /// Connects to nothing yet.
    pub(crate) fn new(route: Route) -> Self {
        Self { route, kept: Mutex::default(), uris: Mutex::default() }
    }

    /// The URI of `path` below the base. `path` may have a query. `None` when that is no URI.
    pub(crate) fn uri(&self, path: &str) -> Option<Uri> {
        let mut uris = self.uris.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = uris.iter().position(|(known, _)| known == path) {
            // The one that was used last is at the end.
            uris.get_mut(place..)?.rotate_left(1);
            return uris.last().map(|(_, uri)| uri.clone());
        }
        let uri = self.parsed(path)?;
        if uris.len() == MAX_URIS {
            uris.remove(0);
        }
        uris.push((path.to_owned(), uri.clone()));
        Some(uri)
    }

    fn parsed(&self, path: &str) -> Option<Uri> {
        if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || PLAIN.contains(&byte)) {
            return self.route.joined(path);
        }
        let prefix = self.route.prefix();
        let mut uri = String::with_capacity(prefix.len() + path.len());
        uri.push_str(prefix);
        uri.push_str(path);
        Uri::try_from(uri).ok()
    }

    /// Sends a request, and returns the head of the answer. Its URI is one of [`Self::uri`]. The headers of the
    /// connection are added.
    ///
    /// # Errors
    /// When no answer begins.
    pub(crate) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer<'_>, HttpError> {
        self.route.add_headers(request.headers_mut());
        while let Some(mut connection) = self.take() {
            if !connection.is_usable().await {
                continue;
            }
            match connection.send(request).await {
                Ok(response) => return Ok(Answer { client: self, connection, response }),
                // The server has closed it, and has seen nothing of the request.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(HttpError::new(failed.into_error())),
                },
            }
        }
        let opened = Connection::open(self.route.connect().await.map_err(HttpError)?).await?;
        let mut connection = Box::new(opened);
        let response =
            connection.send(request).await.map_err(|failed| HttpError::new(failed.into_error()))?;
        Ok(Answer { client: self, connection, response })
    }

    /// Closes the connections that have had no request for a minute.
    pub(crate) fn close_idle(&self) {
        let closed: Vec<_> = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let count = kept.iter().take_while(|(_, since)| since.elapsed() >= IDLE).count();
            kept.drain(..count).collect()
        };
        drop(closed);
    }

    fn take(&self) -> Option<Box<Connection>> {
        let (connection, since) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        if since.elapsed() >= IDLE {
            // All others are older.
            self.close_idle();
            return None;
        }
        Some(connection)
    }

    fn keep(&self, connection: Box<Connection>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_IDLE {
            kept.push((connection, Instant::now()));
        }
    }
}

/// An answer, of which the head has come.
pub(crate) struct Answer<'a> {
    client: &'a Client,
    // It is large, and moves with each answer.
    connection: Box<Connection>,
    response: Response<hyper::body::Incoming>,
}

impl Answer<'_> {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header, as far as it is text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Reads the whole body; `None` when it is longer than `limit` bytes. Where the server tells the length, the buffer
    /// never grows: that would leave copies that are not zeroized.
    ///
    /// # Errors
    /// When the body does not come to its end.
    pub(crate) async fn body(mut self, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, HttpError> {
        let told = self.response.body().size_hint().exact();
        let length = told.and_then(|length| usize::try_from(length).ok()).unwrap_or(UNTOLD);
        let mut body = Zeroizing::new(Vec::with_capacity(length.min(limit)));
        while let Some(part) = self.connection.part(self.response.body_mut()).await? {
            if body.len() + part.len() > limit {
                return Ok(None);
            }
            body.extend_from_slice(&part);
        }
        if self.connection.is_usable().await {
            self.client.keep(self.connection);
        }
        Ok(Some(body))
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
