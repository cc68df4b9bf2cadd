//! What is kept, for how long, across restarts, and what makes way.

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

/// How a key service stands that has made versions 1 to 20, each at a hundred times its number.
fn standing(scope: &KeyScope) -> ServiceHealth {
    let versions: KeyVersions = (1..=20).map(|version| (version, i64::from(version) * 100)).collect();
    ServiceHealth { scope: scope.clone(), versions, contact: None, refuses: false, min_version: 1 }
}

fn cache() -> Cache {
    Cache::open(Vec::new(), None, Some(POLICY))
}

fn key() -> Key {
    Key::new([7; KEY_BYTES])
}

/// The same descriptors in another process, as far as can be had in this one.
fn restarted(cache: &Cache, policy: Option<Policy>) -> Cache {
    Cache::open(cache.lock().keys.descriptors(), None, policy)
}

#[test]
fn keys_uses_and_contact_survive_a_restart() {
    let (cache, scope) = (cache(), scope("k"));
    assert!(cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key()));
    cache.keep(Kind::Seed, key_version(&scope, 1, "v1.a"), b"vault:v1:seed", &[9; 32]);
    for _ in 0..4 {
        assert_eq!(cache.claim("v1.a").unwrap(), (key(), b"vault:v1:kek".to_vec()));
    }
    let next = restarted(&cache, Some(POLICY));
    assert_eq!(next.state(Some("v1.a")).unwrap().uses, 4);
    assert_eq!(*next.find(Kind::Seed, "v1.a", b"vault:v1:seed").unwrap(), [9; 32]);
    assert_eq!(*next.find(Kind::Kek, "v1.a", b"vault:v1:kek").unwrap(), *key());
    for _ in 4..10 {
        next.claim("v1.a").unwrap();
    }
    assert!(next.claim("v1.a").is_none(), "it is used up");
    assert!(next.needs_replacement("v1.a"));
    assert!(next.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:other", &key()));
    assert_eq!(next.claim("v1.a").unwrap().1, b"vault:v1:other");
    let third = restarted(&next, Some(POLICY));
    assert_eq!(third.claim("v1.a").unwrap().1, b"vault:v1:other", "the newest wraps");
    assert!(restarted(&third, None).find(Kind::Kek, "v1.a", b"vault:v1:kek").is_none());
    assert!(third.find(Kind::Kek, "v1.a", b"vault:v1:kek").is_none(), "wiped for whoever has it");
}

#[test]
fn what_systemd_kept_is_listed_again_when_the_list_was_not_written_in_time() {
    let (cache, scope) = (cache(), scope("k"));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    cache.keep(Kind::Seed, key_version(&scope, 1, "v1.a"), b"vault:v1:seed", &[9; 32]);
    let next = restarted(&cache, Some(POLICY));
    next.needs_replacement("v1.a");
    next.find(Kind::Seed, "v1.a", b"vault:v1:seed").unwrap();
    let inner = next.lock();
    let wrapped: Vec<_> = inner.list.forms().map(|(_, form)| form.wrapped.as_slice()).collect();
    assert_eq!(wrapped, [b"vault:v1:kek".as_slice(), b"vault:v1:seed"]);
}

#[test]
fn another_is_wanted_before_the_last_use() {
    let (cache, scope) = (cache(), scope("k"));
    assert!(cache.needs_replacement("v1.a"));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    for uses in 0..10 {
        assert_eq!(cache.needs_replacement("v1.a"), uses >= 8, "after {uses} uses");
        cache.claim("v1.a").unwrap();
    }
    assert!(cache.needs_replacement("v1.b"));
    cache.set_policy(Some(Policy { max_age: Duration::ZERO, ..POLICY }));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:next", &key());
    assert!(cache.needs_replacement("v1.a"), "it is too old");
}

#[test]
fn what_is_over_is_neither_found_nor_claimed_and_is_then_wiped() {
    let (cache, scope) = (cache(), scope("k"));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    cache.set_policy(Some(Policy { max_offline: Duration::ZERO, ..POLICY }));
    assert!(cache.find(Kind::Kek, "v1.a", b"vault:v1:kek").is_none());
    assert!(cache.claim("v1.a").is_none());
    assert!(cache.fingerprints().is_empty());
    let copies = cache.lock().keys.descriptors();
    cache.settle(&[standing(&scope)]);
    assert!(cache.lock().keys.is_empty());
    assert!(Cache::open(copies, None, Some(POLICY)).lock().keys.is_empty(), "what is wiped is no group");
}

