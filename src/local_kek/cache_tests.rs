//! What is cached, for how long, across restarts, and what is evicted.

use std::time::Duration;

use super::*;
use crate::key_service::KeyVersions;
use crate::local_kek::format::KEY_BYTES;

const POLICY: Policy =
    Policy { max_offline: Duration::from_secs(3600), max_age: Duration::from_secs(3600), max_uses: 10 };

fn scope(key: &str) -> KeyScope {
    KeyScope { namespace: String::new(), mount: "transit".into(), key: key.into() }
}

fn key_version<'a>(scope: &'a KeyScope, version: u32, key_id: &'a str) -> KeyVersion<'a> {
    KeyVersion { scope, version, created: Some(i64::from(version) * 100), key_id }
}

/// A healthy key service with versions 1 to 20, each created at a hundred times its number.
fn healthy(scope: &KeyScope) -> ServiceHealth {
    let versions: KeyVersions = (1..=20).map(|version| (version, i64::from(version) * 100)).collect();
    ServiceHealth {
        scope: scope.clone(),
        versions,
        contact: None,
        wipe_at: None,
        replaced: false,
        min_version: 1,
    }
}

fn cache() -> Cache {
    Cache::open(Vec::new(), None, Some(POLICY))
}

fn key() -> Key {
    Key::new([7; KEY_BYTES])
}

/// A cache with the same descriptors, as after a restart of the agent.
fn restarted(cache: &Cache, policy: Option<Policy>) -> Cache {
    Cache::open(cache.lock().keys.descriptors(), None, policy)
}

#[test]
fn keys_uses_and_contact_survive_a_restart() {
    let (cache, scope) = (cache(), scope("k"));
    assert!(cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key()));
    cache.insert(KeyKind::Seed, key_version(&scope, 1, "v1.a"), b"vault:v1:seed", &[9; 32]);
    for _ in 0..4 {
        assert_eq!(cache.use_current("v1.a").unwrap(), (key(), b"vault:v1:kek".to_vec()));
    }
    let next = restarted(&cache, Some(POLICY));
    assert_eq!(next.state(Some("v1.a")).unwrap().uses, 4);
    assert_eq!(*next.find(KeyKind::Seed, "v1.a", b"vault:v1:seed").unwrap(), [9; 32]);
    assert_eq!(*next.find(KeyKind::Kek, "v1.a", b"vault:v1:kek").unwrap(), *key());
    for _ in 4..10 {
        next.use_current("v1.a").unwrap();
    }
    assert!(next.use_current("v1.a").is_none(), "it has no uses left");
    assert!(next.needs_replacement("v1.a"));
    assert!(next.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:other", &key()));
    assert_eq!(next.use_current("v1.a").unwrap().1, b"vault:v1:other");
    let third = restarted(&next, Some(POLICY));
    assert_eq!(third.use_current("v1.a").unwrap().1, b"vault:v1:other", "the newest one wraps");
    assert!(restarted(&third, None).find(KeyKind::Kek, "v1.a", b"vault:v1:kek").is_none());
    assert!(
        third.find(KeyKind::Kek, "v1.a", b"vault:v1:kek").is_none(),
        "wiped for each holder of the descriptor"
    );
}

#[test]
fn cached_keys_are_listed_again_when_the_list_was_not_written_before_the_restart() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    cache.insert(KeyKind::Seed, key_version(&scope, 1, "v1.a"), b"vault:v1:seed", &[9; 32]);
    let next = restarted(&cache, Some(POLICY));
    next.needs_replacement("v1.a");
    next.find(KeyKind::Seed, "v1.a", b"vault:v1:seed").unwrap();
    let inner = next.lock();
    let wrapped: Vec<_> = inner.list.iter().map(|(_, key)| key.wrapped.as_slice()).collect();
    assert_eq!(wrapped, [b"vault:v1:kek".as_slice(), b"vault:v1:seed"]);
}

