//! Encryption is turned on by a file that a running API server reads again.

use std::time::{Duration, Instant};

use crate::apiserver::{ApiServer, NAMESPACE};
use crate::encryption::{PROVIDER, identity, kms, of};
use crate::etcd::{Etcd, Stored};
use crate::support::agent::{Agent, QUICK};
use crate::support::vault::Vault;

const AUTOMATIC: &[&str] = &["--encryption-provider-config-automatic-reload=true"];
/// It looks at the file each minute, and then at the plugin.
const RELOAD: Duration = Duration::from_secs(150);

/// How many times it has read a changed file, by the result.
async fn reloads(api: &ApiServer, result: &str) -> u64 {
    let metrics = api.client.get("/metrics").await.unwrap().text;
    let is_count = |line: &&str| {
        line.starts_with("apiserver_encryption_config_controller_automatic_reloads_total{")
            && line.contains(&format!("status=\"{result}\""))
    };
    let counts =
        metrics.lines().filter(is_count).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    counts.sum()
}

async fn wait_reload(api: &ApiServer, result: &str) {
    let started = Instant::now();
    while reloads(api, result).await == 0 {
        assert!(started.elapsed() < RELOAD, "the file is not read again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eprintln!("MEASURED a changed file: {result} after {:.0?}", started.elapsed());
}

#[tokio::test]
async fn a_running_api_server_begins_to_encrypt_when_its_file_says_so() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let api = ApiServer::ready_with(&etcd, &of(&[identity()]), AUTOMATIC).await;
    api.client.write("secrets", "early", "written-in-clear").await.unwrap();

    // Nobody serves this socket: the file is refused, and the old one stays in use.
    let nobody = agent.socket().with_file_name("nobody.sock");
    api.replace_encryption(&of(&[kms(&nobody), identity()]));
    wait_reload(&api, "failure").await;
    api.client.write("secrets", "between", "written-in-clear").await.unwrap();

    api.replace_encryption(&of(&[kms(&agent.socket()), identity()]));
    wait_reload(&api, "success").await;
    api.client.write("secrets", "late", "written-encrypted").await.unwrap();
    let stored = etcd.stored(&format!("secrets/{NAMESPACE}/")).await;
    let of_secret = |name: &str| &stored[&format!("/registry/secrets/{NAMESPACE}/{name}")];
    assert_eq!((of_secret("early"), of_secret("between")), (&Stored::Clear, &Stored::Clear));
    let key_id = agent.kms().await.status().await.unwrap().key_id;
    assert_eq!(of_secret("late").key_id(PROVIDER), key_id);
    for (name, text) in [("early", "written-in-clear"), ("late", "written-encrypted")] {
        assert_eq!(api.client.read("secrets", name).await.unwrap(), text);
    }
    // The check of the providers has followed.
    assert_eq!(api.client.kms_check().await.status, 200);
}
