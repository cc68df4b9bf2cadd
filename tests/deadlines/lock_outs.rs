//! A login that the server has locked, with credentials that are wrong behind that: they are sent each minute while the
//! server does not look at them, once when it does, and then not again.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::audit;
use crate::figures::Figures;
use crate::node::{Node, PAUSE, until};
use crate::support::vault::{KEY, Vault, write_secret};

/// Three pauses, and the longest jitter.
const LOCKED: Duration = Duration::from_secs(200);
/// A minute and its jitter, and the time of a busy machine.
const LONGEST: Duration = Duration::from_secs(70);
/// A refusal is looked at each half minute: the login waits for that look.
const LONGEST_REFUSED: Duration = Duration::from_secs(100);
const SHORTEST: Duration = Duration::from_secs(53);
/// Two more pauses.
const AFTER: Duration = Duration::from_secs(140);
const WRONG: &str = "00000000-0000-4000-8000-000000000001";

/// Somebody who logs in, as a node and as an administrator see it.
struct Login {
    /// The method, and the name of its mount.
    method: &'static str,
    path: String,
    /// What the server locks.
    name: String,
    /// What the agent calls it while it is locked. A user cannot be asked for without a secret, so a second denial counts as
    /// a refusal (docs/decisions/0021-a-lock-out-is-no-refusal.md).
    locked: &'static str,
    /// The body with a secret of somebody else.
    other: Value,
    secret: PathBuf,
    config: String,
}

fn approle(vault: &Vault) -> Login {
    let name = fs::read_to_string(vault.file("role-id")).unwrap();
    Login {
        method: "approle",
        path: "auth/approle/login".to_owned(),
        other: json!({ "role_id": name, "secret_id": "00000000-0000-4000-8000-000000000000" }),
        name,
        locked: "locked_out",
        secret: vault.file("secret-id"),
        config: vault.vault_config(),
    }
}

async fn userpass(vault: &Vault, files: &TempDir) -> Login {
    vault.post("sys/auth/userpass", json!({ "type": "userpass" })).await;
    vault.post("auth/userpass/users/node", json!({ "password": "right", "token_policies": "kms" })).await;
    let secret = files.path().join("password");
    write_secret(&secret, "right");
    let config = format!(
        "[vault]\naddresses = [{:?}]\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\nmethod = \"userpass\"\n\
         username = \"node\"\npassword_file = {secret:?}\n",
        vault.address
    );
    Login {
        method: "userpass",
        path: "auth/userpass/login/node".to_owned(),
        name: "node".to_owned(),
        locked: "login_denied",
        other: json!({ "password": "of somebody else" }),
        secret,
        config,
    }
}

impl Login {
    /// When a secret was sent since then.
    fn sent(&self, vault: &Vault, since: SystemTime) -> Vec<SystemTime> {
        let ours = audit::entries(vault, "request").into_iter().filter(|(entry, time)| {
            let data = &entry["request"]["data"];
            *time >= since
                && entry["request"]["path"] == self.path
                && (data["secret_id"].is_string() || data["password"].is_string())
        });
        ours.map(|(_, time)| time).collect()
    }

    async fn try_it(&self, figures: &Figures, vault: &Vault) {
        let node = Node::ready(&self.config).await;
        for _ in 0..6 {
            vault.request(Method::POST, &self.path, self.other.clone(), "").await;
        }
        let locked = SystemTime::now();
        write_secret(&self.secret, WRONG);
        let prefix = format!("sys/leases/revoke-prefix/{}", self.path);
        vault.request(Method::PUT, &prefix, json!({}), "").await;
        sleep(LOCKED).await;
        let status = node.agent.status().unwrap();
        assert_eq!(status["reason"]["kind"], self.locked, "{}: {status}", self.method);
        let sent = self.sent(vault, locked);
        assert!(sent.len() >= 3, "{}: {sent:?}", self.method);
        let pauses = sent.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap());
        let (shortest, longest) = (pauses.clone().min().unwrap(), pauses.max().unwrap());
        assert!(shortest >= SHORTEST, "{}: {shortest:?}", self.method);
        let limit = if self.locked == "locked_out" { LONGEST } else { LONGEST_REFUSED };
        figures.time(&format!("locked, {}: from one login to the next", self.method), limit, longest);

        let mounts = vault.get("sys/auth").await;
        let accessor = mounts["data"][format!("{}/", self.method)]["accessor"].as_str().unwrap().to_owned();
        let (unlocked, since) = (SystemTime::now(), Instant::now());
        vault.post(&format!("sys/locked-users/{accessor}/unlock/{}", self.name), json!({})).await;
        let took = until("refused", since, PAUSE, async || {
            node.agent.status().unwrap()["reason"]["kind"] == "credentials_refused"
        })
        .await;
        figures.time(&format!("unlocked, {}: the refusal is seen", self.method), limit, took);
        sleep(AFTER).await;
        let sent = self.sent(vault, unlocked).len();
        figures.number(
            &format!("unlocked, {}: logins with the wrong secret", self.method),
            Some(1.0),
            sent as f64,
        );
    }
}

#[test]
fn a_locked_login_is_tried_each_minute_until_the_server_looks_at_it() {
    let figures = Figures::default();
    figures.run(async |_| {
        let (vault, files) = (Vault::start().await, tempfile::tempdir().unwrap());
        let (approle, userpass) = (approle(&vault), userpass(&vault, &files).await);
        tokio::join!(approle.try_it(&figures, &vault), userpass.try_it(&figures, &vault));
    });
    figures.finish();
}
