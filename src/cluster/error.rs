//! Why there is no connection, or no answer. Text of the API server is shortened, and has no control characters.

use std::time::Duration;

use serde::Deserialize;

use crate::display::fit;

/// Most characters of a message of the API server.
const MAX_MESSAGE: usize = 400;

/// Why no connection can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    #[error(
        "there is no usable kubeconfig (--kubeconfig, KUBECONFIG or ~/.kube/config), and this is no pod with a service account"
    )]
    NoLogin(#[source] Box<kube::config::KubeconfigError>),
    #[error(
        "the kubeconfig names a proxy-url, which this command does not use; name the address of an API server that is reached directly"
    )]
    Proxy,
    #[error("no client can be made from this kubeconfig or service account")]
    Client(#[source] Box<kube::Error>),
    #[error("{0} is not an address such as https://10.0.0.1:6443")]
    Address(String),
}

/// What the API server said instead of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// Kubernetes' word for it, such as `Conflict`; may be empty.
    pub reason: String,
    pub message: String,
    /// How long to wait, if the API server says so.
    pub retry_after: Option<Duration>,
    /// With 410: where an expired list may be continued.
    pub next: Option<String>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{}", text(.0))]
    Refused(Refusal),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    NotReached(String),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer is not understood: {0}")]
    NotUnderstood(String),
}

fn text(refusal: &Refusal) -> String {
    let Refusal { code, reason, message, .. } = refusal;
    match (reason.is_empty(), message.is_empty()) {
        (_, true) => format!("{code} {reason}").trim_end().to_owned(),
        (true, false) => format!("{code}: {message}"),
        (false, false) => format!("{code} {reason}: {message}"),
    }
}

/// `Status` of Kubernetes' API, as far as it is used.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    message: String,
    reason: String,
    metadata: ListMeta,
    details: Details,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListMeta {
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: u64,
}

impl Refusal {
    /// Reads the body of an answer with this status. `retry_after` is the header of that name.
    pub(super) fn read(code: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        // A proxy, and `/readyz`, answer with text.
        let status: Status = serde_json::from_slice(body).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(body).into_owned(),
            ..Status::default()
        });
        let seconds = retry_after.and_then(|text| text.trim().parse().ok());
        let seconds = seconds.unwrap_or(status.details.retry_after_seconds);
        Self {
            code,
            reason: fit(&status.reason, 60),
            message: fit(&status.message, MAX_MESSAGE),
            retry_after: (seconds > 0).then(|| Duration::from_secs(seconds)),
            next: Some(status.metadata.next).filter(|next| !next.is_empty()),
        }
    }
}

impl CallError {
    /// The HTTP status; `None` when there was no answer.
    pub(crate) fn code(&self) -> Option<u16> {
        if let Self::Refused(refusal) = self { Some(refusal.code) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_kubernetes_is_read() {
        let body =
            br#"{"kind":"Status","status":"Failure","message":"try\nagain","reason":"Expired","code":410,
            "metadata":{"continue":"abc"},"details":{"retryAfterSeconds":3}}"#;
        let refusal = Refusal::read(410, None, body);
        assert_eq!(
            (refusal.next.as_deref(), refusal.retry_after),
            (Some("abc"), Some(Duration::from_secs(3)))
        );
        assert_eq!(CallError::Refused(refusal).to_string(), "410 Expired: try again");
        let header = Refusal::read(429, Some("7"), b"Too many requests, please try again later.\n");
        assert_eq!(header.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(CallError::Refused(header).to_string(), "429: Too many requests, please try again later.");
    }

    #[test]
    fn a_long_message_is_shortened() {
        let refusal = Refusal::read(500, None, "word \x1b[2J".repeat(10_000).as_bytes());
        assert!(refusal.message.chars().count() <= MAX_MESSAGE && !refusal.message.contains('\x1b'));
    }
}
