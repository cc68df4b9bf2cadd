//! The client of an agent's admin socket: one method for each endpoint, with typed answers and errors.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api_types::{CommandDone, CommandFailed, Phase, Status};
use crate::untrusted;

/// Name of the admin socket in the runtime directory.
pub(crate) const SOCKET: &str = "admin.sock";
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No agent listens on the socket, or this user may not connect.
    #[error(
        "no agent answers on {socket}; is kms-plugin.service active, are you root, and is this its server.runtime_dir (--runtime-dir)?"
    )]
    NotConnected {
        socket: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// An agent accepted the connection and did not answer in time: it hangs.
    #[error("the agent on {socket} did not answer within {timeout:?}")]
    TimedOut { socket: PathBuf, timeout: Duration },
    /// The agent understood the command and could not do it.
    #[error("{0}")]
    CommandFailed(String),
    /// The agent is stopping or busy.
    #[error("{0}")]
    Busy(String),
    /// The agent does not know the request, probably because it is of another version.
    #[error("the agent answered with HTTP status {0}; is it another version of kms-plugin?")]
    Unexpected(StatusCode),
    /// The connection broke, or the answer is longer than 16 MiB.
    #[error("the answer of the agent cannot be read")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what this version understands.
    #[error("the answer of the agent is not understood")]
    NotUnderstood(#[source] serde_json::Error),
}

impl ClientError {
    /// Whether an agent listens and does not answer.
    pub(crate) fn is_hang(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

/// What a probe of the kubelet asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeEndpoint {
    /// Whether the process works. It does not depend on the key service.
    Live,
    /// Whether an Encrypt would work now.
    Ready,
}

/// The admin socket of one agent. `timeout` is the limit of a whole call.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// The client of the agent with this runtime directory (`server.runtime_dir`).
    pub(crate) fn new(runtime_dir: &Path, timeout: Duration) -> Self {
        Self { socket: runtime_dir.join(SOCKET), timeout }
    }

    /// The state of the agent.
    ///
    /// # Errors
    /// When no agent answers, or its answer is not understood.
    pub(crate) async fn status(&self) -> Result<Status, ClientError> {
        self.get_json("/status").await
    }

    /// The state as JSON, also with the fields that only the agent's version knows.
    ///
    /// # Errors
    /// When no agent answers, or its answer is not JSON.
    pub(crate) async fn status_json(&self) -> Result<serde_json::Value, ClientError> {
        self.get_json("/status").await
    }

    /// `/healthz?verbose`: one line for each check. The answer is the same whether the agent is healthy or not.
    ///
    /// # Errors
    /// When no agent answers.
    pub(crate) async fn healthz(&self) -> Result<String, ClientError> {
        self.request(Method::GET, "/healthz?verbose").await.map(|(_, text)| text)
    }

    /// `/livez` or `/readyz`: `None` when it is good, otherwise why it is not.
    ///
    /// # Errors
    /// When no agent answers.
    pub(crate) async fn probe(&self, endpoint: ProbeEndpoint) -> Result<Option<String>, ClientError> {
        let path = match endpoint {
            ProbeEndpoint::Live => "/livez",
            ProbeEndpoint::Ready => "/readyz",
        };
        match self.request(Method::GET, path).await? {
            (StatusCode::OK, _) => Ok(None),
            (StatusCode::SERVICE_UNAVAILABLE, why) => Ok(Some(why.trim_end().to_owned())),
            (status, _) => Err(ClientError::Unexpected(status)),
        }
    }

    /// `/metrics`, in the OpenMetrics text format.
    ///
    /// # Errors
    /// When no agent answers.
    pub(crate) async fn metrics(&self) -> Result<String, ClientError> {
        self.request(Method::GET, "/metrics").await.map(|(_, text)| text)
    }

    /// A hash of the refused credentials, by the name of the key service that refused them.
    ///
    /// # Errors
    /// When no agent answers, or its answer is not understood.
    pub(crate) async fn refused_credentials(&self) -> Result<BTreeMap<String, String>, ClientError> {
        self.get_json("/refused").await
    }

    /// A hash of the credentials that the agent is logged in with, by the name of the key service.
    ///
    /// # Errors
    /// When no agent answers, or its answer is not understood.
    pub(crate) async fn accepted_credentials(&self) -> Result<BTreeMap<String, String>, ClientError> {
        self.get_json("/accepted").await
    }

    /// The fingerprints of the local KEKs and seeds in memory that may be used now.
    ///
    /// # Errors
    /// When no agent answers, or its answer is not understood.
    pub(crate) async fn local_keks(&self) -> Result<HashSet<String>, ClientError> {
        self.get_json("/local-keks").await
    }

    /// Makes the agent read its configuration again, and waits until the new one is in use.
    ///
    /// # Errors
    /// `CommandFailed` when the new configuration does not work: the old one stays in use.
    pub(crate) async fn reload(&self) -> Result<CommandDone, ClientError> {
        self.command("/reload").await
    }

    /// Makes the agent accept a replaced or rolled-back key.
    ///
    /// # Errors
    /// `CommandFailed` when there is nothing to accept.
    pub(crate) async fn accept_key(&self) -> Result<CommandDone, ClientError> {
        self.command("/accept-key").await
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        match self.request(Method::GET, path).await? {
            (StatusCode::OK, text) => {
                let mut answer = serde_json::from_str(&text).map_err(ClientError::NotUnderstood)?;
                // The agent may be of a version that passes the texts of a server on.
                untrusted::visible_json(&mut answer);
                serde_json::from_value(answer).map_err(ClientError::NotUnderstood)
            }
            (status, _) => Err(ClientError::Unexpected(status)),
        }
    }

    async fn command(&self, path: &str) -> Result<CommandDone, ClientError> {
        let (status, text) = self.request(Method::POST, path).await?;
        let why = || {
            serde_json::from_str(&text).map_or_else(|_| text.clone(), |failed: CommandFailed| failed.error)
        };
        match status {
            // An agent from before the typed API, which still runs while a package is upgraded, answers with the line.
            StatusCode::OK => Ok(serde_json::from_str(&text).unwrap_or_else(|_| CommandDone {
                phase: if text.starts_with("failed") { Phase::Failed } else { Phase::Unknown },
                line: text.trim_end().to_owned(),
            })),
            StatusCode::CONFLICT => Err(ClientError::CommandFailed(why())),
            StatusCode::SERVICE_UNAVAILABLE => Err(ClientError::Busy(why())),
            status => Err(ClientError::Unexpected(status)),
        }
    }

    /// One request on a connection of its own: the status code and the body.
    async fn request(&self, method: Method, path: &str) -> Result<(StatusCode, String), ClientError> {
        let not_connected = |cause| ClientError::NotConnected { socket: self.socket.clone(), cause };
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| ClientError::Broken(error);
        let call = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(not_connected)?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = handshake.map_err(|error| broken(error.into()))?;
            let request = hyper::Request::builder()
                .method(method)
                .uri(path)
                .header(hyper::header::HOST, "localhost")
                .body(Empty::<Bytes>::new())
                .map_err(|error| broken(error.into()))?;
            let answer = async {
                let response = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(broken)?;
                Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
            };
            tokio::select! {
                answer = answer => answer,
                // The connection may end before the answer is read. That is an error only when it ends with one.
                Err(error) = connection => Err(broken(error.into())),
            }
        };
        let timed_out = |_| ClientError::TimedOut { socket: self.socket.clone(), timeout: self.timeout };
        tokio::time::timeout(self.timeout, call).await.map_err(timed_out)?
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
