//! Encrypt and Decrypt under a local KEK: without a call to the key service, while the key is in memory.

use std::collections::HashMap;

use tonic::Status;
use zeroize::Zeroizing;

use super::key_id;
use super::routes::{Route, View};
use super::status;
use crate::backend::{BackendError, ErrorKind, KeyScope};
use crate::clock::Deadline;
use crate::local_kek::format::{self, ANNOTATION, Form, FormatError, Key};
use crate::local_kek::{Kind, Listed, Subject};
use crate::proto::DecryptRequest;
use crate::snapshot::{ServiceState, Snapshot};

/// A ciphertext and its annotations.
pub(super) type Wrapped = (Vec<u8>, HashMap<String, Vec<u8>>);

/// Wraps a DEK seed under the local KEK of `subject`, which is made when there is none.
pub(super) async fn wrap(
    view: &View,
    subject: Subject<'_>,
    seed: &[u8],
    deadline: Deadline,
) -> Result<Wrapped, BackendError> {
    let keys = &view.link.keys;
    let claimed = match keys.claim(subject.key_id) {
        Some(claimed) => claimed,
        None => {
            keys.prepare(view.link.routes.primary.as_ref(), subject, deadline).await?;
            keys.claim(subject.key_id).ok_or_else(|| {
                BackendError::new(
                    ErrorKind::Unreachable,
                    "there is no local KEK yet, or local KEKs were turned off a moment ago",
                    "it is tried again; if it stays, look at /healthz",
                )
            })?
        }
    };
    let (key, wrapped) = claimed;
    let ciphertext = format::seal(&key, subject.key_id, &wrapped, seed)
        .map_err(|error| BackendError::new(ErrorKind::Internal, error.to_string(), "report this as a bug"))?;
    Ok((ciphertext, HashMap::from([(ANNOTATION.to_owned(), format::annotation(&wrapped))])))
}

/// The DEK seed, when all that it takes is in memory.
pub(super) fn from_memory(
    view: &View,
    form: Form<'_>,
    message: &DecryptRequest,
) -> Result<Option<Zeroizing<Vec<u8>>>, Status> {
    let keys = &view.link.keys;
    match form {
        Form::Direct if !view.link.routes.accept_foreign && !message.key_id.starts_with(key_id::PREFIX) => {
            Ok(None)
        }
        Form::Direct => Ok(keys.find(Kind::Seed, &message.key_id, &message.ciphertext)),
        Form::Local { wrapped } => {
            let kek = keys.find(Kind::Kek, &message.key_id, wrapped);
            kek.map(|kek| open(&kek, wrapped, message)).transpose()
        }
    }
}

/// Unwraps the DEK seed with the local KEK.
pub(super) fn open(
    kek: &[u8],
    wrapped: &[u8],
    message: &DecryptRequest,
) -> Result<Zeroizing<Vec<u8>>, Status> {
    let key: &[u8; format::KEY_BYTES] =
        kek.try_into().map_err(|_| status::of_format(FormatError::NotAuthentic))?;
    format::open(&Key::new(*key), &message.key_id, wrapped, &message.ciphertext).map_err(status::of_format)
}

/// A failure of the key service; when keys that would have done without it are wiped, that is told, too.
pub(super) fn told(snapshot: &Snapshot, error: &BackendError) -> Status {
    let text = format!("{error}{}", snapshot.wiped());
    status::told(status::code(error.kind()), &text, error.remedy())
}

/// How unwrapping ahead went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// The key is in memory.
    Kept,
    /// Not now: its key service was not read yet, failed, or the key could not be kept.
    NotYet,
    /// No key service can unwrap it any more, or may.
    Never,
}

/// Has a form that was seen earlier unwrapped, and kept. Of key services in `failed` nothing is asked; one that
/// fails is added.
pub async fn unwrap_ahead(
    view: &View,
    form: &Listed,
    failed: &mut Vec<KeyScope>,
    deadline: Deadline,
) -> Ahead {
    let routes = &view.link.routes;
    let ways = match routes.find(&view.snapshot, &form.key_id, &form.wrapped) {
        Route::Known(ways) => ways,
        Route::Foreign(way) if form.kind == Kind::Seed && routes.accept_foreign => vec![way],
        // A key service that was not read yet may know it.
        Route::Unknown if !view.snapshot.decrypt_only.iter().all(ServiceState::is_readable) => {
            return Ahead::NotYet;
        }
        Route::Foreign(_) | Route::Unknown | Route::Unreadable => return Ahead::Never,
    };
    let mut outcome = Ahead::Never;
    for way in ways {
        let (backend, subject) = (way.backend.as_ref(), way.subject(&form.key_id));
        if backend.ciphertext_version(&form.wrapped) != Some(way.version) {
            continue;
        }
        if failed.contains(backend.scope()) {
            outcome = Ahead::NotYet;
            continue;
        }
        match view.link.keys.unwrap(backend, form.kind, subject, &form.wrapped, deadline).await {
            Ok(_) if view.link.keys.has(form) => return Ahead::Kept,
            Ok(_) => return Ahead::NotYet,
            Err(error) if matches!(error.kind(), ErrorKind::BadCiphertext | ErrorKind::VersionGone) => {}
            Err(error) => {
                tracing::debug!(%error, KMS_KEY_ID = form.key_id, "a key could not be unwrapped ahead of time");
                failed.push(backend.scope().clone());
                outcome = Ahead::NotYet;
            }
        }
    }
    outcome
}
