//! Decrypt: finds the key that made a ciphertext and unwraps with it, or says why no key can.

use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use super::route::Route;
use super::service::KmsService;
use super::view::View;
use super::{error_codes, limits, local_kek};
use crate::clock::Deadline;
use crate::health::RefreshOutcome;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::local_kek::format::{Form, form};
use crate::local_kek::{Candidate, KeyKind};
use crate::proto::{DecryptRequest, DecryptResponse};
use crate::untrusted;

/// What to do about data that no configured key has written.
const OF_ANOTHER_KEY: &str = "the data was written under another key, namespace, mount or a re-created key: add that key as [[decrypt_only]], or restore it";

impl KmsService {
    pub(super) async fn unwrap(&self, request: Request<DecryptRequest>) -> Result<DecryptResponse, Status> {
        self.authorize(&request)?;
        let deadline = self.deadline(&request);
        let message = request.into_inner();
        limits::decrypt(&message.ciphertext, &message.key_id, &message.annotations, &message.uid)?;
        let form = form(&message.ciphertext, &message.annotations).map_err(error_codes::of_format)?;
        if let Some(seed) = local_kek::unwrap_from_memory(&self.current_view(), form, &message)? {
            return Ok(answer(&message, seed));
        }
        let _call = self.begin_call()?;
        // What the key service must unwrap: the seed itself, or the local KEK that wrapped it.
        let wrapped = match form {
            Form::Direct => message.ciphertext.as_slice(),
            Form::Local { wrapped } => wrapped,
        };
        let mut view = self.current_view();
        let accept_other = view.services.accept_foreign_ciphertext && form == Form::Direct;
        let candidates = match view.route(&message.key_id, wrapped) {
            Route::Known(candidates) => candidates,
            Route::Unknown => {
                let refreshed = self.refresh_keys(&view, &message.key_id, wrapped, deadline).await;
                view = self.current_view();
                match view.route(&message.key_id, wrapped) {
                    Route::Known(candidates) => candidates,
                    Route::Mismatch { named, made_by } => return Err(mismatch(named, made_by)),
                    _ => return Err(unknown_key_id(&view, &message.key_id, wrapped, refreshed)),
                }
            }
            Route::Mismatch { named, made_by } => return Err(mismatch(named, made_by)),
            Route::OtherPlugin(candidate) if accept_other => {
                if view.services.refresh.remember_unknown(&message.key_id) {
                    tracing::info!(
                        KMS_UID = untrusted::text(&message.uid),
                        KMS_KEY_ID = untrusted::text(&message.key_id),
                        "unwrapping data that another plugin wrote with the same key"
                    );
                }
                vec![candidate]
            }
            Route::OtherPlugin(_) | Route::Unreadable => {
                return Err(error_codes::with_remedy(
                    Code::FailedPrecondition,
                    "the key_id is of another plugin, and the ciphertext cannot be read here",
                    "if it was written with the same Transit key, set vault.transit.accept_foreign_ciphertext = true; else add its key as [[decrypt_only]]",
                ));
            }
        };
        let kind = if form == Form::Direct { KeyKind::Seed } else { KeyKind::Kek };
        let request = UnwrapRequest { kind, key_id: &message.key_id, wrapped, deadline };
        let unwrapped = unwrap_by_any(&view, &candidates, &request).await?;
        let seed = match form {
            Form::Direct => unwrapped,
            Form::Local { .. } => local_kek::unwrap_seed(&unwrapped, wrapped, &message)?,
        };
        Ok(answer(&message, seed))
    }

    /// Requests a read of all keys, and waits until one of them has the key_id, or until all are read. A key service
    /// that hangs does not delay this when the key of another one has the key_id.
    async fn refresh_keys(
        &self,
        view: &View,
        key_id: &str,
        wrapped: &[u8],
        deadline: Deadline,
    ) -> RefreshOutcome {
        let mut views = self.views.clone();
        let found = views.wait_for(|view| !matches!(view.route(key_id, wrapped), Route::Unknown));
        tokio::select! {
            biased;
            refreshed = view.services.refresh.for_unknown(key_id, deadline) => refreshed,
            found = async { found.await.is_ok() } => match found {
                true => RefreshOutcome::Refreshed,
                false => RefreshOutcome::TimedOut,
            },
        }
    }
}