#[test]
fn a_contact_is_taken_in_and_one_in_doubt_is_not() {
    let (cache, scope) = (cache(), scope("k"));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let until = |cache: &Cache| cache.state(None).unwrap().until.unwrap();
    let before = until(&cache);
    cache.settle(&[standing(&scope)]);
    assert_eq!(until(&cache), before);
    let later = BootTime::now().plus(Duration::from_secs(60));
    cache.settle(&[ServiceHealth { contact: Some(later), ..standing(&scope) }]);
    assert!(until(&cache) > before.plus(Duration::from_secs(59)));
    cache.settle(&[ServiceHealth { contact: Some(BootTime::now()), ..standing(&scope) }]);
    assert!(until(&cache) > before.plus(Duration::from_secs(59)), "an older one changes nothing");
    // Such a time cannot be of this boot.
    assert!(restarted(&cache, Some(POLICY)).lock().keys.is_empty());
}

#[test]
fn a_refusal_wipes_the_keys_of_its_key_service_and_keeps_no_more() {
    let (cache, ours, theirs) = (cache(), scope("k"), scope("other"));
    for (scope, key_id) in [(&ours, "v1.a"), (&theirs, "v1.b")] {
        cache.adopt(key_version(scope, 1, key_id), b"vault:v1:kek", &key());
    }
    let refusing = ServiceHealth { refuses: true, ..standing(&ours) };
    cache.settle(&[refusing.clone(), standing(&theirs)]);
    assert!(cache.claim("v1.a").is_none() && cache.claim("v1.b").is_some());
    cache.keep(Kind::Seed, key_version(&ours, 1, "v1.a"), b"vault:v1:late", &[1; 32]);
    assert!(cache.find(Kind::Seed, "v1.a", b"vault:v1:late").is_none(), "a late answer is not kept");
    cache.settle(&[standing(&ours), standing(&theirs)]);
    assert!(cache.adopt(key_version(&ours, 1, "v1.a"), b"vault:v1:kek", &key()));
}

/// A move from one cluster to another mostly keeps the key's name.
#[test]
fn keys_of_one_name_in_two_clusters_are_told_apart() {
    let (cache, scope) = (cache(), scope("k"));
    let new = KeyVersion { created: Some(777), ..key_version(&scope, 1, "v1.new") };
    cache.adopt(new, b"vault:v1:new", &key());
    cache.keep(Kind::Kek, key_version(&scope, 1, "v1.old"), b"vault:v1:old", &[1; 32]);
    let primary = ServiceHealth { versions: KeyVersions::from([(1, 777)]), ..standing(&scope) };
    let unread = ServiceHealth { versions: KeyVersions::new(), refuses: true, ..standing(&scope) };
    cache.settle(&[primary.clone(), unread]);
    assert!(cache.claim("v1.new").is_some(), "who was never read has no say");
    assert!(cache.find(Kind::Kek, "v1.old", b"vault:v1:old").is_some());
    cache.settle(&[primary, ServiceHealth { refuses: true, ..standing(&scope) }]);
    assert!(cache.claim("v1.new").is_some());
    assert!(cache.find(Kind::Kek, "v1.old", b"vault:v1:old").is_none());
}

#[test]
fn versions_that_are_switched_off_are_wiped() {
    let (cache, scope) = (cache(), scope("k"));
    for (version, key_id) in [(1, "v1.a"), (2, "v1.b"), (3, "v1.c")] {
        cache.adopt(key_version(&scope, version, key_id), b"vault:kek", &key());
    }
    cache.settle(&[ServiceHealth { min_version: 3, ..standing(&scope) }]);
    assert!(cache.claim("v1.a").is_none() && cache.claim("v1.b").is_none());
    assert!(cache.claim("v1.c").is_some());
    // The service does not show such versions any more.
    let shown = ServiceHealth { versions: KeyVersions::from([(4, 400)]), min_version: 4, ..standing(&scope) };
    cache.settle(&[shown]);
    assert!(cache.claim("v1.c").is_none());
}

#[test]
fn a_key_service_that_is_not_configured_any_more_leaves_nothing() {
    let (cache, ours, theirs) = (cache(), scope("k"), scope("other"));
    cache.adopt(key_version(&ours, 1, "v1.a"), b"vault:v1:kek", &key());
    cache.retain(&[standing(&ours)]);
    assert!(cache.claim("v1.a").is_some());
    cache.retain(&[standing(&theirs)]);
    assert!(cache.claim("v1.a").is_none());
}