#[test]
fn a_local_kek_is_replaced_before_its_last_use() {
    let (cache, scope) = (cache(), scope("k"));
    assert!(cache.needs_replacement("v1.a"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    for uses in 0..10 {
        assert_eq!(cache.needs_replacement("v1.a"), uses >= 8, "after {uses} uses");
        cache.use_current("v1.a").unwrap();
    }
    assert!(cache.needs_replacement("v1.b"));
    cache.set_policy(Some(Policy { max_age: Duration::ZERO, ..POLICY }));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:next", &key());
    assert!(cache.needs_replacement("v1.a"), "it is too old");
}

#[test]
fn expired_keys_are_not_used_and_then_wiped() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    cache.set_policy(Some(Policy { max_offline: Duration::ZERO, ..POLICY }));
    assert!(cache.find(KeyKind::Kek, "v1.a", b"vault:v1:kek").is_none());
    assert!(cache.use_current("v1.a").is_none());
    assert!(cache.fingerprints().is_empty());
    let copies = cache.lock().keys.descriptors();
    cache.apply_health(&[healthy(&scope)]);
    assert!(cache.lock().keys.is_empty());
    assert!(
        Cache::open(copies, None, Some(POLICY)).lock().keys.is_empty(),
        "wiped memory is not opened as a group"
    );
}

/// Found by the simulation (seed 12704): after a suspend, the local KEK had expired, a Decrypt unwrapped it again before it
/// was wiped, and the next seed was wrapped with a key that had lost its wrapped form.
#[test]
fn a_local_kek_that_is_unwrapped_again_keeps_its_wrapped_form_and_its_uses() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    assert!(cache.use_current("v1.a").is_some());
    cache.insert(KeyKind::Kek, key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key()[..]);
    let (_, wrapped) = cache.use_current("v1.a").unwrap();
    assert_eq!(wrapped, b"vault:v1:kek");
    assert_eq!(cache.state(Some("v1.a")).unwrap().uses, 2);
}

#[test]
fn a_later_contact_postpones_the_expiry() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let until = |cache: &Cache| cache.state(None).unwrap().until.unwrap();
    let before = until(&cache);
    cache.apply_health(&[healthy(&scope)]);
    assert_eq!(until(&cache), before);
    let later = BootTime::now().plus(Duration::from_secs(60));
    cache.apply_health(&[ServiceHealth { contact: Some(later), ..healthy(&scope) }]);
    assert!(until(&cache) > before.plus(Duration::from_secs(59)));
    cache.apply_health(&[ServiceHealth { contact: Some(BootTime::now()), ..healthy(&scope) }]);
    assert!(until(&cache) > before.plus(Duration::from_secs(59)), "an older one changes nothing");
    // A time in the future is not of this boot.
    assert!(restarted(&cache, Some(POLICY)).lock().keys.is_empty());
}

#[test]
fn a_refusal_wipes_the_keys_of_that_key_service_and_no_more_are_cached() {
    let (cache, ours, theirs) = (cache(), scope("k"), scope("other"));
    for (scope, key_id) in [(&ours, "v1.a"), (&theirs, "v1.b")] {
        cache.insert_current(key_version(scope, 1, key_id), b"vault:v1:kek", &key());
    }
    let refusing = ServiceHealth { wipe_at: Some(BootTime::default()), ..healthy(&ours) };
    cache.apply_health(&[refusing.clone(), healthy(&theirs)]);
    assert!(cache.use_current("v1.a").is_none() && cache.use_current("v1.b").is_some());
    cache.insert(KeyKind::Seed, key_version(&ours, 1, "v1.a"), b"vault:v1:late", &[1; 32]);
    assert!(cache.find(KeyKind::Seed, "v1.a", b"vault:v1:late").is_none(), "a late result is not cached");
    cache.apply_health(&[healthy(&ours), healthy(&theirs)]);
    assert!(cache.insert_current(key_version(&ours, 1, "v1.a"), b"vault:v1:kek", &key()));
}

/// After a move to another cluster, the key usually has the same name.
#[test]
fn keys_with_the_same_name_in_two_clusters_are_different_keys() {
    let (cache, scope) = (cache(), scope("k"));
    let new = KeyVersion { created: Some(777), ..key_version(&scope, 1, "v1.new") };
    cache.insert_current(new, b"vault:v1:new", &key());
    cache.insert(KeyKind::Kek, key_version(&scope, 1, "v1.old"), b"vault:v1:old", &[1; 32]);
    let primary = ServiceHealth { versions: KeyVersions::from([(1, 777)]), ..healthy(&scope) };
    let unread = ServiceHealth {
        versions: KeyVersions::default(),
        wipe_at: Some(BootTime::default()),
        ..healthy(&scope)
    };
    cache.apply_health(&[primary.clone(), unread]);
    assert!(cache.use_current("v1.new").is_some(), "a key service that was never read does not count");
    assert!(cache.find(KeyKind::Kek, "v1.old", b"vault:v1:old").is_some());
    cache.apply_health(&[primary, ServiceHealth { wipe_at: Some(BootTime::default()), ..healthy(&scope) }]);
    assert!(cache.use_current("v1.new").is_some());
    assert!(cache.find(KeyKind::Kek, "v1.old", b"vault:v1:old").is_none());
}

