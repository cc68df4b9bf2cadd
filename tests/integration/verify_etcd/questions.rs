//! What may be done now, asked on a real etcd with a real agent.

use serde_json::json;

use super::{asked, rotated, value};
use crate::support::agent::{Agent, QUICK};
use crate::support::etcd::Etcd;
use crate::support::vault::{KEY, Vault};

#[tokio::test]
async fn no_wrong_yes_about_versions_and_seeds() {
    let (vault, etcd) = (Vault::start().await, Etcd::start().await);
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let runtime = agent.directory.path().join("run").display().to_string();
    let socket = agent.socket().display().to_string();
    let mut kms = agent.kms().await;
    // Not a Secret: a question is about everything.
    etcd.put("/registry/widgets.example.com/widgets/a/b", &value(&mut kms, 300).await);
    etcd.put("/registry/secrets/a/b", &value(&mut kms, 200).await);
    let ask = |question: &[&str]| {
        asked(&etcd, &[&["--runtime-dir", &runtime, "--socket", &socket], question].concat())
    };
    let yes = ask(&["--may-raise-min-version", "1", "--can-read-seeds"]);
    assert!(yes.code == 0 && yes.out.contains("can-read-seeds: yes: 2 seeds"), "{} {}", yes.out, yes.error);
    rotated(&vault, &agent, 2).await;
    let no = ask(&["--may-raise-min-version", "2", "--output", "json"]);
    assert_eq!(no.code, 1, "{}", no.error);
    assert_eq!(no.json()["answers"][0]["answer"], "no", "{}", no.out);
    for key in ["/registry/widgets.example.com/widgets/a/b", "/registry/secrets/a/b"] {
        etcd.put(key, &value(&mut kms, 300).await);
    }
    // An API server may still write under the old version.
    let early = ask(&["--may-raise-min-version", "2", "--only-node"]);
    assert!(
        early.code == 69 && early.out.contains("not judged: version 2 is "),
        "{} {}",
        early.out,
        early.error
    );
    let trim = ask(&["--may-trim", "2"]);
    assert!(trim.code == 1 && trim.out.contains("raise it to 2 first"), "{} {}", trim.out, trim.error);
    let unknown = ask(&["--may-remove"]);
    assert!(
        unknown.code == 1 && unknown.out.contains("are under KMS v2"),
        "{} {}",
        unknown.out,
        unknown.error
    );
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "min_decryption_version": 2 })).await;
    assert_eq!(ask(&["--can-read-seeds"]).code, 0);
    // One seed that this Vault cannot read any more.
    etcd.put(
        "/registry/secrets/a/old",
        &super::stored(
            kms_plugin::proto::EncryptResponse {
                ciphertext: b"vault:v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec(),
                key_id: "v1.unknown".into(),
                annotations: Default::default(),
            },
            100,
        ),
    );
    let lost = ask(&["--can-read-seeds"]);
    assert!(
        lost.code == 1 && lost.out.contains("can-read-seeds: no: 1 seed of 1 objects: "),
        "{} {}",
        lost.out,
        lost.error
    );
}
