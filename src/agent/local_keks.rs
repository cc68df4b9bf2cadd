//! The tasks that local KEKs need: tell the cache how healthy the key services are, make new local KEKs and prefetch
//! keys ahead of need, and save the list of wrapped keys. They run only while local KEKs are on.
//!
//! They act only while the agent's view shows their configuration: one that has not proven itself wipes nothing. Must
//! not judge the key services; `health` does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::error::TaskError;
use crate::clock::{BootTime, Deadline};
use crate::health::{ServiceState, Snapshot};
use crate::key_service::KeyVersion;
use crate::kms::{Link, Route, View};
use crate::local_kek::{Cache, KeyKind, Prefetched, ServiceHealth, WrappedKey, prefetch};
use crate::retry::Backoff;

/// Longest pause until expired keys are looked for: the timer does not count the time that a machine is suspended,
/// and the expiry does. An expired key is never used, also before it is wiped.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often keys of key services that are not configured are wiped. A reload takes less time to prove itself.
const RETAIN: Duration = Duration::from_secs(60);
/// Time for one call.
const CALL: Duration = Duration::from_secs(3);
/// Between two prefetches: ten a second, beside the API server's own calls.
const PREFETCH_PAUSE: Duration = Duration::from_millis(100);
/// Changes of the list within this time are written together.
const SAVE_DELAY: Duration = Duration::from_secs(1);
/// Delays after a failed call or write.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Runs the three tasks; the first that ends, ends all.
pub(super) async fn run(link: Arc<Link>, views: watch::Receiver<View>) -> Result<(), TaskError> {
    let keys = &link.keys;
    tokio::try_join!(wipe(&link, views.clone()), fill(&link, views), save(keys)).map(drop)
}

/// Tells the cache how healthy the key services are, at each change and when a key expires. Makes no call: what must
/// be wiped waits for nobody.
async fn wipe(link: &Arc<Link>, mut views: watch::Receiver<View>) -> Result<(), TaskError> {
    let keys = &link.keys;
    let mut retain = tokio::time::interval(RETAIN);
    retain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let view = views.borrow_and_update().clone();
        let shown = Arc::ptr_eq(&view.link, link);
        let services = service_health(&view.snapshot);
        let mut pause = MAX_PAUSE;
        if shown {
            keys.apply_health(&services);
            pause =
                keys.next_expiry().map_or(MAX_PAUSE, |expiry| expiry.since(BootTime::now()).min(MAX_PAUSE));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = views.changed() => changed.map_err(|_| TaskError::NoPublisher)?,
            // A configuration that did not prove itself, or a call that ended late, may have left keys.
            _ = retain.tick(), if shown => keys.retain(&services),
        }
    }
}

/// How healthy each key service is.
fn service_health(snapshot: &Snapshot) -> Vec<ServiceHealth> {
    let services = std::iter::once(&snapshot.primary).chain(&snapshot.decrypt_only);
    services
        .map(|service| ServiceHealth {
            scope: service.scope.clone(),
            versions: service.key.as_ref().map(|key| key.versions.clone()).unwrap_or_default(),
            contact: service.contact,
            refuses: service.refuses,
            min_version: service.key.as_ref().map_or(0, |key| key.min_decryption),
        })
        .collect()
}

/// Makes local KEKs, and prefetches what was seen in earlier runs, while the key service is there.
async fn fill(link: &Arc<Link>, mut views: watch::Receiver<View>) -> Result<(), TaskError> {
    let keys = &link.keys;
    let mut changes = keys.changes();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let view = views.borrow_and_update().clone();
        changes.mark_unchanged();
        let mut due = None;
        if Arc::ptr_eq(&view.link, link) && view.snapshot.can_wrap() {
            if !fill_once(keys, &view, &views).await {
                // However much changes meanwhile: a key service that fails is not asked more often.
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
            backoff.reset();
            due = view.snapshot.primary.key.as_ref().and_then(|key| keys.replacement_due(&key.key_id));
        }
        tokio::select! {
            () = async { tokio::time::sleep(due.unwrap_or_default()).await }, if due.is_some() => {}
            changed = views.changed() => changed.map_err(|_| TaskError::NoPublisher)?,
            _ = changes.changed() => {}
        }
    }
}

/// One round. False when a key service did not do what it was asked.
async fn fill_once(keys: &Cache, view: &View, views: &watch::Receiver<View>) -> bool {
    if let Some(key) = view.snapshot.primary.key.as_ref().filter(|key| keys.needs_replacement(&key.key_id)) {
        let primary = view.link.routes.primary.as_ref();
        if let Err(error) = keys.prepare(primary, KeyVersion::of_key(key), Deadline::after(CALL)).await {
            tracing::warn!(
                KMS_REASON = error.kind().name(),
                KMS_REMEDY = error.remedy(),
                "no new local KEK could be made; the one in use stays in use until its uses are used up: {error}"
            );
            return false;
        }
    }
    let (mut failed, mut all) = (Vec::new(), true);
    for key in keys.missing() {
        // Another configuration or another state: begin anew with it.
        let now = views.borrow().clone();
        if !Arc::ptr_eq(&now.link, &view.link) || !now.snapshot.can_wrap() {
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
async fn fetch(view: &View, key: &WrappedKey, failed: &mut Vec<crate::key_service::KeyScope>) -> Prefetched {
    let routes = &view.link.routes;
    let candidates = match routes.find(&view.snapshot, &key.key_id, &key.wrapped) {
        Route::Known(candidates) => candidates,
        Route::OtherPlugin(candidate) if key.kind == KeyKind::Seed && routes.accept_foreign_ciphertext => {
            vec![candidate]
        }
        // A key service that was not read yet may know it.
        Route::Unknown if !view.snapshot.decrypt_only.iter().all(ServiceState::is_readable) => {
            return Prefetched::NotYet;
        }
        Route::OtherPlugin(_) | Route::Unknown | Route::Unreadable => return Prefetched::Never,
    };
    prefetch(&view.link.keys, key, &candidates, failed, Deadline::after(CALL)).await
}

/// Saves the list of wrapped keys when it changes, whatever the key services do.
async fn save(keys: &Cache) -> Result<(), TaskError> {
    let mut changes = keys.changes();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        changes.mark_unchanged();
        if keys.save().await {
            backoff.reset();
            let _open = changes.changed().await;
            tokio::time::sleep(SAVE_DELAY).await;
        } else {
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}
