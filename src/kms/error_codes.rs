//! Errors as gRPC statuses. kube-apiserver logs the code and the message, and an administrator reads them there.

use std::error::Error as _;
use std::sync::Arc;

use tonic::{Code, Status};

use crate::health::{Reason, ReasonKind, Snapshot};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::local_kek::format::FormatError;
use crate::telemetry::metrics::OK;
use crate::untrusted;

/// Longest message, in characters: it is sent in a header.
const MAX_MESSAGE: usize = 900;

/// The code for a kind of error.
fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Unreachable
        | ErrorKind::NotVault
        | ErrorKind::Sealed
        | ErrorKind::Standby
        | ErrorKind::Throttled
        // A standby that is behind. A key that was rolled back is told by the read of the key.
        | ErrorKind::VersionAhead
        | ErrorKind::HeldBack
        | ErrorKind::LockedOut
        | ErrorKind::CredentialsUnreadable => Code::Unavailable,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Denied | ErrorKind::CredentialsRefused | ErrorKind::LoginDenied => Code::PermissionDenied,
        ErrorKind::NotFound
        | ErrorKind::SoftDeleted
        | ErrorKind::VersionGone
        | ErrorKind::KeyUnusable
        | ErrorKind::WrongSetting => Code::FailedPrecondition,
        ErrorKind::BadCiphertext => Code::InvalidArgument,
        ErrorKind::Internal => Code::Internal,
    }
}

/// An error of a key service.
pub(super) fn of_key_service(error: &KeyServiceError) -> Status {
    with_remedy(code(error.kind()), &error.to_string(), error.remedy())
}

/// An error of a key service during a call. Adds a note when the local KEKs are wiped: with them, the call would have
/// worked.
pub(super) fn of_call(snapshot: &Snapshot, error: &KeyServiceError) -> Status {
    let text = format!("{error}{}", snapshot.wiped_note());
    with_remedy(code(error.kind()), &text, error.remedy())
}

/// A ciphertext in a wrong form.
pub(super) fn of_format(error: FormatError) -> Status {
    let code = if error == FormatError::Cipher { Code::Internal } else { Code::InvalidArgument };
    let remedy = "restore the object from a backup; no other object in etcd is affected";
    with_remedy(code, &error.to_string(), remedy)
}

/// A reason why the agent is not ready.
pub(super) fn of_reason(code: Code, reason: &Reason) -> Status {
    with_remedy(code, &reason.text, &reason.remedy)
}

/// No key was read yet.
pub(super) fn not_started(snapshot: &Snapshot) -> Status {
    no_key(Code::Unavailable, snapshot)
}

/// The key is known, and may be another one by now: an outage or a refusal has kept the agent from a read.
pub(super) fn not_read(snapshot: &Snapshot) -> Status {
    let is_refusal =
        |kind| matches!(kind, ReasonKind::Denied | ReasonKind::LoginDenied | ReasonKind::CredentialsRefused);
    let refused = snapshot.reason.as_ref().is_some_and(|reason| is_refusal(reason.kind));
    no_key(if refused { Code::PermissionDenied } else { Code::Unavailable }, snapshot)
}

/// There is no key to wrap with, for the reason of the snapshot.
fn no_key(code: Code, snapshot: &Snapshot) -> Status {
    match &snapshot.reason {
        Some(reason) => {
            let text = format!("{}{}", reason.text, snapshot.wiped_note());
            with_remedy(code, &text, &reason.remedy)
        }
        None => with_remedy(
            code,
            "the key was not read yet, since the start or since an outage",
            "wait a moment; if this continues, look at /healthz",
        ),
    }
}

/// Between what happened and what to do, in a message.
const REMEDY: &str = "; remedy: ";

/// `text` and what to do about it, within the limit.
pub(super) fn with_remedy(code: Code, text: &str, remedy: &str) -> Status {
    // kube-apiserver writes it into its log as it is.
    let message = untrusted::visible(&format!("{text}{REMEDY}{remedy}"));
    Status::new(code, message.chars().take(MAX_MESSAGE).collect::<String>())
}

/// What happened, and what to do: the parts of a message. The remedy is empty in a message without one.
pub(super) fn split_remedy(message: &str) -> (&str, &str) {
    message.rsplit_once(REMEDY).unwrap_or((message, ""))
}

/// Marks an error, for the agent itself: tonic does not send it.
#[derive(Debug, thiserror::Error)]
#[error("the server is behind")]
struct Behind {
    version: u32,
}

/// The error for data of a version that is newer than what the server told of the key.
pub(super) fn behind(version: u32, message: &str, remedy: &str) -> Status {
    let mut status = with_remedy(Code::Unavailable, message, remedy);
    status.set_source(Arc::new(Behind { version }));
    status
}

/// The version of the data, of an error of [`behind`].
pub(super) fn newer_version(status: &Status) -> Option<u32> {
    status.source()?.downcast_ref::<Behind>().map(|behind| behind.version)
}

/// The name of a code as a metric label. Stable.
pub(super) fn label(code: Code) -> &'static str {
    match code {
        Code::Ok => OK,
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Unavailable => "UNAVAILABLE",
        Code::Internal => "INTERNAL",
        _ => "OTHER",
    }
}