#[test]
fn there_is_a_bound_and_what_was_not_wanted_makes_way() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), Some(directory.path().join("list")), Some(POLICY));
    let scope = scope("k");
    let form = |number: usize| number.to_string().into_bytes();
    for number in 0..1200 {
        cache.keep(Kind::Seed, key_version(&scope, 1, "v1.a"), &form(number), &[1; 32]);
        assert!(cache.find(Kind::Seed, "v1.a", &form(0)).is_some(), "the first is wanted all the time");
    }
    assert!(cache.find(Kind::Seed, "v1.a", &form(1)).is_none());
    assert!(cache.find(Kind::Seed, "v1.a", &form(1199)).is_some());
    assert_eq!(cache.state(None).unwrap().seeds, 1008);
    for version in 2..=20 {
        cache.keep(Kind::Seed, key_version(&scope, version, "v1.a"), b"one", &[1; 32]);
        assert!(cache.find(Kind::Seed, "v1.a", &form(0)).is_some());
    }
    assert_eq!(cache.lock().keys.descriptors().len(), 16);
    assert!(cache.missing().is_empty(), "what made way is not unwrapped ahead, again and again");
    cache.keep(Kind::Seed, key_version(&scope, 1, "v1.a"), b"long", &[1; 65]);
    assert!(cache.find(Kind::Seed, "v1.a", b"long").is_none(), "what is too long is not kept");
    let unknown = KeyVersion { created: None, ..key_version(&scope, 1, "v1.a") };
    cache.keep(Kind::Seed, unknown, b"of nobody", &[1; 32]);
    assert!(cache.find(Kind::Seed, "v1.a", b"of nobody").is_none());
}

#[test]
fn damaged_memory_is_given_up() {
    let (cache, scope) = (cache(), scope("k"));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let (name, fd) = cache.lock().keys.descriptors().remove(0);
    let mut memory = crate::local_kek::memory::SealedMemory::adopt(fd, 256 * 1024).unwrap();
    memory.bytes_mut()[20] ^= 1;
    assert!(restarted(&cache, Some(POLICY)).lock().keys.is_empty());
    memory.bytes_mut()[20] ^= 1;
    memory.bytes_mut()[4096 + 60] ^= 1;
    let next = restarted(&cache, Some(POLICY));
    assert!(!next.lock().keys.is_empty());
    assert!(next.find(Kind::Kek, "v1.a", b"vault:v1:kek").is_none(), "a damaged key is not used");
    assert!(name.starts_with(Cache::store_prefix()));
}

/// The old cluster's key has the same name, and its first versions are switched off; the new one's first is in use.
#[test]
fn a_version_that_another_cluster_has_switched_off_is_not_ours() {
    let (cache, scope) = (cache(), scope("k"));
    let ours = KeyVersion { created: Some(777), ..key_version(&scope, 1, "v1.new") };
    cache.adopt(ours, b"vault:v1:new", &key());
    let primary = ServiceHealth { versions: KeyVersions::from([(1, 777)]), ..standing(&scope) };
    let shown = KeyVersions::from([(3, 300), (4, 400)]);
    let old = ServiceHealth { versions: shown, min_version: 3, ..standing(&scope) };
    cache.settle(&[primary.clone(), old.clone()]);
    assert!(cache.claim("v1.new").is_some());
    cache.settle(&[old, primary]);
    assert!(cache.claim("v1.new").is_some());
}

/// A cluster that was restored from another one's snapshot has the very same key.
#[test]
fn a_key_that_two_clusters_have_is_refused_when_both_refuse() {
    let (cache, scope) = (cache(), scope("k"));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let refusing = ServiceHealth { refuses: true, ..standing(&scope) };
    cache.settle(&[standing(&scope), refusing.clone()]);
    assert!(cache.claim("v1.a").is_some());
    cache.keep(Kind::Seed, key_version(&scope, 1, "v1.a"), b"vault:v1:seed", &[1; 32]);
    assert!(cache.find(Kind::Seed, "v1.a", b"vault:v1:seed").is_some());
    cache.settle(&[refusing.clone(), refusing]);
    assert!(cache.claim("v1.a").is_none());
}

/// After a key was given up for another one of its name, a refusal ends the use of both.
#[test]
fn a_refusal_also_wipes_what_belongs_to_a_key_that_was_given_up() {
    let (cache, scope) = (cache(), scope("k"));
    cache.adopt(key_version(&scope, 1, "v1.a"), b"vault:v1:kek", &key());
    let accepted = ServiceHealth { versions: KeyVersions::from([(1, 999)]), ..standing(&scope) };
    let later = BootTime::now().plus(Duration::from_secs(60));
    let before = cache.state(None).unwrap().until;
    cache.settle(&[ServiceHealth { contact: Some(later), ..accepted.clone() }]);
    assert!(cache.claim("v1.a").is_some());
    assert_eq!(cache.state(None).unwrap().until, before, "another key's answer does not count");
    cache.settle(&[ServiceHealth { refuses: true, ..accepted }]);
    assert!(cache.claim("v1.a").is_none());
}

#[test]
fn many_local_keks_of_ours_make_way_after_a_restart() {
    let (cache, scope) = (cache(), scope("k"));
    for number in 0..1008 {
        let form = number.to_string().into_bytes();
        assert!(cache.adopt(key_version(&scope, 1, "v1.a"), &form, &key()), "{number}");
    }
    let next = restarted(&cache, Some(POLICY));
    assert!(next.adopt(key_version(&scope, 1, "v1.a"), b"one more", &key()));
    assert_eq!(next.claim("v1.a").unwrap().1, b"one more");
    assert!(next.state(Some("v1.a")).unwrap().evicted, "what made way is told");
}
