//! Decrypt: which key made a ciphertext, and what is told when none did.

use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use super::routing::{Route, View};
use super::service::KmsService;
use super::{limits, local_kek, status};
use crate::clock::Deadline;
use crate::health::RefreshOutcome;
use crate::key_service::{ErrorKind, KeyService, KeyServiceError};
use crate::local_kek::format::{Form, form};
use crate::local_kek::{Candidate, KeyKind};
use crate::proto::{DecryptRequest, DecryptResponse};

impl KmsService {
    pub(super) async fn unwrap(&self, request: Request<DecryptRequest>) -> Result<DecryptResponse, Status> {
        self.peer(&request)?;
        let deadline = self.deadline(&request);
        let message = request.into_inner();
        limits::decrypt(&message.ciphertext, &message.key_id, &message.annotations, &message.uid)?;
        let form = form(&message.ciphertext, &message.annotations).map_err(status::of_format)?;
        if let Some(seed) = local_kek::from_memory(&self.now(), form, &message)? {
            return Ok(answer(&message, seed));
        }
        let _permit = self.permit()?;
        // What the key service is requested to unwrap: the seed itself, or the local KEK above it.
        let wrapped = match form {
            Form::Direct => message.ciphertext.as_slice(),
            Form::Local { wrapped } => wrapped,
        };
        let mut view = self.now();
        let routes = &view.link.routes;
        let candidates = match routes.find(&view.snapshot, &message.key_id, wrapped) {
            Route::Known(candidates) => candidates,
            Route::Unknown => {
                let refreshed = self.learn(&view, &message.key_id, wrapped, deadline).await;
                view = self.now();
                match view.link.routes.find(&view.snapshot, &message.key_id, wrapped) {
                    Route::Known(candidates) => candidates,
                    _ => return Err(unknown(&view, &message.key_id, wrapped, refreshed)),
                }
            }
            Route::OtherPlugin(candidate) if routes.accept_foreign_ciphertext && form == Form::Direct => {
                if view.link.refresh.remember(&message.key_id) {
                    tracing::info!(
                        KMS_UID = message.uid,
                        KMS_KEY_ID = message.key_id,
                        "unwrapping data that another plugin wrote with the same key"
                    );
                }
                vec![candidate]
            }
            Route::OtherPlugin(_) | Route::Unreadable => {
                return Err(status::told(
                    Code::FailedPrecondition,
                    "the key_id is of another plugin, and the ciphertext cannot be read here",
                    "if it was written with the same Transit key, set vault.transit.accept_foreign_ciphertext = true; else add its key as [[decrypt_only]]",
                ));
            }
        };
        let kind = if form == Form::Direct { KeyKind::Seed } else { KeyKind::Kek };
        let request = UnwrapRequest { kind, key_id: &message.key_id, wrapped, deadline };
        let unwrapped = unwrap_by(&view, &candidates, &request).await?;
        let seed = match form {
            Form::Direct => unwrapped,
            Form::Local { .. } => local_kek::open(&unwrapped, wrapped, &message)?,
        };
        Ok(answer(&message, seed))
    }

    /// Has the keys read until one of them has the id, or all are read. One key service that hangs does
    /// not keep back what another has answered.
    async fn learn(&self, view: &View, key_id: &str, wrapped: &[u8], deadline: Deadline) -> RefreshOutcome {
        let mut views = self.views.clone();
        let found = views.wait_for(|view| {
            let route = view.link.routes.find(&view.snapshot, key_id, wrapped);
            !matches!(route, Route::Unknown)
        });
        tokio::select! {
            refreshed = view.link.refresh.of_unknown(key_id, deadline) => refreshed,
            found = async { found.await.is_ok() } => match found {
                true => RefreshOutcome::Now,
                false => RefreshOutcome::NoTime,
            },
        }
    }
}

fn answer(message: &DecryptRequest, mut seed: Zeroizing<Vec<u8>>) -> DecryptResponse {
    tracing::debug!(
        KMS_OPERATION = "decrypt",
        KMS_UID = message.uid,
        KMS_KEY_ID = message.key_id,
        "unwrapped a DEK seed"
    );
    DecryptResponse { plaintext: std::mem::take(&mut *seed) }
}

