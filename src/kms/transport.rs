//! HTTP/2 on the connections that the socket accepted: hyper's server, and a gRPC service that sees from which connection a
//! request came.
//!
//! tonic's own server is built of the same parts. It adds to each answer the date, which fills the table of headers that
//! each further answer is compared with, and layers that are not needed here. docs/performance.md has what that costs.

use std::convert::Infallible;

use futures_util::StreamExt as _;
use hyper::body::{Body, Incoming as IncomingBody};
use hyper::http::{Request, Response};
use hyper::server::conn::http2;
use hyper::service::Service as HyperService;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;
use tower::util::Oneshot;
use tower::{Service, ServiceExt as _};

use super::MAX_MESSAGE;
use super::connection::{Connection, Incoming, KmsStream};

/// Streams that one connection may have open at once.
const MAX_STREAMS: u32 = 256;
/// How much of a request, and of all requests on a connection, the peer may send before the server has taken it, in
/// bytes. The largest message fits, with its head.
const STREAM_WINDOW: u32 = 80 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const _: () = assert!(STREAM_WINDOW as usize > MAX_MESSAGE + 16);

/// The answer of a gRPC service.
type Answer = Response<tonic::body::Body>;

/// A service, as the requests of one connection see it.
#[derive(Clone)]
struct OfConnection<S> {
    service: S,
    connection: Connection,
}

impl<S, B> HyperService<Request<B>> for OfConnection<S>
where
    S: Service<Request<B>, Response = Answer, Error = Infallible> + Clone,
    B: Body,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Oneshot<S, Request<B>>;

    fn call(&self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        self.service.clone().oneshot(request)
    }
}

/// Serves each connection of `incoming` in a task of its own, until `stopping`. Then peers are told to close their
/// connections; ends when the last one is closed.
pub(super) async fn serve_connections<S>(
    service: S,
    mut incoming: Incoming,
    mut stopping: watch::Receiver<bool>,
) where
    S: Service<Request<IncomingBody>, Response = Answer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Each connection holds a receiver: without one, the last connection has ended.
    let (open, _) = watch::channel(());
    let mut stop = stopping.clone();
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => break,
            stream = incoming.next() => {
                let Some(stream) = stream else { break };
                let service = OfConnection { service: service.clone(), connection: stream.connection() };
                let (held, stopping) = (open.subscribe(), stop.clone());
                tokio::spawn(async move {
                    serve_connection(service, stream, stopping).await;
                    drop(held);
                });
            }
        }
    }
    // Nobody accepts connections any more, but those that are open are served until the stop.
    drop(stop.wait_for(|stopping| *stopping).await);
    open.closed().await;
}

async fn serve_connection<S>(service: OfConnection<S>, stream: KmsStream, mut stopping: watch::Receiver<bool>)
where
    S: Service<Request<IncomingBody>, Response = Answer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the KMS socket ended");
    }
}
