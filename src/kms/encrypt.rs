//! Encrypt: wraps a DEK seed under the key version that Status announced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use super::connection::Connection;
use super::service::KmsService;
use super::{error_codes, limits, local_kek};
use crate::health::{Announce, ReasonKind, Snapshot};
use crate::key_service::{ErrorKind, KeyVersion, KnownKey};
use crate::proto::{EncryptRequest, EncryptResponse};
use crate::untrusted;

/// With local KEKs, the longest time to wait for a read of a stale key. After it, the local KEK is used without a
/// read: a key service that hangs must not use up the caller's time.
const STALE_KEY_READ: Duration = Duration::from_secs(1);

impl KmsService {
    pub(super) async fn wrap(&self, request: Request<EncryptRequest>) -> Result<EncryptResponse, Status> {
        let connection = self.authorize(&request)?;
        let deadline = self.deadline(&request);
        let mut message = request.into_inner();
        let plaintext = Zeroizing::new(std::mem::take(&mut message.plaintext));
        limits::encrypt(&plaintext, &message.uid)?;
        let _call = self.begin_call()?;
        let mut view = self.current_view();
        let local = view.services.local_kek_policy.is_some();
        let unreachable = local && is_unreachable(&view.snapshot);
        // While it is refused, each call would wait for a read that says the same.
        let told = view.snapshot.announce == Announce::Refused && view.services.refresh.was_read_lately();
        if view.snapshot.key_stale && view.snapshot.primary.key.is_some() && !unreachable && !told {
            // The key may have been replaced since an earlier run or an outage: read it before anything is written.
            let read_deadline = if local { deadline.at_most(STALE_KEY_READ) } else { deadline };
            let _read = view.services.refresh.read(read_deadline).await;
            view = self.current_view();
        }
        if view.snapshot.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::KeyMissing) {
            // It may be there again. Nothing is wrapped before a read has shown that: a wrap could create a key.
            let _read = view.services.refresh.read(deadline).await;
            view = self.current_view();
        }
        let snapshot = &view.snapshot;
        // A local KEK was wrapped while the key was known, so it can be used although the key is stale.
        let usable = |_: &&KnownKey| !snapshot.key_stale || (local && snapshot.announce == Announce::Ok);
        let Some(key) = snapshot.primary.key.as_ref().filter(usable) else {
            return Err(match &snapshot.primary.key {
                Some(_) => error_codes::not_read(snapshot),
                None => error_codes::not_started(snapshot),
            });
        };
        if let Some(reason) = snapshot.reason.as_ref().filter(|reason| reason.kind.forbids_wrapping()) {
            return Err(error_codes::of_reason(Code::FailedPrecondition, reason));
        }
        let (version, key_id) = version_to_use(key, &connection);
        let created = key.versions.get(version);
        let key_version = KeyVersion { scope: &key.scope, version, created, key_id: &key_id };
        let wrapped = match local {
            true => local_kek::wrap_seed(&view, key_version, &plaintext, deadline).await,
            false => {
                let wrapped = view.services.primary.wrap(version, &plaintext, &[], deadline).await;
                wrapped.map(|ciphertext| (ciphertext, HashMap::new()))
            }
        };
        let (ciphertext, annotations) = match wrapped {
            Ok(wrapped) => wrapped,
            Err(error) => {
                if matches!(error.kind(), ErrorKind::VersionAhead | ErrorKind::VersionGone) {
                    // A rollback, a lagging replica, or a raised minimum version: a read of the key shows which.
                    let _read = view.services.refresh.read(deadline).await;
                }
                return Err(error_codes::of_call(snapshot, &error));
            }
        };
        limits::ciphertext(&ciphertext).map_err(Status::invalid_argument)?;
        tracing::debug!(
            KMS_OPERATION = "encrypt",
            KMS_UID = untrusted::text(&message.uid),
            KMS_KEY_ID = &*key_id,
            "wrapped a DEK seed"
        );
        Ok(EncryptResponse { ciphertext, key_id: key_id.to_string(), annotations })
    }
}

/// The version and key_id to wrap with: those that Status announced on this connection, while that version may still
/// wrap. Else the newest.
fn version_to_use(key: &KnownKey, connection: &Connection) -> (u32, Arc<str>) {
    let announced = connection.announced().filter(|(version, key_id)| {
        key.has_id(*version, key_id) && *version >= key.min_encryption && *version >= key.min_decryption
    });
    announced.unwrap_or_else(|| (key.version, key.key_id.clone()))
}

/// Whether the last check did not reach the key service. Another read would only use up the caller's time.
fn is_unreachable(snapshot: &Snapshot) -> bool {
    let kind = snapshot.reason.as_ref().map(|reason| reason.kind);
    kind.is_some_and(|kind| kind.is_outage() && kind != ReasonKind::NoContact)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;
    use crate::key_service::{KeyDescription, KeyScope, KeyVersions, key_id};

    fn key(min_encryption: u32) -> KnownKey {
        let scope = KeyScope { namespace: String::new(), mount: "transit".into(), key: "k".into() };
        let versions = KeyVersions::from([(1, 10), (2, 20), (3, 30)]);
        let description = KeyDescription {
            latest: 3,
            min_encryption,
            min_decryption: 1,
            versions: versions.clone(),
            key_type: "aes256-gcm96".into(),
            warnings: Vec::new(),
            cluster_id: None,
        };
        key_id::known_key(&scope, &description, &versions, 0).unwrap()
    }

    #[tokio::test]
    async fn the_announced_version_wraps_as_long_as_it_may() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        let connection = Connection::of(&stream);
        assert_eq!(version_to_use(&key(0), &connection).0, 3, "nothing was announced");
        let second: Arc<str> = key_id::derive(&key(0).scope, 2, 20, 0).into();
        connection.set_announced(2, &second);
        assert_eq!(version_to_use(&key(2), &connection), (2, second));
        assert_eq!(version_to_use(&key(3), &connection).0, 3, "version 2 may not wrap any more");
        connection.set_announced(2, &"v1.of-another-key".into());
        assert_eq!(version_to_use(&key(0), &connection).0, 3);
    }
}