/// The error for a key_id in our form that no known key has, after the keys were read.
fn unknown_key_id(view: &View, key_id: &str, wrapped: &[u8], refreshed: RefreshOutcome) -> Status {
    let snapshot = &view.snapshot;
    if refreshed == RefreshOutcome::TimedOut {
        return match (&snapshot.primary.key, &snapshot.reason) {
            (None, Some(reason)) => error_codes::of_reason(Code::Unavailable, reason),
            _ => error_codes::of_key_service(&KeyServiceError::deadline(
                "reading the key's versions for an unknown key_id",
            )),
        };
    }
    // When a read failed, the key_id may be of a version that was not read.
    if let Some(reason) = snapshot.reason.as_ref().filter(|reason| reason.kind.is_outage()) {
        return error_codes::of_reason(Code::Unavailable, reason);
    }
    if let Some(other) = snapshot.decrypt_only.iter().find(|other| !other.is_readable()) {
        return error_codes::with_remedy(
            Code::Unavailable,
            &format!(
                "no key that could be read has this key_id, and decrypt_only {:?} could not be read",
                other.name
            ),
            "run kms-plugin status to see why",
        );
    }
    view.services.refresh.remember_unknown(key_id);
    let unknown = format!("no configured key has the key_id {}", limits::shown(key_id));
    let Some(version) = view.services.primary.ciphertext_version(wrapped) else {
        return error_codes::with_remedy(Code::FailedPrecondition, &unknown, OF_ANOTHER_KEY);
    };
    if let Some(key) = snapshot.primary.key.as_ref().filter(|key| version < key.min_decryption) {
        return error_codes::with_remedy(
            Code::FailedPrecondition,
            &format!(
                "the ciphertext was made by version {version} of {}, and min_decryption_version is {}: the version may not unwrap any more",
                key.scope, key.min_decryption
            ),
            &format!("lower it to {version}, rewrite all data under the newest version, then raise it again"),
        );
    }
    // A server that is cut off from its cluster tells the key as it was then. The data may also be of another key, which
    // only an administrator can know.
    match snapshot.services().filter_map(|state| state.key.as_ref()).find(|key| version > key.version) {
        Some(key) => error_codes::behind(
            version,
            &format!(
                "{unknown}: its ciphertext was made by version {version}, and the newest of {} that the server told is {}",
                key.scope, key.version
            ),
            &format!(
                "wait: the server may be behind or cut off from its cluster; if this stays, {OF_ANOTHER_KEY}"
            ),
        ),
        None => error_codes::with_remedy(Code::FailedPrecondition, &unknown, OF_ANOTHER_KEY),
    }
}

fn answer(message: &DecryptRequest, mut seed: Zeroizing<Vec<u8>>) -> DecryptResponse {
    tracing::debug!(
        KMS_OPERATION = "decrypt",
        KMS_UID = untrusted::text(&message.uid),
        KMS_KEY_ID = untrusted::text(&message.key_id),
        "unwrapped a DEK seed"
    );
    DecryptResponse { plaintext: std::mem::take(&mut *seed) }
}

/// What to unwrap.
struct UnwrapRequest<'a> {
    kind: KeyKind,
    key_id: &'a str,
    wrapped: &'a [u8],
    deadline: Deadline,
}

/// Tries the candidates in turn, until the key of one unwraps the ciphertext.
async fn unwrap_by_any(
    view: &View,
    candidates: &[Candidate<'_>],
    request: &UnwrapRequest<'_>,
) -> Result<Zeroizing<Vec<u8>>, Status> {
    let mut refused = None;
    for candidate in candidates {
        let key_service = candidate.key_service.as_ref();
        let key_version = candidate.key_version(request.key_id);
        let keks = &view.services.local_keks;
        let unwrapped =
            keks.unwrap(key_service, request.kind, key_version, request.wrapped, request.deadline).await;
        match unwrapped {
            Ok(plaintext) => return Ok(plaintext),
            Err(error) if error.kind() == ErrorKind::BadCiphertext => {
                refused = Some(error_codes::of_key_service(&error));
            }
            Err(error) => return Err(error_codes::of_call(&view.snapshot, &error)),
        }
    }
    Err(refused.unwrap_or_else(|| Status::internal("no key service was tried; report this as a bug")))
}

/// The error for a ciphertext that was not made by the version that its key_id names.
fn mismatch(named: u32, made_by: Option<u32>) -> Status {
    Status::invalid_argument(match made_by {
        Some(made_by) => format!(
            "the key_id names version {named} of the key, the ciphertext was made by version {made_by}: they do not belong together"
        ),
        None => "the ciphertext is not in the form of the key that its key_id names: it is damaged, or of another plugin".to_owned(),
    })
}
