//! One connection to the socket: who the peer is, and which key_id Status last announced on it.
//!
//! kube-apiserver calls Status and then Encrypt on one connection, and discards the answer when the two key_ids
//! differ. So the announced key_id is kept for each connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::connection_limit::{Admitted, ConnectionLimit};
use crate::telemetry::metrics::{Metrics, UnderWay};

/// A key_id that Status answered with, after the version that it names.
type Announced = (u32, Arc<str>);

/// The connection that a call came over.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The peer's user id (SO_PEERCRED, unix(7)); `None` when the kernel does not report it.
    pub uid: Option<u32>,
    announced: Arc<Mutex<Option<Announced>>>,
}

impl Connection {
    pub(super) fn of(stream: &UnixStream) -> Self {
        Self { uid: stream.peer_cred().ok().map(|peer| peer.uid()), announced: Arc::default() }
    }

    /// A connection of a peer in this process, for tests that call the service without a socket.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn in_process(uid: u32) -> Self {
        Self { uid: Some(uid), announced: Arc::default() }
    }

    /// Notes the key_id that Status answered with, and the version that it names.
    pub(super) fn set_announced(&self, version: u32, key_id: &Arc<str>) {
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, key_id.clone()));
    }

    /// The key_id that Status answered with last, and its version.
    pub(super) fn announced(&self) -> Option<Announced> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A unix stream, and the [`Connection`] that it is.
pub(crate) struct KmsStream {
    // Dropped before the stream: its limit may still close the descriptor.
    admitted: Admitted,
    stream: UnixStream,
    connection: Connection,
    _counted: UnderWay,
}

impl AsyncRead for KmsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.admitted.used();
        }
        read
    }
}

impl AsyncWrite for KmsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl KmsStream {
    /// An accepted stream. It is `counted` until it is closed.
    fn new(stream: UnixStream, limit: &ConnectionLimit, counted: UnderWay) -> Self {
        let connection = Connection::of(&stream);
        Self { admitted: limit.admit(&stream, connection.uid), stream, connection, _counted: counted }
    }

    pub(super) fn connection(&self) -> Connection {
        self.connection.clone()
    }
}

/// The accepted connections that wait for the server. Clones share them, so a server that is restarted serves those
/// that the last one left.
#[derive(Clone)]
pub(crate) struct Incoming {
    streams: Arc<Mutex<mpsc::Receiver<UnixStream>>>,
    metrics: Metrics,
    limit: ConnectionLimit,
}

impl Incoming {
    /// The connections from `streams`, counted by `metrics` while they are open. Peers with one of the `allowed_uids`
    /// and other peers have limits of their own.
    pub(crate) fn new(streams: mpsc::Receiver<UnixStream>, metrics: Metrics, allowed_uids: &[u32]) -> Self {
        let limit = ConnectionLimit::new(allowed_uids);
        Self { streams: Arc::new(Mutex::new(streams)), metrics, limit }
    }
}

impl Stream for Incoming {
    type Item = KmsStream;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = streams.poll_recv(cx);
        stream
            .map(|stream| stream.map(|stream| KmsStream::new(stream, &self.limit, self.metrics.connected())))
    }
}
