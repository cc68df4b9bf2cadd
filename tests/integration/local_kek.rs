//! Local KEKs with a real server: what works while it is away, and that damaged or mixed parts are refused. What ends
//! their use is in `wiped`.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;

use kms_plugin::proto::EncryptResponse;
use tempfile::TempDir;
use tonic::Code;

use crate::support::agent::{Agent, LOCAL_KEK, QUICK, QUIET};
use crate::support::eventually;
use crate::support::kms::{Kms, SEED};
use crate::support::store::Store;
use crate::support::vault::{KEY, Vault};

const ANNOTATION: &str = "local-kek.kms-plugin.internal";

type Annotations = HashMap<String, Vec<u8>>;

/// Wraps the usual seed under a local KEK, and reads it back.
pub async fn written(kms: &mut Kms) -> EncryptResponse {
    let wrapped = kms.encrypt(&SEED).await.unwrap();
    assert!(wrapped.ciphertext.starts_with(b"local-kek:v1:"), "{wrapped:?}");
    assert!(wrapped.annotations[ANNOTATION].starts_with(b"v1:vault:v"), "{wrapped:?}");
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
    wrapped
}

/// The local KEK as the key service wrapped it, from the annotation.
fn wrapped_kek(wrapped: &EncryptResponse) -> &[u8] {
    wrapped.annotations[ANNOTATION].strip_prefix(b"v1:").unwrap()
}

async fn wait_for_line(agent: &Agent, words: &str) {
    eventually(words, async || {
        let line = agent.status()?["line"].as_str().unwrap_or_default().to_owned();
        if line.contains(words) { Ok(()) } else { Err(line) }
    })
    .await;
}

#[tokio::test]
async fn seeds_are_wrapped_and_unwrapped_while_the_server_is_away() {
    let mut vault = Vault::persistent().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    let before = written(&mut kms).await;
    wait_for_line(&agent, "; ready for an outage of 8h").await;
    vault.kill();
    agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(kms.decrypt(&before).await.unwrap(), SEED);
    let during = written(&mut kms).await;
    assert_eq!(during.key_id, before.key_id);
    assert_eq!(wrapped_kek(&during), wrapped_kek(&before), "no new local KEK can be made in an outage");
    assert_eq!(kms.status().await.unwrap().healthz, "ok");
    vault.restart().await;
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&during).await.unwrap(), SEED);
}

#[tokio::test]
async fn calls_under_a_local_kek_cost_no_request() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    written(&mut kms).await;
    let before = vault.audited().len();
    for _ in 0..200 {
        written(&mut kms).await;
    }
    assert_eq!(vault.audited().len(), before);
}

#[tokio::test]
async fn parts_of_two_objects_are_not_read_together() {
    let vault = Vault::start().await;
    let direct_agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let direct = direct_agent.kms().await.round_trip().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    let one = written(&mut kms).await;
    let annotated = |value: Vec<u8>| HashMap::from([(ANNOTATION.to_owned(), value)]);
    let ours = one.annotations.clone();
    let elsewhere = HashMap::from([("other.example.com".to_owned(), one.annotations[ANNOTATION].clone())]);
    let cases: [(&str, &[u8], Annotations); 8] = [
        ("the annotation is stripped", &one.ciphertext, HashMap::new()),
        ("the annotation is under another name", &one.ciphertext, elsewhere),
        ("an annotation is put beside a direct ciphertext", &direct.ciphertext, ours.clone()),
        ("a local KEK is replayed as a direct ciphertext", wrapped_kek(&one), HashMap::new()),
        ("a local KEK is replayed with its annotation", wrapped_kek(&one), ours.clone()),
        (
            "a seed is replayed as a local KEK",
            &one.ciphertext,
            annotated([b"v1:", &*direct.ciphertext].concat()),
        ),
        ("a newer form", b"local-kek:v2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ours.clone()),
        ("no ciphertext behind the magic", b"local-kek:v1:", ours.clone()),
    ];
    for agent in [&agent, &direct_agent] {
        let mut kms = agent.kms().await;
        for (what, ciphertext, annotations) in &cases {
            let answer = kms.decrypt_annotated(ciphertext, &one.key_id, annotations.clone()).await;
            assert_eq!(answer.map_err(|refused| refused.code()), Err(Code::InvalidArgument), "{what}");
        }
        for place in 0..one.ciphertext.len() {
            let mut damaged = one.clone();
            damaged.ciphertext[place] ^= 1;
            let refused = kms.decrypt(&damaged).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "byte {place}: {refused}");
        }
        for place in 0..one.annotations[ANNOTATION].len() {
            let mut damaged = one.clone();
            damaged.annotations.get_mut(ANNOTATION).unwrap()[place] ^= 1;
            let refused = kms.decrypt(&damaged).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "byte {place} of the annotation: {refused}");
        }
        assert_eq!(kms.decrypt(&one).await.unwrap(), SEED);
    }
}

