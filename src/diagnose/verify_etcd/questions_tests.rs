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

fn key(version: u32, min_decryption: u32) -> Key {
    serde_json::from_value(json!({
        "scope": { "namespace": "", "mount": "transit", "key": "k" }, "key_id": "now", "version": version,
        "min_decryption": min_decryption, "versions": { "1": 100, "2": 1000, "3": 2000 },
    }))
    .unwrap()
}

fn ask(questions: &Questions, values: &[Vec<u8>], key: Option<&Key>, now: i64) -> Vec<(Answer, String)> {
    let tally = tally(values);
    let facts = Facts { tally: &tally, configurations: &[], key, now, seeds: None };
    answers(questions, &facts).into_iter().map(|one| (one.answer, one.text())).collect()
}

fn raise(version: u32) -> Questions {
    Questions { may_raise_min_version: Some(version), ..Questions::default() }
}

const LATER: i64 = 2000 + SETTLED;

#[test]
fn a_version_may_be_raised_only_when_no_object_needs_an_older_one() {
    let (two, three) = (kms("before", "vault:v2:A"), kms("now", "vault:v3:A"));
    let key = key(3, 1);
    let answer = |version, values: &[Vec<u8>], key: Option<&Key>, now| {
        let (answer, text) = ask(&raise(version), values, key, now).remove(0);
        (answer, text)
    };
    assert_eq!(answer(3, &[three.clone()], Some(&key), LATER).0, Answer::Yes);
    assert_eq!(answer(2, &[two.clone(), three.clone()], Some(&key), LATER).0, Answer::Yes);
    let (no, text) = answer(3, &[two, three.clone()], Some(&key), LATER);
    assert!(no == Answer::No && text.contains("1 secrets in etcd need an older version"), "{text}");
    assert_eq!(answer(4, &[three.clone()], Some(&key), LATER).0, Answer::No, "the API servers write under 3");
    // No wrong yes: another plugin's data, damaged data, no agent, a rotation a moment ago.
    assert_eq!(answer(3, &[kms("other", "sealed")], Some(&key), LATER).0, Answer::Unknown);
    assert_eq!(answer(3, &[b"k8s:enc:new:v9:x".to_vec()], Some(&key), LATER).0, Answer::Unknown);
    assert_eq!(answer(3, &[three.clone()], None, LATER).0, Answer::Unknown);
    assert_eq!(answer(3, &[three], Some(&key), LATER - 1).0, Answer::Unknown);
    // A decrypt_only key in another place has versions of its own.
    assert_eq!(answer(3, &[kms("elsewhere", "vault:v1:A")], Some(&key), LATER).0, Answer::Yes);
}

#[test]
fn a_trim_comes_after_the_step_that_can_be_undone() {
    let trim = Questions { may_trim: Some(3), ..Questions::default() };
    let values = [kms("now", "vault:v3:A")];
    assert_eq!(ask(&trim, &values, Some(&key(3, 1)), LATER)[0].0, Answer::No);
    assert_eq!(ask(&trim, &values, Some(&key(3, 3)), LATER)[0].0, Answer::Yes);
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
        let facts = Facts { tally: &tally, configurations, key: None, now: 0, seeds: None };
        let one = answers(&question, &facts).remove(0);
        (one.answer, one.text())
    };
    assert_eq!(ask(&[plain.clone()], &[without()]).0, Answer::Yes);
    assert_eq!(ask(&[plain.clone()], &[]).0, Answer::Unknown, "the files are not known");
    assert_eq!(ask(&[plain.clone(), under_kms], &[without()]).0, Answer::No);
    let (no, text) = ask(&[plain.clone()], &[without(), with()]);
    assert!(no == Answer::No && text.contains("2_secrets for secrets"), "{text}");
    assert_eq!(ask(&[plain, Vec::new()], &[without()]).0, Answer::Unknown);
}
