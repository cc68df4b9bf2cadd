//! Encrypt and Decrypt under a local KEK. While the local KEK is in memory, they need no call to the key service.

use std::collections::HashMap;

use tonic::Status;
use zeroize::Zeroizing;

use super::error_codes;
use super::view::View;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError, KeyVersion, key_id};
use crate::local_kek::KeyKind;
use crate::local_kek::format::{self, ANNOTATION, Form, FormatError, Key};
use crate::proto::DecryptRequest;

/// A ciphertext and its annotations.
pub(super) type Wrapped = (Vec<u8>, HashMap<String, Vec<u8>>);

/// Wraps a DEK seed under the local KEK of `key_version`. Makes a local KEK when there is none.
pub(super) async fn wrap_seed(
    view: &View,
    key_version: KeyVersion<'_>,
    seed: &[u8],
    deadline: Deadline,
) -> Result<Wrapped, KeyServiceError> {
    let keks = &view.services.local_keks;
    let claimed = match keks.use_current(key_version.key_id) {
        Some(claimed) => claimed,
        None => {
            keks.prepare(view.services.primary.as_ref(), key_version, deadline).await?;
            keks.use_current(key_version.key_id).ok_or_else(|| {
                KeyServiceError::new(
                    ErrorKind::Unreachable,
                    "there is no local KEK yet, or local KEKs were turned off a moment ago",
                    "kube-apiserver retries; if this continues, look at /healthz",
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

/// Unwraps a DEK seed without a call to the key service; `None` when the key for it is not in memory.
pub(super) fn unwrap_from_memory(
    view: &View,
    form: Form<'_>,
    message: &DecryptRequest,
) -> Result<Option<Zeroizing<Vec<u8>>>, Status> {
    let keks = &view.services.local_keks;
    match form {
        // Without accept_foreign_ciphertext, a key_id of another plugin is refused, even when its seed is in memory.
        Form::Direct
            if !view.services.accept_foreign_ciphertext && !message.key_id.starts_with(key_id::PREFIX) =>
        {
            Ok(None)
        }
        Form::Direct => Ok(keks.find(KeyKind::Seed, &message.key_id, &message.ciphertext)),
        Form::Local { wrapped } => {
            let kek = keks.find(KeyKind::Kek, &message.key_id, wrapped);
            kek.map(|kek| unwrap_seed(&kek, wrapped, message)).transpose()
        }
    }
}

/// Unwraps the DEK seed with the local KEK.
pub(super) fn unwrap_seed(
    kek: &[u8],
    wrapped: &[u8],
    message: &DecryptRequest,
) -> Result<Zeroizing<Vec<u8>>, Status> {
    let key: &[u8; format::KEY_BYTES] =
        kek.try_into().map_err(|_| error_codes::of_format(FormatError::NotAuthentic))?;
    format::open(&Key::new(*key), &message.key_id, wrapped, &message.ciphertext)
        .map_err(error_codes::of_format)
}
