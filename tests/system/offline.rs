//! Local KEKs under the real systemd, which keeps their memory: what they survive, and where they must not be.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use kms_plugin::format::{ANNOTATION, kek_aad};
use kms_plugin::proto::EncryptResponse;
use serde_json::json;
use tonic::Status;

use crate::node::{Node, QUICK, is_newer};
use crate::support::agent::LOCAL_KEK;
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::vault::{KEY, Vault, policy};

/// A shorter watchdog, so that the test does not wait a minute for it.
const WATCHDOG: &str = "mkdir -p /etc/systemd/system/kms-plugin.service.d && printf '[Service]\\nWatchdogSec=5s\\n' > /etc/systemd/system/kms-plugin.service.d/quick.conf && systemctl daemon-reload";
const STATUS: &str = "systemctl show --value -p StatusText kms-plugin";

impl Node {
    /// How many descriptors systemd keeps for the agent.
    fn kept(&self) -> String {
        self.show("kms-plugin", "NFileDescriptorStore")
    }

    async fn wait_for_kept(&self, count: &str) {
        self.wait_until("systemctl show --value -p NFileDescriptorStore kms-plugin", |said| {
            said.text == count
        })
        .await;
    }

    pub async fn wait_for_offline_ready(&self) {
        self.wait_until(STATUS, |said| said.text.contains("; ready for an outage of 8h")).await;
    }

    pub async fn read(&self, wrapped: &EncryptResponse) -> Result<Vec<u8>, Status> {
        self.kms().await.decrypt(wrapped).await
    }

    /// A seed under the local KEK, as soon as the agent wraps one.
    pub async fn written(&self) -> EncryptResponse {
        let wrapped = eventually("an Encrypt", async || {
            self.kms().await.encrypt(&SEED).await.map_err(|status| format!("{status}\n{}", self.journal()))
        })
        .await;
        assert!(wrapped.ciphertext.starts_with(b"local-kek:v1:"), "{wrapped:?}");
        assert_eq!(self.read(&wrapped).await.unwrap(), SEED);
        wrapped
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_the_keys_survive_every_end_of_the_agent_except_a_stop() {
    let mut vault = Vault::persistent().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, &(QUICK.to_owned() + LOCAL_KEK));
    node.ok(WATCHDOG);
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_offline_ready().await;
    let mut all = vec![node.written().await];
    assert_eq!(node.kept(), "1");
    let locked = node.ok(&format!("awk '/VmLck/ {{ print $2 }}' /proc/{}/status", node.pid()));
    assert!(locked.parse::<u64>().unwrap() >= 256, "{locked} kB are locked");
    vault.kill();
    node.wait_for_phase("degraded").await;

    // What ends the agent, and whether systemd counts that in NRestarts.
    for (what, ends, counted) in [
        ("kill -9", "kill -9 $(systemctl show --value -p MainPID kms-plugin)", true),
        ("the watchdog", "kill -STOP $(systemctl show --value -p MainPID kms-plugin)", true),
        ("systemctl restart", "systemctl restart kms-plugin", false),
        ("an upgrade", "rpm -U /mnt/rpm/2/kms-plugin-*.x86_64.rpm", false),
    ] {
        let (pid, restarts) = (node.pid(), node.show("kms-plugin", "NRestarts").parse::<u64>().unwrap());
        node.ok(ends);
        node.wait_for_new_process(&pid).await;
        all.push(node.written().await);
        for wrapped in &all {
            assert_eq!(node.read(wrapped).await.unwrap(), SEED, "{what}");
        }
        let now = node.show("kms-plugin", "NRestarts").parse::<u64>().unwrap();
        assert_eq!(now, if counted { restarts + 1 } else { 0 }, "{what}");
        assert_eq!(node.kept(), "1", "{what}");
        node.wait_for_phase("degraded").await;
        assert_eq!(node.kms().await.status().await.unwrap().healthz, "ok", "{what}");
    }
    assert!(node.journal().contains("cannot be reached"), "{}", node.journal());

    // A stop empties the store.
    node.ok("systemctl stop kms-plugin.socket kms-plugin");
    assert_eq!(node.kept(), "0");
    node.ok("systemctl start kms-plugin");
    let refused = node.read(&all[0]).await.unwrap_err();
    assert!(refused.message().contains("cannot be reached"), "{refused}");
    assert!(refused.message().contains("remedy"), "{refused}");
    // Vault is back: the agent unwraps the listed keys before anybody needs them.
    vault.restart().await;
    node.wait_for_offline_ready().await;
    vault.kill();
    node.wait_for_phase("degraded").await;
    for wrapped in &all {
        assert_eq!(node.read(wrapped).await.unwrap(), SEED);
    }
    node.written().await;
}

/// While the agent is stopped nobody could wipe the keys, so that a stop drops them. Also with the drop-in for systemd
/// 254, which could keep the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_and_a_removal_leave_no_key_with_systemd() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install(if is_newer() { "254" } else { "1" });
    node.configure(&vault, &(QUICK.to_owned() + LOCAL_KEK));
    let of_init = || node.run("ls -l /proc/1/fd | grep -c memfd:kms-plugin-keys").text;
    for ends in ["systemctl stop kms-plugin.socket kms-plugin", "rpm -e kms-plugin"] {
        node.ok("systemctl enable --now kms-plugin");
        node.wait_for_offline_ready().await;
        assert_eq!(of_init(), "1");
        node.ok(ends);
        assert_eq!(of_init(), "0", "{ends}");
    }
}