#[tokio::test]
async fn both_forms_are_read_with_local_keks_on_or_off() {
    let vault = Vault::start().await;
    let (off, on) = (vault.vault_config() + QUICK, vault.vault_config() + QUICK + LOCAL_KEK);
    let agent = Agent::ready(&off).await;
    let direct = agent.kms().await.round_trip().await;
    let status = agent.status().unwrap();
    agent.write_config(&on);
    assert_eq!(agent.command("reload").0, 0, "{}", agent.log());
    let mut kms = agent.kms().await;
    let local = written(&mut kms).await;
    assert_eq!(local.key_id, direct.key_id, "key_id names the Transit key, not the local KEK");
    assert_eq!(kms.decrypt(&direct).await.unwrap(), SEED);
    assert!(!status["line"].as_str().unwrap().contains("outage"), "{status}");
    wait_for_line(&agent, "; ready for an outage").await;
    agent.write_config(&off);
    assert_eq!(agent.command("reload").0, 0, "{}", agent.log());
    for wrapped in [&local, &direct] {
        assert_eq!(kms.decrypt(wrapped).await.unwrap(), SEED);
    }
    let again = kms.round_trip().await;
    assert!(again.ciphertext.starts_with(b"vault:v1:") && again.annotations.is_empty());
    agent.wait_for_log("local_kek.enabled is false").await;
    assert!(!agent.directory.path().join("state/wrapped-keys.json").exists());
    vault.freeze();
    assert!(kms.decrypt(&local).await.is_err(), "nothing is kept while it is off");
}

#[tokio::test]
async fn a_seed_of_direct_mode_that_was_read_once_is_read_in_an_outage() {
    let vault = Vault::start().await;
    let direct = Agent::ready(&(vault.vault_config() + QUICK)).await.kms().await.round_trip().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    written(&mut kms).await;
    assert_eq!(kms.decrypt(&direct).await.unwrap(), SEED);
    // A ciphertext of the same key with another plugin's key_id.
    assert_eq!(kms.decrypt_raw(&direct.ciphertext, "1").await.unwrap(), SEED);
    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(kms.decrypt(&direct).await.unwrap(), SEED);
    assert_eq!(kms.decrypt_raw(&direct.ciphertext, "1").await.unwrap(), SEED);
    assert!(kms.decrypt_raw(&direct.ciphertext, "2").await.is_err(), "the key_id belongs to what is kept");
}

#[tokio::test]
async fn a_new_agent_unwraps_listed_keys_before_they_are_needed() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK + LOCAL_KEK;
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    let local = written(&mut kms).await;
    vault.rotate().await;
    let newer = eventually("the rotation", async || {
        let wrapped = written(&mut kms).await;
        if wrapped.key_id == local.key_id { Err("not yet".into()) } else { Ok(wrapped) }
    })
    .await;
    let seed = serde_json::json!({ "plaintext": "YSBzZWVkIG9mIHRoaXJ0eS10d28gYnl0ZXMgbG9uZyE=" });
    let direct = vault.post(&format!("transit/encrypt/{KEY}"), seed).await;
    let direct = direct["data"]["ciphertext"].as_str().unwrap().to_owned();
    kms.decrypt_raw(direct.as_bytes(), "1").await.unwrap();
    let list = agent.directory.path().join("state/wrapped-keys.json");
    eventually("the list", async || {
        let text = std::fs::read_to_string(&list).unwrap_or_default();
        if text.matches("\"wrapped\"").count() == 3 { Ok(()) } else { Err(text) }
    })
    .await;
    // No systemd keeps the descriptors here: the next agent has only the list.
    let agent = Agent::start_in(agent.kill(), &config, &[]);
    agent.wait_for_phase("ready").await;
    wait_for_line(&agent, "; ready for an outage").await;
    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    let mut kms = agent.kms().await;
    for wrapped in [&local, &newer] {
        assert_eq!(kms.decrypt(wrapped).await.unwrap(), SEED);
    }
    kms.decrypt_raw(direct.as_bytes(), "1").await.unwrap();
    written(&mut kms).await;
}

