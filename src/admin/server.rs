//! Serves HTTP/1 within limits: one answer on each connection, a time for each, and a number of connections that
//! nobody can use up. A new connection replaces the oldest idle one, so that a probe is answered also while another
//! user of the node holds as many connections as he can.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::timing::{CONNECTION_TIMEOUT, HEAD_TIMEOUT};
use crate::retry::Backoff;

/// Connections at the same time. A further one replaces the oldest idle one.
const MAX_CONNECTIONS: usize = 64;
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Serves `router` on TCP until `stopping`.
pub(crate) async fn serve_tcp(listener: Arc<TcpListener>, router: Router, stopping: watch::Receiver<bool>) {
    serve(&*listener, router, stopping).await;
}

/// Serves `router` on a unix socket until `stopping`.
pub(crate) async fn serve_unix(listener: Arc<UnixListener>, router: Router, stopping: watch::Receiver<bool>) {
    serve(&*listener, router, stopping).await;
}

/// A listener of either kind.
trait Accept: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> std::io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> std::io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

async fn serve(listener: &impl Accept, router: Router, mut stopping: watch::Receiver<bool>) {
    let mut open = OpenConnections::default();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok(stream) => {
                backoff.reset();
                open.serve(stream, &router);
                // Lets the connection read its request before further ones make it the oldest.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::debug!(%error, "accepting an admin connection failed");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// One connection. It is idle while it sends its request, and while it receives the answer.
struct OpenConnection {
    task: AbortHandle,
    /// Whether its request has been read, and the answer is being made.
    is_answering: Arc<AtomicBool>,
}

/// The open connections, the oldest first.
#[derive(Default)]
pub(super) struct OpenConnections {
    pub tasks: JoinSet<()>,
    by_age: VecDeque<OpenConnection>,
}

impl OpenConnections {
    /// Answers one request on `stream`, in a task.
    pub(super) fn serve(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        router: &Router,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|connection| !connection.task.is_finished());
        if self.by_age.len() >= MAX_CONNECTIONS {
            self.close_oldest();
        }
        let is_answering = Arc::new(AtomicBool::new(false));
        let answering = is_answering.clone();
        let routes = TowerToHyperService::new(router.clone());
        let service = service_fn(move |request| {
            let answering = Answering::begin(answering.clone());
            let answer = routes.call(request);
            async move {
                let answer = answer.await;
                drop(answering);
                answer
            }
        });
        let task = self.tasks.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            let _ended = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
        });
        self.by_age.push_back(OpenConnection { task, is_answering });
    }

    /// Closes the oldest idle connection; the oldest one, when none is idle: otherwise somebody could keep all of them
    /// busy with requests that take a while.
    fn close_oldest(&mut self) {
        let is_idle = |connection: &OpenConnection| !connection.is_answering.load(Ordering::Relaxed);
        let oldest = self.by_age.iter().position(is_idle).unwrap_or_default();
        if let Some(connection) = self.by_age.remove(oldest) {
            connection.task.abort();
        }
    }
}

/// Marks a connection as answering until it is dropped.
struct Answering(Arc<AtomicBool>);

impl Answering {
    fn begin(flag: Arc<AtomicBool>) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Less than any connection here is held by its owner, or by its request.
    const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

    struct TestServer {
        address: std::net::SocketAddr,
        _tasks: JoinSet<()>,
        _stop: watch::Sender<bool>,
    }

    async fn server() -> TestServer {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            "slow"
        };
        let router = Router::new().route("/livez", get(|| async { "ok" })).route("/slow", get(slow));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_tcp(listener, router, stopping));
        TestServer { address, _tasks: tasks, _stop: stop }
    }

    impl TestServer {
        async fn sent(&self, text: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream
        }

        /// A probe, to the end of the connection.
        async fn probe(&self) -> String {
            let mut stream = self.sent("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn an_answer_closes_the_connection() {
        let answer = server().await.probe().await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    }

    #[tokio::test]
    async fn connections_that_somebody_else_holds_do_not_delay_a_probe() {
        let server = server().await;
        // Some say nothing, some send half a request, some ask for what takes long.
        for held in ["", "GET /livez HTTP/1.1\r\n", "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut connections = Vec::new();
            for _ in 0..5 * MAX_CONNECTIONS {
                connections.push(server.sent(held).await);
            }
            let answer = tokio::time::timeout(PROBE_TIMEOUT, server.probe()).await;
            assert!(answer.unwrap().ends_with("ok"), "{held:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_is_not_cut_off_by_idle_connections() {
        let server = server().await;
        let slow = server.sent("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
        // Its request is read before the others come.
        server.probe().await;
        let mut idle = Vec::new();
        for _ in 0..5 * MAX_CONNECTIONS {
            idle.push(server.sent("").await);
        }
        server.probe().await;
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(100), slow.readable()).await;
        assert!(read.is_err(), "closed: {:?}", slow.try_read(&mut byte));
    }
}
