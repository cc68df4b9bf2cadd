//! Serving HTTP/1 with bounds: a slow or silent client holds a connection for a short time only, and
//! never more connections than there are places.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::retry::Backoff;

/// Connections at once; one more waits to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Time for a client to send its request's head.
const HEAD: Duration = Duration::from_secs(5);
/// Time for one connection in all: probes are short.
const CONNECTION: Duration = Duration::from_secs(30);
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
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepting an admin connection failed");
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
        };
        backoff.reset();
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let _place = place;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            let _ended = tokio::time::timeout(CONNECTION, connection).await;
        });
    }
}
