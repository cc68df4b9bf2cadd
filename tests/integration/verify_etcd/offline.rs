//! `verify-etcd` with local KEKs: what an API server that is restarted in an outage could read.

use std::collections::HashMap;

use super::{asked, count, stored, value};
use crate::support::agent::{Agent, LOCAL_KEK, QUICK};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::vault::Vault;

#[tokio::test]
async fn objects_unreadable_in_an_outage_are_listed_until_rewritten_or_read() {
    let (vault, etcd) = (Vault::start().await, Etcd::start().await);
    let secret = |name: &str| format!("/registry/secrets/default/{name}");
    let config = vault.vault_config() + QUICK;
    let agent = Agent::ready(&config).await;
    let runtime = agent.directory.path().join("run").display().to_string();
    let judged = ["--prefix", "/registry/secrets/", "--runtime-dir", &runtime];
    let offline = [&judged[..], &["--offline", "--list", "9"]].concat();
    let mut kms = agent.kms().await;
    let direct = [kms.encrypt(&SEED).await.unwrap(), kms.encrypt(&SEED).await.unwrap()];
    for (name, wrapped) in ["one", "two"].iter().zip(&direct) {
        etcd.put(&secret(name), &stored(wrapped.clone(), 300));
    }
    // Local KEKs are off: nothing is said of outages until `--offline` asks for it.
    let off = asked(&etcd, &judged);
    assert!(
        off.code == 0 && !off.out.contains("offline") && off.out.contains("current  direct"),
        "{}",
        off.out
    );
    let off = asked(&etcd, &offline);
    let words = "could not read 2 secrets (direct); turn local KEKs on first (docs/operations.md#local-keks)";
    assert!(off.code == 1 && off.out.contains(words), "{}{}", off.out, off.error);

    let agent = Agent::start_in(agent.kill(), &(config + LOCAL_KEK), &[]);
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    etcd.put(&secret("three"), &value(&mut kms, 300).await);
    let left = asked(&etcd, &judged);
    assert_eq!(left.code, 0, "of the rotation, all is done: {}{}", left.out, left.error);
    for words in [
        "offline  1 key in the memory",
        "current  direct     Transit version 1",
        "not readable in an outage",
        "current  local KEK  Transit version 1",
        "could not read 2 secrets (direct); rotate the key first",
        "; rewrite them: kms-plugin rewrite --resource secrets",
    ] {
        assert!(left.out.contains(words), "{words:?}: {}", left.out);
    }
    let left = asked(&etcd, &offline);
    assert!(left.code == 1, "{}{}", left.out, left.error);
    assert!(left.out.contains("secrets default/two: current, not readable in an outage\n"), "{}", left.out);
    let report = asked(&etcd, &[&judged[..], &["--output", "json"]].concat()).json();
    assert_eq!((&report["unreadable_offline"], &report["finished"]), (&2.into(), &true.into()), "{report}");
    let groups = report["groups"].as_array().unwrap();
    let of = |mode: &str| groups.iter().find(|group| group["mode"] == mode).unwrap();
    assert_eq!((&of("direct")["readable_offline"], &of("direct")["objects"]), (&false.into(), &2.into()));
    assert_eq!(of("local_kek")["readable_offline"], true);

    // One is rewritten, and the agent decrypts the other.
    etcd.put(&secret("one"), &value(&mut kms, 300).await);
    kms.decrypt(&direct[1]).await.unwrap();
    let done = asked(&etcd, &offline);
    assert!(done.code == 0 && done.out.contains("can read every object under"), "{}{}", done.out, done.error);

    // A mix of the two forms is not recognised.
    let local = kms.encrypt(&SEED).await.unwrap();
    let mut stripped = local.clone();
    stripped.annotations = HashMap::new();
    let mut added = direct[0].clone();
    added.annotations = local.annotations;
    etcd.put(&secret("stripped"), &stored(stripped, 300));
    etcd.put(&secret("added"), &stored(added, 300));
    let mixed = asked(&etcd, &[&offline[..], &["--output", "json"]].concat());
    assert_eq!((mixed.code, count(&mixed.json(), "secrets", "unrecognised")), (1, 2), "{}", mixed.out);
    for words in ["annotation is missing", "annotation beside another ciphertext"] {
        assert!(mixed.out.contains(words), "{words}: {}", mixed.out);
    }
    assert_eq!(
        mixed.json()["unreadable_offline"],
        0,
        "what nobody can read has nothing to do with an outage"
    );
}

#[tokio::test]
async fn wiped_keys_count_as_unreadable_and_nothing_is_judged_without_an_agent() {
    let (mut vault, etcd) = (Vault::persistent().await, Etcd::start().await);
    let config = vault.vault_config() + QUICK + LOCAL_KEK + "max_offline = \"8s\"\n";
    let agent = Agent::ready(&config).await;
    let runtime = agent.directory.path().join("run").display().to_string();
    let mut kms = agent.kms().await;
    etcd.put("/registry/secrets/a/b", &value(&mut kms, 300).await);
    let judged = ["--prefix", "/registry/secrets/", "--offline", "--runtime-dir", &runtime];
    let good = asked(&etcd, &judged);
    assert_eq!(good.code, 0, "{}{}", good.out, good.error);
    vault.kill();
    eventually("keys that are wiped", async || {
        let over = asked(&etcd, &judged);
        let told = over.code == 1 && over.out.contains("could not read 1 secrets (local KEK)");
        if told { Ok(()) } else { Err(over.out + &over.error) }
    })
    .await;
    let key_id = kms.status().await.unwrap().key_id;
    drop(agent);
    let unknown = asked(&etcd, &[&judged[..], &["--current-key-id", &key_id]].concat());
    assert!(
        unknown.code == 69 && unknown.error.contains("which keys the agent has in memory"),
        "{}",
        unknown.error
    );
    assert!(unknown.out.contains("offline: not judged"), "{}", unknown.out);
}
