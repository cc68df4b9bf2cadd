//! What happens to a request before the service sees it: a peer that may not call is refused before its body is read,
//! and a body must come in time. Where too many wait, the oldest is ended: a caller that sends all at once is not hindered.
//!
//! Must not know what a request asks for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::http::Request;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{BoxError, Service};

use super::connection::Connection;
use super::error_codes;
use super::service::KmsService;

type Response = hyper::http::Response<Body>;

/// Time for the body of a request. A caller on the same machine sends it together with the head.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bodies of which a part is missing, on all connections. Each may take as much memory as the largest message.
pub(super) const MAX_UNFINISHED: usize = 512;

/// The bodies of which a part is missing, the oldest first. Clones share the limit.
#[derive(Clone)]
pub(super) struct Unfinished {
    limit: usize,
    /// What ends each of them.
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
}

impl Unfinished {
    pub(super) fn at_most(limit: usize) -> Self {
        Self { limit, waiting: Arc::default() }
    }

    /// Counts one more, until the receiver is dropped. At the limit, ends the oldest one.
    fn begin(&self) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.limit {
            waiting.retain(|end| !end.is_closed());
        }
        if waiting.len() >= self.limit
            && let Some(oldest) = waiting.pop_front()
        {
            let _gone = oldest.send(());
        }
        waiting.push_back(end);
        ended
    }
}

/// A gRPC service behind the guard.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    service: S,
    /// Who may call; `None` while no configuration says it.
    peers: Option<Arc<KmsService>>,
    unfinished: Unfinished,
}

impl<S> Guarded<S> {
    pub(super) fn new(service: S, peers: Option<Arc<KmsService>>, unfinished: Unfinished) -> Self {
        Self { service, peers, unfinished }
    }
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<TimedBody<B>>, Response = Response, Error = Infallible>,
    B: hyper::body::Body,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(peers) = &self.peers {
            let connection = request.extensions().get::<Connection>();
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            if let Err(refused) = peers.admit_peer(connection, method) {
                // The body is dropped unread: the transport then resets the stream.
                return Either::Right(ready(Ok(refused.into_http())));
            }
        }
        let unfinished = self.unfinished.clone();
        Either::Left(self.service.call(request.map(|body| TimedBody::new(body, unfinished))))
    }
}

/// A body that must come in time.
pub(super) struct TimedBody<B> {
    body: B,
    unfinished: Unfinished,
    started: Instant,
    /// Set while a part is missing.
    waiting: Option<Waiting>,
}

struct Waiting {
    until: Pin<Box<Sleep>>,
    /// Ready when a later one needs its place.
    ended: oneshot::Receiver<()>,
}

impl<B> TimedBody<B> {
    fn new(body: B, unfinished: Unfinished) -> Self {
        Self { body, unfinished, started: Instant::now(), waiting: None }
    }

    /// The error of a body that does not come.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let (started, unfinished) = (self.started, &self.unfinished);
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            until: Box::pin(tokio::time::sleep_until(started + BODY_TIMEOUT)),
            ended: unfinished.begin(),
        });
        if Pin::new(&mut waiting.ended).poll(cx).is_ready() {
            return Poll::Ready(error_codes::with_remedy(
                Code::ResourceExhausted,
                "too many calls are not sent to their end, and this was the oldest",
                "find the program that begins calls on this socket and does not end them",
            ));
        }
        waiting.until.as_mut().poll(cx).map(|()| {
            error_codes::with_remedy(
                Code::DeadlineExceeded,
                &format!("the message was not sent to its end within {BODY_TIMEOUT:?}"),
                "see why the caller hangs",
            )
        })
    }
}

impl<B> hyper::body::Body for TimedBody<B>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match hyper::body::Body::poll_frame(Pin::new(&mut self.body), cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(end) => {
                self.waiting = None;
                Poll::Ready(end.map(|end| end.map_err(|error| Status::from_error(error.into()))))
            }
            Poll::Pending => self.poll_overdue(cx).map(|overdue| Some(Err(overdue))),
        }
    }

    fn is_end_stream(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    /// A body of which nothing comes.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    fn silent(unfinished: &Unfinished) -> TimedBody<Silent> {
        TimedBody::new(Silent, unfinished.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_in_time_is_an_error() {
        let before = Instant::now();
        let error = silent(&Unfinished::at_most(1)).frame().await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert_eq!(before.elapsed().as_secs(), BODY_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limit_the_oldest_body_is_ended() {
        let unfinished = Unfinished::at_most(2);
        let waits = async |body: &mut TimedBody<Silent>| {
            tokio::time::timeout(Duration::from_secs(1), body.frame()).await.is_err()
        };
        let (mut first, mut second) = (silent(&unfinished), silent(&unfinished));
        assert!(waits(&mut first).await && waits(&mut second).await);
        let mut third = silent(&unfinished);
        assert!(waits(&mut third).await);
        assert_eq!(first.frame().await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
        drop(second);
        assert!(waits(&mut silent(&unfinished)).await);
        assert!(waits(&mut third).await, "there was room again");
    }
}
