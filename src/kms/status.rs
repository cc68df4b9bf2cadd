//! Errors as gRPC codes: kube-apiserver logs code and message, and an administrator reads them there.

use tonic::{Code, Status};

use crate::health::Reason;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::local_kek::format::FormatError;

/// Longest message, in characters: it travels in a header.
const MAX_MESSAGE: usize = 900;

/// The code for a kind of failure.
pub(super) fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Unreachable
        | ErrorKind::Sealed
        | ErrorKind::Throttled
        | ErrorKind::CredentialsUnreadable => Code::Unavailable,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Denied | ErrorKind::CredentialsRefused => Code::PermissionDenied,
        ErrorKind::NotFound
        | ErrorKind::SoftDeleted
        | ErrorKind::VersionGone
        | ErrorKind::VersionAhead
        | ErrorKind::KeyUnusable => Code::FailedPrecondition,
        ErrorKind::BadCiphertext => Code::InvalidArgument,
        ErrorKind::Internal => Code::Internal,
    }
}

/// A failure of a key service, with its remedy.
pub(super) fn of_key_service(error: &KeyServiceError) -> Status {
    told(code(error.kind()), &error.to_string(), error.remedy())
}

/// A ciphertext whose form is wrong.
pub(super) fn of_format(error: FormatError) -> Status {
    let code = if error == FormatError::Cipher { Code::Internal } else { Code::InvalidArgument };
    let remedy = "restore the object from a backup; nothing else in etcd is concerned";
    told(code, &error.to_string(), remedy)
}

/// A reason why the agent itself does not serve.
pub(super) fn of_reason(code: Code, reason: &Reason) -> Status {
    told(code, &reason.text, &reason.remedy)
}

/// `text`, and what to do, within the limit.
pub(super) fn told(code: Code, text: &str, remedy: &str) -> Status {
    let message = format!("{text}; remedy: {remedy}");
    Status::new(code, message.chars().take(MAX_MESSAGE).collect::<String>())
}

/// A code's stable name, as a label.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
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
