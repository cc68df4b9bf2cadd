//! One connection to the socket: who the peer is, and which key_id Status last announced on it.
//!
//! kube-apiserver calls Status and then Encrypt on one connection, and throws the answer away when the
//! two key_ids differ. So what was announced belongs to the connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::server::Connected;

use crate::telemetry::metrics::{Metrics, UnderWay};

/// What the service knows of the connection that a call came over.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The peer's user id (SO_PEERCRED, unix(7)); `None` when the kernel does not tell.
    pub uid: Option<u32>,
    announced: Arc<Mutex<Option<Arc<str>>>>,
}

impl Connection {
    fn of(stream: &UnixStream) -> Self {
        Self { uid: stream.peer_cred().ok().map(|peer| peer.uid()), announced: Arc::default() }
    }

    /// Notes what Status has just answered.
    pub(crate) fn announce(&self, key_id: &Arc<str>) {
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = Some(key_id.clone());
    }

    /// What Status answered last.
    pub(crate) fn announced(&self) -> Option<Arc<str>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A unix stream that tonic can ask for its [`Connection`].
pub(crate) struct KmsStream {
    stream: UnixStream,
    connection: Connection,
    _counted: UnderWay,
}

impl Connected for KmsStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for KmsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
    /// Takes over an accepted stream, which is `counted` until it is closed.
    fn new(stream: UnixStream, counted: UnderWay) -> Self {
        let connection = Connection::of(&stream);
        Self { stream, connection, _counted: counted }
    }
}

/// The accepted connections, as the server takes them. Clones take from the same ones: a server that is started again
/// goes on where the last one ended.
#[derive(Clone)]
pub(crate) struct Incoming {
    streams: Arc<Mutex<mpsc::Receiver<UnixStream>>>,
    metrics: Metrics,
}

impl Incoming {
    /// Connections that come through `streams`, counted by `metrics` while they are open.
    pub(crate) fn new(streams: mpsc::Receiver<UnixStream>, metrics: Metrics) -> Self {
        Self { streams: Arc::new(Mutex::new(streams)), metrics }
    }
}

impl Stream for Incoming {
    type Item = io::Result<KmsStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = streams.poll_recv(cx);
        stream.map(|stream| stream.map(|stream| Ok(KmsStream::new(stream, self.metrics.connected()))))
    }
}
