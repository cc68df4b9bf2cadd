//! Clients for the sockets of an agent: KMS v2 as kube-apiserver speaks it, and HTTP for the admin API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::exit::{Exit, Failure};
use crate::proto::key_management_service_client::KeyManagementServiceClient;
use crate::supervisor::ADMIN_SOCKET;

/// Largest answer of the admin API that is read, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// A KMS v2 client.
pub(super) type KmsClient = KeyManagementServiceClient<InterceptedService<Channel, WithTimeout>>;

/// Tells the plugin the caller's deadline with every call, as kube-apiserver does.
#[derive(Clone)]
pub(super) struct WithTimeout(Duration);

impl Interceptor for WithTimeout {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.set_timeout(self.0);
        Ok(request)
    }
}

/// Connects to the KMS socket at `path`, with `localhost` as the authority: what kube-apiserver sends.
pub(super) async fn kms(path: &Path, timeout: Duration) -> Result<KmsClient, Failure> {
    let unreachable = |error: anyhow::Error| {
        let message =
            format!("no KMS plugin answers on {}: is it running, and is --socket right?", path.display());
        Failure::new(Exit::Unavailable, error.context(message))
    };
    // Connecting by hand first: tonic hides the system's reason in a chain of its own.
    UnixStream::connect(path).await.map_err(|error| unreachable(error.into()))?;
    let target = path.to_path_buf();
    let connector = service_fn(move |_: Uri| {
        let target: PathBuf = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost").timeout(timeout).connect_timeout(timeout);
    let channel =
        endpoint.connect_with_connector(connector).await.map_err(|error| unreachable(error.into()))?;
    Ok(KmsClient::new(InterceptedService::new(channel, WithTimeout(timeout))))
}

/// The path of a socket as people write it, with or without `unix://`.
pub(super) fn socket_path(text: &str) -> PathBuf {
    PathBuf::from(text.strip_prefix("unix://").unwrap_or(text))
}

/// Which agent to ask.
#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// Runtime directory of the agent (server.runtime_dir)
    #[arg(
        long,
        value_name = "DIR",
        env = "KMS_PLUGIN_SERVER_RUNTIME_DIR",
        default_value = "/run/kms-plugin"
    )]
    runtime_dir: PathBuf,
}

impl AgentArgs {
    /// Asks the agent to do something: its answer, or its refusal as a failure of this kind.
    pub(super) async fn post(&self, path: &str, timeout: Duration, refused: Exit) -> Result<String, Failure> {
        let (status, text) = self.ask(hyper::Method::POST, path, timeout).await?;
        match status {
            200 => Ok(text.trim_end().to_owned()),
            409 => Err(Failure::message(refused, text.trim_end())),
            _ => Err(Failure::message(Exit::Unavailable, text.trim_end())),
        }
    }

    /// `/status` of the agent, as JSON text.
    pub(super) async fn status(&self, timeout: Duration) -> Result<String, Failure> {
        self.get("/status", timeout).await
    }

    /// What the agent shows at this path, as text.
    pub(super) async fn get(&self, path: &str, timeout: Duration) -> Result<String, Failure> {
        match self.ask(hyper::Method::GET, path, timeout).await? {
            (200, text) => Ok(text),
            (code, _) => {
                Err(Failure::message(Exit::Unavailable, format!("the agent answers with status {code}")))
            }
        }
    }

    async fn ask(
        &self,
        method: hyper::Method,
        path: &str,
        timeout: Duration,
    ) -> Result<(u16, String), Failure> {
        let socket = self.runtime_dir.join(ADMIN_SOCKET);
        admin(&socket, method, path, timeout).await.map_err(|error| {
            let message = format!(
                "no agent answers on {}; is kms-plugin.service active, are you root, and is this its server.runtime_dir (--runtime-dir)?",
                socket.display()
            );
            Failure::new(Exit::Unavailable, error.context(message))
        })
    }
}

/// A request to the admin socket: the status code and the body.
pub(super) async fn admin(
    socket: &Path,
    method: hyper::Method,
    path: &str,
    timeout: Duration,
) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())?;
        let asked = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::select! {
            answer = asked => answer,
            // The connection's end may be seen before the answer is read: that is no failure.
            Err(error) = connection => Err(error.into()),
        }
    };
    tokio::time::timeout(timeout, exchange).await?
}
