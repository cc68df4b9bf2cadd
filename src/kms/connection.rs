//! One connection to the socket: who the peer is, and which key_id Status last announced on it.
//!
//! kube-apiserver calls Status and then Encrypt on one connection, and throws the answer away when the
//! two key_ids differ. So what was announced belongs to the connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::retry::Backoff;

/// What the service knows of the connection that a call came over.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The peer's user id (SO_PEERCRED, unix(7)); `None` when the kernel does not tell.
    pub uid: Option<u32>,
    announced: Arc<Mutex<Option<Arc<str>>>>,
}

impl Connection {
    fn of(stream: &UnixStream) -> Self {
        Self { uid: stream.peer_cred().ok().map(|peer| peer.uid()), announced: Arc::default() }
    }

    /// Notes what Status has just answered.
    pub fn announce(&self, key_id: &Arc<str>) {
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = Some(key_id.clone());
    }

    /// What Status answered last.
    pub fn announced(&self) -> Option<Arc<str>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A unix stream that tonic can ask for its [`Connection`].
pub struct KmsStream {
    stream: UnixStream,
    connection: Connection,
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

/// The accepted connections. A failing `accept` (out of descriptors) pauses, is counted, and is tried
/// again: tonic alone would spin on it.
pub struct Incoming {
    listener: Arc<UnixListener>,
    failures: Arc<AtomicU64>,
    backoff: Backoff,
    failing: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Connections of `listener`. `failures` counts accepts that failed.
    pub fn new(listener: Arc<UnixListener>, failures: Arc<AtomicU64>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        Self { listener, failures, backoff, failing: false, pause: None }
    }
}

impl Stream for Incoming {
    type Item = io::Result<KmsStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = self.pause.as_mut() {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    self.backoff.reset();
                    self.failing = false;
                    let connection = Connection::of(&stream);
                    return Poll::Ready(Some(Ok(KmsStream { stream, connection })));
                }
                Err(error) => {
                    let delay = self.backoff.next_delay();
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(
                            "accepting a connection failed: {error}; pausing {delay:?}. Look at the limit of open files"
                        );
                    }
                    self.pause = Some(Box::pin(tokio::time::sleep(delay)));
                }
            }
        }
    }
}
