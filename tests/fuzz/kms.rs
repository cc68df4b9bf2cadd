//! One gRPC call, as a connection brings it to the service.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::http::{HeaderMap, Request};
use tonic::body::Body;
use tower::ServiceExt as _;

use super::server::guarded;
use super::{Connection, KmsService, MAX_MESSAGE};

/// Calls `method` with `body`, which should be a gRPC frame. Returns the bytes of the answer, and its trailers or those
/// headers that stand for them.
pub(crate) async fn call(
    service: &Arc<KmsService>,
    uid: u32,
    method: &str,
    body: &[u8],
) -> (Bytes, HeaderMap) {
    let body = Body::new(http_body_util::Full::new(Bytes::copy_from_slice(body)));
    let request = Request::post(format!("http://localhost/v2.KeyManagementService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .extension(Connection::in_process(uid))
        .body(body)
        .expect("a request");
    let answer = guarded(service.clone()).oneshot(request).await;
    let (head, body) = answer.expect("a service that cannot fail").into_parts();
    let body = body.collect().await.expect("a body");
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    let body = body.to_bytes();
    assert!(body.len() <= MAX_MESSAGE);
    (body, trailers)
}
