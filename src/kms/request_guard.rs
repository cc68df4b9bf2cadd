//! What happens to a request before the service sees it: a peer that may not call is refused before its body is read,
//! and a body must come in time.
//!
//! Must not know what a request asks for.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::connection::Connection;
use super::error_codes;
use super::service::KmsService;

type Request = hyper::http::Request<Body>;
type Response = hyper::http::Response<Body>;

/// Time for the body of a request. A caller on the same machine sends it together with the head.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bodies of which a part is missing, on all connections. Each may take as much memory as the largest message.
pub(super) const MAX_UNFINISHED: usize = 512;

/// The bodies of which a part is missing. Clones share the limit.
#[derive(Clone)]
pub(super) struct Unfinished(Arc<Semaphore>);

impl Unfinished {
    pub(super) fn at_most(limit: usize) -> Self {
        Self(Arc::new(Semaphore::new(limit)))
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

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if let Some(peers) = &self.peers {
            let connection = request.extensions().get::<Connection>();
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            if let Err(refused) = peers.admit_peer(connection, method) {
                // The body is dropped unread: the transport then resets the stream.
                return Either::Right(ready(Ok(refused.into_http())));
            }
        }
        let unfinished = self.unfinished.clone();
        Either::Left(self.service.call(request.map(|body| Body::new(TimedBody::new(body, unfinished)))))
    }
}

/// A body that must come in time.
struct TimedBody {
    body: Body,
    unfinished: Unfinished,
    started: Instant,
    /// Set while a part is missing.
    waiting: Option<Waiting>,
}

struct Waiting {
    until: Pin<Box<Sleep>>,
    _counted: OwnedSemaphorePermit,
}

impl TimedBody {
    fn new(body: Body, unfinished: Unfinished) -> Self {
        Self { body, unfinished, started: Instant::now(), waiting: None }
    }

    /// The error of a body that does not come.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => {
                let Ok(counted) = self.unfinished.0.clone().try_acquire_owned() else {
                    return Poll::Ready(error_codes::with_remedy(
                        Code::ResourceExhausted,
                        "too many calls are not sent to their end",
                        "find the program that begins calls on this socket and does not end them",
                    ));
                };
                let until = Box::pin(tokio::time::sleep_until(self.started + BODY_TIMEOUT));
                none.insert(Waiting { until, _counted: counted })
            }
        };
        waiting.until.as_mut().poll(cx).map(|()| {
            error_codes::with_remedy(
                Code::DeadlineExceeded,
                &format!("the message was not sent to its end within {BODY_TIMEOUT:?}"),
                "see why the caller hangs",
            )
        })
    }
}

impl hyper::body::Body for TimedBody {
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
                Poll::Ready(end)
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

    fn silent(unfinished: &Unfinished) -> TimedBody {
        TimedBody::new(Body::new(Silent), unfinished.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_in_time_is_an_error() {
        let before = Instant::now();
        let error = silent(&Unfinished::at_most(1)).frame().await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert_eq!(before.elapsed().as_secs(), BODY_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_beyond_the_limit_are_refused_at_once() {
        let unfinished = Unfinished::at_most(1);
        let waits = async |body: &mut TimedBody| {
            tokio::time::timeout(Duration::from_secs(1), body.frame()).await.is_err()
        };
        let mut first = silent(&unfinished);
        assert!(waits(&mut first).await);
        let error = silent(&unfinished).frame().await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        drop(first);
        assert!(waits(&mut silent(&unfinished)).await, "there is room again");
    }
}