#[tokio::test]
async fn a_new_local_kek_is_there_before_a_new_key_id_is_announced() {
    let vault = Vault::start().await;
    let config = vault.vault_config()
        + "[health]\nkey_check_interval = \"200ms\"\nprobe_interval = \"1h\"\n"
        + LOCAL_KEK;
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    let before = written(&mut kms).await;
    vault.rotate().await;
    let after = eventually("the new key_id", async || {
        let key_id = kms.status().await.map_err(|status| status.to_string())?.key_id;
        if key_id == before.key_id { Err(key_id) } else { Ok(key_id) }
    })
    .await;
    vault.freeze();
    let wrapped = written(&mut kms).await;
    assert_eq!(wrapped.key_id, after);
    assert!(wrapped_kek(&wrapped).starts_with(b"vault:v2:"));
    assert_eq!(kms.decrypt(&before).await.unwrap(), SEED);
}

#[tokio::test]
async fn a_local_kek_is_replaced_at_its_limit_of_uses_and_at_its_age() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK + "max_uses = 4\n")).await;
    let mut kms = agent.kms().await;
    let mut uses: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut all = Vec::new();
    for _ in 0..20 {
        let wrapped = written(&mut kms).await;
        *uses.entry(wrapped_kek(&wrapped).to_vec()).or_default() += 1;
        all.push(wrapped);
    }
    assert!(uses.len() >= 5 && uses.values().all(|uses| *uses <= 4), "{:?}", uses.values());
    for wrapped in &all {
        assert_eq!(kms.decrypt(wrapped).await.unwrap(), SEED);
    }
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK + "max_age = \"1s\"\n")).await;
    let mut kms = agent.kms().await;
    let first = written(&mut kms).await;
    eventually("another local KEK", async || {
        let next = written(&mut kms).await;
        if wrapped_kek(&next) == wrapped_kek(&first) { Err("the same".into()) } else { Ok(()) }
    })
    .await;
    // In an outage the local KEK in use stays, whatever its age.
    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    let last = written(&mut kms).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(wrapped_kek(&written(&mut kms).await), wrapped_kek(&last));
}

/// A hundred callers need the same key at once: the server gets one request.
#[tokio::test]
async fn concurrent_decrypts_under_one_key_share_one_unwrap() {
    let vault = Vault::start().await;
    let local =
        written(&mut Agent::ready(&(vault.vault_config() + QUIET + LOCAL_KEK)).await.kms().await).await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET + LOCAL_KEK)).await;
    let kms = agent.kms().await;
    let path = format!("transit/decrypt/{KEY}");
    let before = vault.count(&path);
    let reads = (0..100).map(|_| {
        let (mut kms, local) = (kms.clone(), local.clone());
        async move { kms.decrypt(&local).await }
    });
    for answer in futures_util::future::join_all(reads).await {
        assert_eq!(answer.unwrap(), SEED);
    }
    assert_eq!(vault.count(&path), before + 1);
}

/// One agent after another behind one socket, with the descriptors that systemd would keep.
struct Restarts {
    store: Store,
    config: String,
}

impl Restarts {
    fn new(directory: &TempDir, config: String) -> Self {
        Self { store: Store::new(UnixListener::bind(directory.path().join("kms.sock")).unwrap()), config }
    }

    fn start(&self, directory: TempDir) -> Agent {
        self.store.start(directory, &self.config)
    }
}

#[tokio::test]
async fn keys_that_systemd_keeps_survive_restarts_with_their_outage_limit() {
    let vault = Vault::start().await;
    let directory = tempfile::tempdir().unwrap();
    let limit =
        |limit: &str| vault.vault_config() + QUICK + LOCAL_KEK + &format!("max_offline = \"{limit}\"\n");
    let mut node = Restarts::new(&directory, limit("10m"));
    let agent = node.start(directory);
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    vault.freeze();
    let status = agent.wait_for_reason("degraded", "unreachable").await;
    let left = status["offline"]["left_seconds"].as_u64().unwrap();
    let agent = node.start(agent.kill());
    let mut kms = agent.kms().await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED, "{}", agent.log());
    written(&mut kms).await;
    let status = agent.wait_for_phase("degraded").await;
    assert!(status["offline"]["left_seconds"].as_u64().unwrap() <= left, "{status}");
    // A longer limit also counts from the last contact.
    node.config = limit("1h");
    let agent = node.start(agent.kill());
    let mut kms = agent.kms().await;
    written(&mut kms).await;
    let status = agent.wait_for_phase("degraded").await;
    let left = status["offline"]["left_seconds"].as_u64().unwrap();
    assert!((3000..3600).contains(&left), "{status}");
    // A shorter limit is over at once, and systemd keeps nothing.
    node.config = limit("1s");
    let agent = node.start(agent.kill());
    agent.wait_for_phase("failed").await;
    assert!(agent.kms().await.decrypt(&wrapped).await.is_err());
    eventually("an empty store", async || {
        let names = node.store.names();
        if names.is_empty() { Ok(()) } else { Err(names.join(", ")) }
    })
    .await;
}
