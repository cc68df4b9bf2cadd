//! Looks after the keys in memory: tells them how the key services stand, makes a new local KEK ahead of need,
//! and has what is not in memory unwrapped ahead of an outage.
//!
//! Follows what the faces show: a configuration that has not proven itself wipes nothing. Must not judge the
//! key services; the state does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock::Deadline;
use crate::kms::{Ahead, Link, View, unwrap_ahead};
use crate::local_kek::{Cache, Standing, Subject};
use crate::retry::{Backoff, spread};
use crate::snapshot::Snapshot;

/// How often time alone is looked at: what is over is wiped within it.
const TICK: Duration = Duration::from_secs(1);
/// How often keys of key services that are not configured are looked for. A reload takes less time to prove itself.
const RETAIN: Duration = Duration::from_secs(60);
/// Time for one call.
const CALL: Duration = Duration::from_secs(3);
/// Between two unwraps ahead of time: ten a second, beside the API server's own.
const PACE: Duration = Duration::from_millis(100);

/// Tells the keys how the key services stand, at each change and each second. Makes no call: what must be wiped
/// waits for nobody.
pub(super) async fn watch(keys: Arc<Cache>, mut views: watch::Receiver<View>) -> Result<(), String> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut shown, mut retained): (Option<Arc<Link>>, _) = (None, Instant::now());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = views.changed() => changed.map_err(|_| "nobody publishes the state")?,
        }
        let view = views.borrow_and_update().clone();
        let standings = standings(&view.snapshot);
        keys.settle(&standings);
        let changed = !shown.as_ref().is_some_and(|link| Arc::ptr_eq(link, &view.link));
        if changed || retained.elapsed() >= RETAIN {
            // A configuration that did not prove itself, or calls that ended late, may have left something.
            keys.set_policy(view.link.policy);
            keys.retain(&standings);
            (shown, retained) = (Some(view.link), Instant::now());
        }
    }
}

/// How each key service stands.
fn standings(snapshot: &Snapshot) -> Vec<Standing> {
    let services = std::iter::once(&snapshot.primary).chain(&snapshot.decrypt_only);
    services
        .map(|service| Standing {
            scope: service.scope.clone(),
            versions: service.key.as_ref().map(|key| key.versions.clone()).unwrap_or_default(),
            contact: service.contact,
            refuses: service.refuses,
            min_version: service.key.as_ref().map_or(0, |key| key.min_decryption),
        })
        .collect()
}

/// Makes local KEKs, and unwraps what was seen in earlier runs, while the key service is there.
pub(super) async fn run(keys: Arc<Cache>, views: watch::Receiver<View>) -> Result<(), String> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let view = views.borrow().clone();
        let pause = match view.link.policy.is_some() && view.snapshot.can_wrap() {
            true => match work(&keys, &view, &views).await {
                true => {
                    backoff.reset();
                    TICK
                }
                false => backoff.next_delay(),
            },
            false => TICK,
        };
        tokio::time::sleep(spread(pause)).await;
    }
}

/// Writes the list of wrapped forms down while it changes, whatever the key service does.
pub(super) async fn save(keys: Arc<Cache>) -> Result<(), String> {
    loop {
        tokio::time::sleep(TICK).await;
        keys.save().await;
    }
}

/// One round. False when the key service did not do what it was asked.
async fn work(keys: &Cache, view: &View, views: &watch::Receiver<View>) -> bool {
    if let Some(key) = view.snapshot.primary.key.as_ref().filter(|key| keys.wants_another(&key.key_id)) {
        let primary = view.link.routes.primary.as_ref();
        if let Err(error) = keys.prepare(primary, Subject::of_key(key), Deadline::after(CALL)).await {
            tracing::warn!(
                KMS_REASON = error.kind().name(),
                KMS_REMEDY = error.remedy(),
                "no new local KEK could be made; the one in use stays as long as its uses last: {error}"
            );
            return false;
        }
    }
    let (mut failed, mut all) = (Vec::new(), true);
    for form in keys.missing() {
        // Another configuration or another state: begin anew with it.
        let now = views.borrow().clone();
        if !Arc::ptr_eq(&now.link, &view.link) || !now.snapshot.can_wrap() {
            return true;
        }
        match unwrap_ahead(&now, &form, &mut failed, Deadline::after(CALL)).await {
            Ahead::Kept => {}
            Ahead::Never => keys.forget(&form),
            Ahead::NotYet => {
                all = false;
                continue;
            }
        }
        tokio::time::sleep(PACE).await;
    }
    all
}
