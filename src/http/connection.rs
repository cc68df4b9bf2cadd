//! One connection: sends a request, and reads its answer.
//!
//! Must not know where it leads. Nothing of it happens unless one of its futures is polled.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::HttpError;
use super::route::Stream;

/// The connection.
pub(super) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Reads and writes. It is polled together with what waits for the answer.
    driver: Driver,
}

struct Driver {
    connection: http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>,
    ended: bool,
}

impl Driver {
    /// Reads and writes what can be. An error ends the request or the body that waits.
    fn poll(&mut self, cx: &mut Context<'_>) {
        // It must not be polled again after its end.
        self.ended = self.ended || Pin::new(&mut self.connection).poll(cx).is_ready();
    }
}

impl Connection {
    pub(super) async fn open(stream: Box<dyn Stream>) -> Result<Self, HttpError> {
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (requests, connection) = opened.map_err(HttpError::new)?;
        Ok(Self { requests, driver: Driver { connection, ended: false } })
    }

    /// Whether it is open, and has no request.
    pub(super) async fn is_usable(&mut self) -> bool {
        poll_fn(|cx| {
            self.driver.poll(cx);
            Poll::Ready(!self.driver.ended && self.requests.is_ready())
        })
        .await
    }

    /// Sends a request, and waits for the head of its answer. The error has the request when nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Box<TrySendError<Request<Full<Bytes>>>>> {
        let mut response = pin!(self.requests.try_send_request(request));
        let driver = &mut self.driver;
        poll_fn(|cx| {
            driver.poll(cx);
            response.as_mut().poll(cx).map_err(Box::new)
        })
        .await
    }

    /// The next part of an answer's body; `None` at its end. Trailers are ignored.
    pub(super) async fn part(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
        loop {
            if body.is_end_stream() {
                return Ok(None);
            }
            let frame = poll_fn(|cx| {
                // First the body: only what it asks for is read.
                let ready = Pin::new(&mut *body).poll_frame(cx);
                if ready.is_ready() {
                    return ready;
                }
                self.driver.poll(cx);
                Pin::new(&mut *body).poll_frame(cx)
            })
            .await;
            match frame.transpose().map_err(HttpError::new)? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
