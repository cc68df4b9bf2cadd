//! Encrypt and Decrypt under a local KEK: without a call to the key service, while the key is in memory.

use std::collections::HashMap;

use tonic::Status;
use zeroize::Zeroizing;

use super::routing::View;
use super::status;
use crate::clock::Deadline;
use crate::health::Snapshot;
use crate::key_service::{ErrorKind, KeyServiceError, KeyVersion, key_id};
use crate::local_kek::KeyKind;
use crate::local_kek::format::{self, ANNOTATION, Form, FormatError, Key};
use crate::proto::DecryptRequest;

/// A ciphertext and its annotations.
pub(super) type Wrapped = (Vec<u8>, HashMap<String, Vec<u8>>);

/// Wraps a DEK seed under the local KEK of `key_version`, which is made when there is none.
pub(super) async fn wrap(
    view: &View,
    key_version: KeyVersion<'_>,
    seed: &[u8],
    deadline: Deadline,
) -> Result<Wrapped, KeyServiceError> {
    let keys = &view.link.keys;
    let claimed = match keys.use_current(key_version.key_id) {
        Some(claimed) => claimed,
        None => {
            keys.prepare(view.link.routes.primary.as_ref(), key_version, deadline).await?;
            keys.use_current(key_version.key_id).ok_or_else(|| {
                KeyServiceError::new(
                    ErrorKind::Unreachable,
                    "there is no local KEK yet, or local KEKs were turned off a moment ago",
                    "it is tried again; if it stays, look at /healthz",
                )
            })?
        }
    };
    let (key, wrapped) = claimed;
    let ciphertext = format::seal(&key, key_version.key_id, &wrapped, seed).map_err(|error| {
        KeyServiceError::new(ErrorKind::Internal, error.to_string(), "report this as a bug")
    })?;
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
        Form::Direct
            if !view.link.routes.accept_foreign_ciphertext && !message.key_id.starts_with(key_id::PREFIX) =>
        {
            Ok(None)
        }
        Form::Direct => Ok(keys.find(KeyKind::Seed, &message.key_id, &message.ciphertext)),
        Form::Local { wrapped } => {
            let kek = keys.find(KeyKind::Kek, &message.key_id, wrapped);
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
pub(super) fn told(snapshot: &Snapshot, error: &KeyServiceError) -> Status {
    let text = format!("{error}{}", snapshot.wiped());
    status::told(status::code(error.kind()), &text, error.remedy())
}