/// One of our ids that even a fresh read of the keys does not know.
fn unknown(view: &View, key_id: &str, wrapped: &[u8], refreshed: RefreshOutcome) -> Status {
    let snapshot = &view.snapshot;
    if refreshed == RefreshOutcome::NoTime {
        return match (&snapshot.primary.key, &snapshot.reason) {
            (None, Some(reason)) => status::of_reason(Code::Unavailable, reason),
            _ => status::of_key_service(&KeyServiceError::deadline(
                "reading the key's versions for an unknown key_id",
            )),
        };
    }
    // A read may have failed: unknown is not the same as gone.
    if let Some(reason) = snapshot.reason.as_ref().filter(|reason| reason.kind.is_outage()) {
        return status::of_reason(Code::Unavailable, reason);
    }
    if let Some(other) = snapshot.decrypt_only.iter().find(|other| !other.is_readable()) {
        return status::told(
            Code::Unavailable,
            &format!(
                "no key that could be read has this key_id, and decrypt_only {:?} could not be read",
                other.name
            ),
            "look at its state: kms-plugin's /status",
        );
    }
    view.link.refresh.remember(key_id);
    let version = view.link.routes.primary.ciphertext_version(wrapped);
    let disabled = snapshot
        .primary
        .key
        .as_ref()
        .filter(|key| version.is_some_and(|version| version < key.min_decryption));
    match (disabled, version) {
        (Some(key), Some(version)) => status::told(
            Code::FailedPrecondition,
            &format!(
                "the ciphertext was made by version {version} of {}, and min_decryption_version is {}: the version is switched off",
                key.scope, key.min_decryption
            ),
            &format!(
                "lower it to {version}, write all data anew under the newest version, then raise it again"
            ),
        ),
        _ => status::told(
            Code::FailedPrecondition,
            &format!("no configured key has the key_id {}", key_id.chars().take(64).collect::<String>()),
            "the data was written under another key, namespace, mount or a re-created key: add that key as [[decrypt_only]], or restore it",
        ),
    }
}

/// What is to be unwrapped.
struct UnwrapRequest<'a> {
    kind: KeyKind,
    key_id: &'a str,
    wrapped: &'a [u8],
    deadline: Deadline,
}

/// Unwraps by the first service whose key made the ciphertext.
async fn unwrap_by(
    view: &View,
    candidates: &[Candidate<'_>],
    request: &UnwrapRequest<'_>,
) -> Result<Zeroizing<Vec<u8>>, Status> {
    let mut refused = Status::internal("no key service was requested; report this as a bug");
    for candidate in candidates {
        let key_service = candidate.key_service.as_ref();
        if let Err(mismatch) = check_version(key_service, candidate.version, request.wrapped) {
            refused = mismatch;
            continue;
        }
        let key_version = candidate.key_version(request.key_id);
        match view
            .link
            .keys
            .unwrap(key_service, request.kind, key_version, request.wrapped, request.deadline)
            .await
        {
            Ok(plaintext) => return Ok(plaintext),
            Err(error) if error.kind() == ErrorKind::BadCiphertext => {
                refused = status::of_key_service(&error)
            }
            Err(error) => return Err(local_kek::told(&view.snapshot, &error)),
        }
    }
    Err(refused)
}

/// A key_id of one version on a ciphertext of another was put together by mistake or malice.
fn check_version(key_service: &dyn KeyService, version: u32, ciphertext: &[u8]) -> Result<(), Status> {
    match key_service.ciphertext_version(ciphertext) {
        Some(found) if found == version => Ok(()),
        Some(found) => Err(Status::invalid_argument(format!(
            "the key_id names version {version} of the key, the ciphertext was made by version {found}: they do not belong together"
        ))),
        None => Err(Status::invalid_argument(
            "the ciphertext is not in the form of the key that its key_id names: it is damaged, or of another plugin",
        )),
    }
}
