//! Serves HTTP/1 within limits: a slow or silent client can hold a connection only for a short time, and the number
//! of connections is limited.

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

use super::timing::{CONNECTION_TIMEOUT, HEAD_TIMEOUT};
use crate::retry::Backoff;

/// Connections at the same time. Further ones wait to be accepted.
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
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
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
            let _permit = permit;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            let _ended = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
        });
    }
}