#[test]
fn keys_below_the_minimum_version_are_wiped() {
    let (cache, scope) = (cache(), scope("k"));
    for (version, key_id) in [(1, "v1.a"), (2, "v1.b"), (3, "v1.c")] {
        cache.insert_current(key_version(&scope, version, key_id), b"vault:kek", &key());
    }
    cache.apply_health(&[ServiceHealth { min_version: 3, ..healthy(&scope) }]);
    assert!(cache.use_current("v1.a").is_none() && cache.use_current("v1.b").is_none());
    assert!(cache.use_current("v1.c").is_some());
    // The service no longer shows versions below the minimum.
    let shown = ServiceHealth { versions: KeyVersions::from([(4, 400)]), min_version: 4, ..healthy(&scope) };
    cache.apply_health(&[shown]);
    assert!(cache.use_current("v1.c").is_none());
}

#[test]
fn keys_of_a_key_service_that_is_not_configured_any_more_are_wiped() {
    let (cache, ours, theirs) = (cache(), scope("k"), scope("other"));
    cache.insert_current(key_version(&ours, 1, "v1.a"), b"vault:v1:kek", &key());
    cache.retain(&[healthy(&ours)]);
    assert!(cache.use_current("v1.a").is_some());
    cache.retain(&[healthy(&theirs)]);
    assert!(cache.use_current("v1.a").is_none());
}

#[test]
fn a_full_cache_evicts_the_least_recently_used_keys() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), Some(directory.path().join("list")), Some(POLICY));
    let scope = scope("k");
    let wrapped = |number: usize| number.to_string().into_bytes();
    for number in 0..1200 {
        cache.insert(KeyKind::Seed, key_version(&scope, 1, "v1.a"), &wrapped(number), &[1; 32]);
        assert!(
            cache.find(KeyKind::Seed, "v1.a", &wrapped(0)).is_some(),
            "the first one is used all the time"
        );
    }
    assert!(cache.find(KeyKind::Seed, "v1.a", &wrapped(1)).is_none());
    assert!(cache.find(KeyKind::Seed, "v1.a", &wrapped(1199)).is_some());
    assert_eq!(cache.state(None).unwrap().seeds, 1008);
    for version in 2..=20 {
        cache.insert(KeyKind::Seed, key_version(&scope, version, "v1.a"), b"one", &[1; 32]);
        assert!(cache.find(KeyKind::Seed, "v1.a", &wrapped(0)).is_some());
    }
    assert_eq!(cache.lock().keys.descriptors().len(), 16);
    assert!(cache.missing().is_empty(), "evicted keys are not prefetched again");
    cache.insert(KeyKind::Seed, key_version(&scope, 1, "v1.a"), b"long", &[1; 65]);
    assert!(cache.find(KeyKind::Seed, "v1.a", b"long").is_none(), "a secret that is too long is not cached");
    let unknown = KeyVersion { created: None, ..key_version(&scope, 1, "v1.a") };
    cache.insert(KeyKind::Seed, unknown, b"unknown", &[1; 32]);
    assert!(cache.find(KeyKind::Seed, "v1.a", b"unknown").is_none());
}

#[test]
fn damaged_memory_is_not_used() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let (name, fd) = cache.lock().keys.descriptors().remove(0);
    let mut memory = crate::local_kek::sealed_memory::SealedMemory::adopt(fd, 256 * 1024).unwrap();
    memory.bytes_mut()[20] ^= 1;
    assert!(restarted(&cache, Some(POLICY)).lock().keys.is_empty());
    memory.bytes_mut()[20] ^= 1;
    memory.bytes_mut()[4096 + 60] ^= 1;
    let next = restarted(&cache, Some(POLICY));
    assert!(!next.lock().keys.is_empty());
    assert!(next.find(KeyKind::Kek, "v1.a", b"vault:v1:kek").is_none(), "a damaged key is not used");
    assert!(name.starts_with(Cache::store_prefix()));
}