/// A refusal is not an outage: no key is kept, neither in the agent nor by systemd.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_empties_the_store() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, &(QUICK.to_owned() + LOCAL_KEK)).await;
    let wrapped = node.written().await;
    assert_eq!(node.kept(), "1");
    vault.put_policy("kms", &policy("transit", "another-key")).await;
    node.wait_for_kept("0").await;
    assert!(node.read(&wrapped).await.is_err() && node.kms().await.encrypt(&SEED).await.is_err());
    // The next agent gets no key either.
    node.ok("systemctl restart kms-plugin");
    assert!(node.read(&wrapped).await.is_err());
    assert!(
        node.ok("journalctl -u kms-plugin -o cat --no-pager")
            .contains("are wiped: the key service refuses us")
    );
    vault.put_policy("kms", &policy("transit", KEY)).await;
    node.wait_for_phase("ready").await;
    assert_eq!(node.read(&wrapped).await.unwrap(), SEED);
    node.wait_for_kept("1").await;
}

/// The encodings in which a key could be in a file or a log.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let encoded = [hex.to_uppercase(), hex, STANDARD.encode(secret), URL_SAFE.encode(secret), list];
    let mut all: Vec<_> = encoded.into_iter().map(String::into_bytes).collect();
    all.push(secret.to_vec());
    all
}

/// Every file below, with what is in it.
fn files(below: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = below.read_dir() else {
        let bytes = if below.is_file() { std::fs::read(below).unwrap() } else { Vec::new() };
        return vec![(below.display().to_string(), bytes)];
    };
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_on_a_disk_or_in_the_journal() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, &(QUICK.to_owned() + LOCAL_KEK + "[log]\nlevel = \"trace\"\n")).await;
    node.wait_for_offline_ready().await;
    let wrapped = node.written().await;
    // A failed call writes more to the log than a good one.
    let mut damaged = wrapped.clone();
    *damaged.ciphertext.last_mut().unwrap() ^= 1;
    assert!(node.read(&damaged).await.is_err());
    node.ok("systemctl restart kms-plugin && systemctl reload kms-plugin");
    node.written().await;
    // The local KEK itself, unwrapped by Transit.
    let form = String::from_utf8(wrapped.annotations[ANNOTATION].clone()).unwrap();
    let data = STANDARD.encode(kek_aad(&wrapped.key_id));
    let unwrapped = json!({ "ciphertext": form.strip_prefix("v1:").unwrap(), "associated_data": data });
    let answer = vault.post(&format!("transit/decrypt/{KEY}"), unwrapped).await;
    let kek = STANDARD.decode(answer["data"]["plaintext"].as_str().unwrap()).unwrap();
    assert_eq!(kek.len(), 32);

    let mut places =
        vec![("the journal".to_owned(), node.ok("journalctl -o export --no-pager").into_bytes())];
    for directory in [
        "/var/lib/kms-plugin",
        "/run/kms-plugin",
        "/run/kmsplugin",
        "/var/log",
        "/run/log",
        "/tmp",
        "/var/tmp",
    ] {
        places.extend(files(&node.path(directory)));
    }
    let listed = |name: &str| places.iter().find(|(path, _)| path.ends_with(name)).unwrap();
    let list = String::from_utf8(listed("/wrapped-keys.json").1.clone()).unwrap();
    assert!(
        list.contains(&STANDARD.encode(form.strip_prefix("v1:").unwrap())),
        "the search covers the list: {list}"
    );
    for secret in [&SEED[..], &kek] {
        for spelling in spellings(secret) {
            let found = places
                .iter()
                .find(|(_, bytes)| bytes.windows(spelling.len()).any(|window| window == spelling));
            assert!(found.is_none(), "{:?} in {}", String::from_utf8_lossy(&spelling), found.unwrap().0);
        }
    }
    assert_eq!(node.ok("stat -c '%U %a' /var/lib/kms-plugin/wrapped-keys.json"), "kms-plugin 600");
}
