//! What can be wrong with the answers of a plugin.

use std::error::Error;

/// Longest ciphertext and key_id that kube-apiserver accepts, in bytes.
pub(super) const MAX_BYTES: usize = 1024;

/// Largest sum of annotation keys and values that kube-apiserver accepts, in bytes.
pub(super) const MAX_ANNOTATIONS: usize = 32 * 1024;

/// A round trip that failed, or an answer that breaks the contract of KMS v2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("{call} failed ({:?}): {}", .status.code(), .status.message())]
    Call { call: &'static str, status: Box<tonic::Status> },
    #[error("Status is not ok: {0}")]
    NotOk(String),
    #[error("Status answers version {0:?}, kube-apiserver needs \"v2\"")]
    Version(String),
    #[error("the {what} of {call} has {bytes} bytes, it must have 1 to {MAX_BYTES}")]
    Length { call: &'static str, what: &'static str, bytes: usize },
    #[error("the annotations have {0} bytes, the limit is {MAX_ANNOTATIONS}")]
    Annotations(usize),
    #[error("Encrypt used another key_id than Status announced")]
    OtherKey,
    #[error("Encrypt returned the plaintext: nothing is encrypted")]
    Plaintext,
    #[error("Decrypt returned other bytes than were encrypted")]
    OtherBytes,
    #[error("the system gives no random bytes")]
    NoRandomBytes,
}

impl ProbeError {
    pub(super) fn call(call: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call { call, status: Box::new(status) }
    }

    /// Whether the request was never sent because the server closed the connection in an orderly way.
    pub(super) fn was_not_sent(&self) -> bool {
        let Self::Call { status, .. } = self else { return false };
        let mut cause = status.source();
        while let Some(error) = cause {
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;
    use hyper_util::rt::TokioIo;

    use super::*;

    #[tokio::test]
    async fn only_a_request_that_never_left_was_not_sent() {
        let (stream, _server) = tokio::io::duplex(64);
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.unwrap();
        drop(connection);
        let request = hyper::Request::new(http_body_util::Empty::<Bytes>::new());
        let cause = sender.send_request(request).await.unwrap_err();
        let not_sent = ProbeError::call("Encrypt")(tonic::Status::from_error(Box::new(cause)));
        assert!(not_sent.was_not_sent(), "{not_sent}");
        let answered = ProbeError::call("Encrypt")(tonic::Status::cancelled("operation was canceled"));
        assert!(!answered.was_not_sent() && !ProbeError::Plaintext.was_not_sent());
    }
}