/// The old cluster's key has the same name and a higher minimum version; the new cluster's version 1 is in use.
#[test]
fn the_minimum_version_of_another_cluster_does_not_count() {
    let (cache, scope) = (cache(), scope("k"));
    let ours = KeyVersion { created: Some(777), ..key_version(&scope, 1, "v1.new") };
    cache.insert_current(ours, b"vault:v1:new", &key());
    let primary = ServiceHealth { versions: KeyVersions::from([(1, 777)]), ..healthy(&scope) };
    let shown = KeyVersions::from([(3, 300), (4, 400)]);
    let old = ServiceHealth { versions: shown, min_version: 3, ..healthy(&scope) };
    cache.apply_health(&[primary.clone(), old.clone()]);
    assert!(cache.use_current("v1.new").is_some());
    cache.apply_health(&[old, primary]);
    assert!(cache.use_current("v1.new").is_some());
}

/// A cluster that was restored from the snapshot of another one has the same key.
#[test]
fn a_key_that_two_clusters_have_is_refused_when_both_refuse() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let refusing = ServiceHealth { wipe_at: Some(BootTime::default()), ..healthy(&scope) };
    cache.apply_health(&[healthy(&scope), refusing.clone()]);
    assert!(cache.use_current("v1.a").is_some());
    cache.insert(KeyKind::Seed, key_version(&scope, 1, "v1.a"), b"vault:v1:seed", &[1; 32]);
    assert!(cache.find(KeyKind::Seed, "v1.a", b"vault:v1:seed").is_some());
    cache.apply_health(&[refusing.clone(), refusing]);
    assert!(cache.use_current("v1.a").is_none());
}

/// After an administrator accepted a new key with the same name, a refusal ends the use of both.
#[test]
fn a_refusal_also_wipes_the_keys_under_a_replaced_key() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let accepted = ServiceHealth { versions: KeyVersions::from([(1, 999)]), ..healthy(&scope) };
    let later = BootTime::now().plus(Duration::from_secs(60));
    let before = cache.state(None).unwrap().until;
    cache.apply_health(&[ServiceHealth { contact: Some(later), ..accepted.clone() }]);
    let unwraps = |cache: &Cache| cache.find(KeyKind::Current, "v1.a", b"vault:v1:kek").is_some();
    assert!(unwraps(&cache));
    assert_eq!(cache.state(None).unwrap().until, before, "the answer of another key does not count");
    cache.apply_health(&[ServiceHealth { wipe_at: Some(BootTime::default()), ..accepted }]);
    assert!(!unwraps(&cache));
}

/// The other key may have wrapped it before the replacement was noticed.
#[test]
fn a_local_kek_does_not_wrap_again_when_its_key_was_replaced_meanwhile() {
    let (cache, scope) = (cache(), scope("k"));
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    cache.apply_health(&[ServiceHealth { versions: KeyVersions::from([(1, 999)]), ..healthy(&scope) }]);
    cache.apply_health(&[healthy(&scope)]);
    for cache in [&cache, &restarted(&cache, Some(POLICY))] {
        assert!(cache.use_current("v1.a").is_none());
        assert!(cache.needs_replacement("v1.a"));
    }
    assert!(cache.find(KeyKind::Current, "v1.a", b"vault:v1:kek").is_some(), "what it wrapped is read");
    cache.insert_current(key_version(&scope, 1, "v1.a"), b"another", &key());
    assert_eq!(cache.use_current("v1.a").unwrap().1, b"another");
}

#[test]
fn older_local_keks_of_this_agent_are_evicted_after_a_restart() {
    let (cache, scope) = (cache(), scope("k"));
    for number in 0..1008 {
        let wrapped = number.to_string().into_bytes();
        assert!(cache.insert_current(key_version(&scope, 1, "v1.a"), &wrapped, &key()), "{number}");
    }
    let next = restarted(&cache, Some(POLICY));
    assert!(next.insert_current(key_version(&scope, 1, "v1.a"), b"one more", &key()));
    assert_eq!(next.use_current("v1.a").unwrap().1, b"one more");
    assert!(next.state(Some("v1.a")).unwrap().evicted, "the eviction is reported");
}
