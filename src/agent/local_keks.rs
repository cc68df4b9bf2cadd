//! The tasks that local KEKs need. They give the cache the health of the key services, make local KEKs and prefetch
//! keys before they are needed, and save the list of wrapped keys. They run only while local KEKs are on.
//!
//! They wipe and fill the cache only while the agent uses their configuration: a reload that fails must wipe nothing.
//! Must not decide whether a key service is healthy: `health` does.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::error::TaskError;
use super::timing::{
    LOCAL_KEK_CALL_TIMEOUT, LOCAL_KEK_CHANGE_DELAY, LOCAL_KEK_RETRY_DELAYS, MAX_WIPE_PAUSE, PREFETCH_PAUSE,
    RETAIN_INTERVAL,
};
use crate::clock::{BootTime, Deadline, Purpose};
use crate::health::{ServiceState, Snapshot};
use crate::key_service::{KeyScope, KeyVersion};
use crate::kms::{KeyServices, Route, View};
use crate::local_kek::{Cache, KeyKind, Prefetched, ServiceHealth, WrappedKey, prefetch};
use crate::retry::Backoff;

/// Runs the three tasks, until one of them ends.
pub(super) async fn run(services: Arc<KeyServices>, views: watch::Receiver<View>) -> Result<(), TaskError> {
    let keys = &services.local_keks;
    tokio::try_join!(wipe(&services, views.clone()), fill(&services, views), save(keys)).map(drop)
}

/// Gives the cache the health of the key services, at each change and when a key expires. Makes no call: a key
/// service that hangs must not delay a wipe.
async fn wipe(services: &Arc<KeyServices>, mut views: watch::Receiver<View>) -> Result<(), TaskError> {
    let keys = &services.local_keks;
    let mut retain = tokio::time::interval(RETAIN_INTERVAL);
    retain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let view = views.borrow_and_update().clone();
        let in_use = Arc::ptr_eq(&view.services, services);
        let mut pause = MAX_WIPE_PAUSE;
        if in_use {
            keys.apply_health(&service_health(&view.snapshot));
            let expiry = keys.next_expiry().map(|expiry| expiry.since(BootTime::now()));
            pause = expiry.unwrap_or(MAX_WIPE_PAUSE).min(MAX_WIPE_PAUSE);
        }
        tokio::select! {
            biased;
            changed = views.changed() => changed.map_err(|_| TaskError::NoPublisher)?,
            () = tokio::time::sleep(pause) => {}
            // A reload that failed, or a call that ended late, may have left keys of a key service that is not
            // configured.
            _ = retain.tick(), if in_use => {
                // A reload may have ended while this task waited: its keys must stay.
                let view = views.borrow().clone();
                if Arc::ptr_eq(&view.services, services) {
                    keys.retain(&service_health(&view.snapshot));
                }
            }
        }
    }
}

/// The health of each key service.
fn service_health(snapshot: &Snapshot) -> Vec<ServiceHealth> {
    let services = snapshot.services();
    services
        .map(|service| ServiceHealth {
            scope: service.scope.clone(),
            versions: service.key.as_ref().map(|key| key.versions.clone()).unwrap_or_default(),
            contact: service.last_contact,
            wipe_at: service.wipe_at,
            replaced: std::ptr::eq(service, &snapshot.primary) && snapshot.has_another_key(),
            min_version: service.key.as_ref().map_or(0, |key| key.min_decryption),
        })
        .collect()
}

/// Makes local KEKs, and prefetches the keys that earlier runs used, while the key service works.
async fn fill(services: &Arc<KeyServices>, mut views: watch::Receiver<View>) -> Result<(), TaskError> {
    let keys = &services.local_keks;
    let mut changes = keys.changes();
    let mut backoff = Backoff::new(LOCAL_KEK_RETRY_DELAYS.0, LOCAL_KEK_RETRY_DELAYS.1);
    loop {
        let view = views.borrow_and_update().clone();
        changes.mark_unchanged();
        let mut due = None;
        if Arc::ptr_eq(&view.services, services) && view.snapshot.can_wrap() {
            if !fill_once(keys, &view, &views).await {
                // The delay holds even when something changes: it limits the calls to a key service that fails.
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
            backoff.reset();
            due = view.snapshot.primary.key.as_ref().and_then(|key| keys.replacement_due(&key.key_id));
        }
        tokio::select! {
            biased;
            changed = views.changed() => changed.map_err(|_| TaskError::NoPublisher)?,
            _ = changes.changed() => {}
            () = async { tokio::time::sleep(due.unwrap_or_default()).await }, if due.is_some() => {}
        }
        tokio::time::sleep(LOCAL_KEK_CHANGE_DELAY).await;
    }
}

/// Makes a local KEK if one is due, then prefetches what is missing. False when a part of it failed.
async fn fill_once(keys: &Cache, view: &View, views: &watch::Receiver<View>) -> bool {
    if let Some(key) = view.snapshot.primary.key.as_ref().filter(|key| keys.needs_replacement(&key.key_id)) {
        let primary = view.services.primary.as_ref();
        let deadline = Deadline::after(LOCAL_KEK_CALL_TIMEOUT);
        if let Err(error) = keys.prepare(primary, KeyVersion::of_key(key), deadline).await {
            tracing::warn!(
                KMS_REASON = error.kind().name(),
                KMS_REMEDY = error.remedy(),
                "no new local KEK could be made: {error}; retrying. The current one stays in use until it has no uses left"
            );
            return false;
        }
    }
    let (mut failed, mut all) = (Vec::new(), true);
    for key in keys.missing() {
        // With another configuration or another state, the caller starts again.
        let now = views.borrow().clone();
        if !Arc::ptr_eq(&now.services, &view.services) || !now.snapshot.can_wrap() {
            return true;
        }
        match fetch(&now, &key, &mut failed).await {
            Prefetched::Cached => {}
            Prefetched::Never => keys.forget(&key),
            Prefetched::NotYet => {
                all = false;
                continue;
            }
        }
        tokio::time::sleep(PREFETCH_PAUSE).await;
    }
    all
}

/// Prefetches one key from the key services that may have wrapped it.
async fn fetch(view: &View, key: &WrappedKey, failed: &mut Vec<KeyScope>) -> Prefetched {
    let services = &view.services;
    let candidates = match view.route(&key.key_id, &key.wrapped) {
        Route::Known(candidates) => candidates,
        Route::OtherPlugin(candidate) if key.kind == KeyKind::Seed && services.accept_foreign_ciphertext => {
            vec![candidate]
        }
        // A key service whose key was not read yet may have wrapped it.
        Route::Unknown if !view.snapshot.decrypt_only.iter().all(ServiceState::is_readable) => {
            return Prefetched::NotYet;
        }
        Route::OtherPlugin(_) | Route::Unknown | Route::Mismatch { .. } | Route::Unreadable => {
            return Prefetched::Never;
        }
    };
    let deadline = Deadline::after(LOCAL_KEK_CALL_TIMEOUT).of(Purpose::Prefetch);
    prefetch(&services.local_keks, key, &candidates, failed, deadline).await
}

/// Saves the list of wrapped keys when it changes, whether the key services work or not.
async fn save(keys: &Arc<Cache>) -> Result<(), TaskError> {
    let mut changes = keys.changes();
    let mut backoff = Backoff::new(LOCAL_KEK_RETRY_DELAYS.0, LOCAL_KEK_RETRY_DELAYS.1);
    loop {
        changes.mark_unchanged();
        if keys.save().await {
            backoff.reset();
            let _open = changes.changed().await;
            tokio::time::sleep(LOCAL_KEK_CHANGE_DELAY).await;
        } else {
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}
