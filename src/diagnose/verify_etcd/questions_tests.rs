use std::slice::from_ref;

use serde_json::json;

use super::*;
use crate::etcd::tally::KnownKeys;

/// A value under KMS v2, by hand.
fn kms(key_id: &str, wrapped: &str) -> Vec<u8> {
    let mut value = b"k8s:enc:kms:v2:2_secrets:".to_vec();
    for (tag, text) in [(0x0a, "data"), (0x12, key_id), (0x1a, wrapped)] {
        value.extend([tag, u8::try_from(text.len()).unwrap()]);
        value.extend(text.bytes());
    }
    value
}

fn tally(values: &[Vec<u8>]) -> Tally {
    let known = KnownKeys {
        current: Some("now".into()),
        elsewhere: ["elsewhere".to_owned()].into(),
        ..KnownKeys::default()
    };
    let mut tally = Tally::new(known, "/registry", 0);
    for value in values {
        tally.add(Some(b"/registry/secrets/a/b"), value);
    }
    tally
}

fn status(version: u32, min_decryption: u32, phase: &str, for_seconds: u64) -> Status {
    let key_id = if version == 3 { "now" } else { "before" };
    serde_json::from_value(json!({ "phase": phase, "for_seconds": for_seconds, "primary": { "key": {
        "scope": { "namespace": "", "mount": "transit", "key": "k" }, "key_id": key_id, "version": version,
        "min_decryption": min_decryption, "versions": { "1": 100, "2": 1000, "3": 2000 },
    }}}))
    .unwrap()
}

fn settled() -> Status {
    status(3, 1, "ready", SETTLED)
}

fn ask(questions: &Questions, values: &[Vec<u8>], status: Option<&Status>, now: i64) -> (Answer, String) {
    let tally = tally(values);
    let facts = Facts { tally: &tally, configurations: &[], status, now, seeds: None };
    let one = answers(questions, &facts).remove(0);
    (one.answer, one.text())
}

fn raise(version: u32) -> Questions {
    Questions { may_raise_min_version: Some(version), only_node: true, ..Questions::default() }
}

const LATER: i64 = 2000 + 360;

#[test]
fn a_version_may_be_raised_only_when_no_object_needs_an_older_one() {
    let (two, three) = (kms("before", "vault:v2:A"), kms("now", "vault:v3:A"));
    let own = settled();
    let answer = |version, values: &[Vec<u8>]| ask(&raise(version), values, Some(&own), LATER);
    assert_eq!(answer(3, from_ref(&three)).0, Answer::Yes);
    assert_eq!(answer(2, &[two.clone(), three.clone()]).0, Answer::Yes);
    let (no, text) = answer(3, &[two, three.clone()]);
    assert!(no == Answer::No && text.contains("1 secrets in etcd need an older version"), "{text}");
    assert_eq!(answer(4, from_ref(&three)).0, Answer::No, "the API servers write under 3");
    // No wrong yes: another plugin's data, damaged data, no agent.
    assert_eq!(answer(3, &[kms("other", "sealed")]).0, Answer::Unknown);
    assert_eq!(answer(3, &[b"k8s:enc:new:v9:x".to_vec()]).0, Answer::Unknown);
    assert_eq!(ask(&raise(3), &[three], None, LATER).0, Answer::Unknown);
    // A decrypt_only key in another place has versions of its own.
    assert_eq!(answer(3, &[kms("elsewhere", "vault:v1:A")]).0, Answer::Yes);
}

/// An API server with an older seed may write while etcd is read, and later.
#[test]
fn every_node_must_have_announced_the_version_for_long_enough() {
    let values = [kms("now", "vault:v3:A")];
    let own = settled();
    assert_eq!(ask(&raise(3), &values, Some(&own), LATER - 1).0, Answer::Unknown, "a rotation a moment ago");
    assert_eq!(ask(&raise(3), &values, Some(&status(3, 1, "ready", SETTLED - 1)), LATER).0, Answer::Unknown);
    assert_eq!(ask(&raise(3), &values, Some(&status(3, 1, "degraded", 9999)), LATER).0, Answer::Unknown);
    let with = |peers: Vec<Status>| {
        let peers = peers.into_iter().map(|status| ("node-2.json".to_owned(), status)).collect();
        let questions = Questions { may_raise_min_version: Some(3), peers, ..Questions::default() };
        ask(&questions, &values, Some(&own), LATER)
    };
    assert_eq!(with(vec![settled()]).0, Answer::Yes);
    let (unknown, text) = with(vec![]);
    assert!(unknown == Answer::Unknown && text.contains("--peer"), "{text}");
    // In an outage, another node goes on announcing the old version, for as long as its grace.
    let (no, text) = with(vec![status(2, 1, "degraded", 9999)]);
    assert!(no == Answer::No && text.contains("node-2.json announces another key_id"), "{text}");
    assert_eq!(with(vec![status(3, 1, "ready", 5)]).0, Answer::Unknown);
    // Where there is no older version, nothing can be under one.
    assert_eq!(ask(&Questions { only_node: false, ..raise(1) }, &values, Some(&own), 0).0, Answer::Yes);
}

#[test]
fn a_trim_comes_after_the_step_that_can_be_undone() {
    let trim = Questions { may_raise_min_version: None, may_trim: Some(3), ..raise(3) };
    let values = [kms("now", "vault:v3:A")];
    assert_eq!(ask(&trim, &values, Some(&settled()), LATER).0, Answer::No);
    assert_eq!(ask(&trim, &values, Some(&status(3, 3, "ready", SETTLED)), LATER).0, Answer::Yes);
}

#[test]
fn the_plugin_may_be_removed_only_when_nothing_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, providers: serde_json::Value| {
        let path = directory.path().join(name);
        let text = json!({ "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
            "resources": [{ "resources": ["secrets"], "providers": providers }] });
        std::fs::write(&path, text.to_string()).unwrap();
        Configuration::read(&path).unwrap()
    };
    let kms_provider =
        json!({ "kms": { "apiVersion": "v2", "name": "2_secrets", "endpoint": "unix:///run/kms.sock" } });
    let without = || file("without", json!([{ "identity": {} }]));
    // What OpenShift's operators leave after KMS → identity: the plugin is still read with.
    let with = || file("with", json!([{ "identity": {} }, kms_provider]));
    let (plain, under_kms) = (b"k8s\0x".to_vec(), kms("now", "vault:v3:A"));
    let question = Questions { may_remove: true, ..Questions::default() };
    let ask = |values: &[Vec<u8>], configurations: &[Configuration]| {
        let tally = tally(values);
        let facts = Facts { tally: &tally, configurations, status: None, now: 0, seeds: None };
        let one = answers(&question, &facts).remove(0);
        (one.answer, one.text())
    };
    assert_eq!(ask(from_ref(&plain), &[without()]).0, Answer::Yes);
    assert_eq!(ask(from_ref(&plain), &[]).0, Answer::Unknown, "the files are not known");
    assert_eq!(ask(&[plain.clone(), under_kms], &[without()]).0, Answer::No);
    let (no, text) = ask(from_ref(&plain), &[without(), with()]);
    assert!(no == Answer::No && text.contains("2_secrets for secrets"), "{text}");
    assert_eq!(ask(&[plain, Vec::new()], &[without()]).0, Answer::Unknown);
}
