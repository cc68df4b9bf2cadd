//! The agent's memory before, during and after each attack of docs/security.md. A debug build holds more, so a release
//! build is measured; it takes three minutes:
//!
//! ```text
//! tests/run --release-agent --test integration memory:: -- --ignored --nocapture --test-threads 1
//! ```
//!
//! The hostile server is a fake: no real one can be made to answer like that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt as _};

use crate::support::agent::{Agent, QUIET};
use crate::support::eventually;
use crate::support::kms::channel;
use crate::support::memory::{PEAK, RESIDENT, mebibytes};
use crate::support::vault::Vault;

/// How long after an attack memory is measured again: the agent gives it back every 30 s.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// What may be left afterwards, as a part of before.
const LEFT: f64 = 1.5;
/// The unit, with `MemoryMax=` in MiB.
const UNIT: &str = include_str!("../../systemd/kms-plugin.service");
/// An attack may reach this part of it: a limit that an attack can reach would kill the agent again and again.
const REACHED: f64 = 0.25;

/// Resident memory of an agent, in MiB.
struct Memory<'a> {
    agent: &'a Agent,
    before: f64,
}

impl<'a> Memory<'a> {
    /// Of an agent that has settled. The peak begins anew.
    async fn of(agent: &'a Agent) -> Self {
        tokio::time::sleep(Duration::from_secs(2)).await;
        fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").unwrap();
        Self { agent, before: read(agent, RESIDENT) }
    }

    fn tell(&self, attack: &str, more: &str) {
        let (peak, after) = (read(self.agent, PEAK), read(self.agent, RESIDENT));
        let before = self.before;
        eprintln!("MEASURED {attack}: {before:.1} MiB before, {peak:.1} at most, {after:.1} after{more}");
        let limit = UNIT.lines().find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('M'));
        assert!(peak < limit.unwrap().parse::<f64>().unwrap() * REACHED, "{attack}: {peak:.1} MiB");
    }

    /// The same for an attack that has ended.
    async fn tell_afterwards(&self, attack: &str) {
        tokio::time::sleep(AFTERWARDS).await;
        self.tell(attack, &format!(", {} s later", AFTERWARDS.as_secs()));
        let after = read(self.agent, RESIDENT);
        assert!(after < self.before * LEFT, "{attack}: {after:.1} MiB stay");
    }
}

fn read(agent: &Agent, figure: &str) -> f64 {
    mebibytes(agent.pid(), figure).unwrap()
}

/// 5,000 files in this process, too.
fn open_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, on a release build"]
async fn of_five_thousand_connections() {
    open_many_files();
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let memory = Memory::of(&agent).await;
    let mut silent = Vec::new();
    for _ in 0..5000 {
        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        // What opens HTTP/2, and no call. The agent may have closed it meanwhile.
        let _closed = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        silent.push(stream);
    }
    agent.kms().await.round_trip().await;
    drop(silent);
    memory.tell_afterwards("5,000 connections").await;
}

/// How many calls, and how much of each message is sent.
const CONNECTIONS: usize = 18;
const CALLS: usize = 256;
const SENT: usize = 60_000;
const ANNOUNCED: u32 = 60_100;

/// Sends the greatest part of a message, and then nothing. Returns the code that ended it.
async fn half_a_call(mut channel: Channel) -> String {
    let message = [&[0], &ANNOUNCED.to_be_bytes()[..], &[b'x'; SENT]].concat();
    let part = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(message)))]);
    let body = StreamBody::new(futures_util::StreamExt::chain(part, futures_util::stream::pending()));
    let request = hyper::Request::post("http://localhost/v2.KeyManagementService/Encrypt")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(body))
        .unwrap();
    match channel.ready().await.unwrap().call(request).await {
        Ok(answer) => answer.headers()["grpc-status"].to_str().unwrap().to_owned(),
        Err(_) => "the connection ended".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, on a release build"]
async fn of_calls_that_never_end() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let memory = Memory::of(&agent).await;
    let mut calls = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let channel = channel(&agent.socket()).await;
        for _ in 0..CALLS {
            calls.spawn(half_a_call(channel.clone()));
        }
    }
    let mut ends = BTreeMap::<_, usize>::new();
    while let Some(ended) = calls.join_next().await {
        *ends.entry(ended.unwrap()).or_default() += 1;
    }
    eprintln!("how {} calls ended, by code: {ends:?}", CONNECTIONS * CALLS);
    agent.kms().await.round_trip().await;
    memory.tell_afterwards("4,608 calls that never end").await;
}

/// A Vault whose key reads as this function says, by the number of the read.
struct Hostile {
    key: fn(u64) -> Value,
    reads: AtomicU64,
    is_hostile: AtomicU64,
}

impl Hostile {
    /// Its address, and the means to begin the attack.
    async fn serve(key: fn(u64) -> Value) -> (String, Arc<Self>) {
        let hostile = Arc::new(Self { key, reads: AtomicU64::new(0), is_hostile: AtomicU64::new(0) });
        let health = json!({
            "initialized": true, "sealed": false, "standby": false, "performance_standby": false, "version": "1.21.2",
            "enterprise": false, "cluster_name": "hostile", "cluster_id": "00000000-0000-0000-0000-000000000001",
        });
        let token = json!({ "data": { "ttl": 0, "renewable": false, "num_uses": 0, "policies": ["kms"], "type": "service" } });
        let encrypt = async |Json(asked): Json<Value>| {
            let version = asked["key_version"].as_u64().unwrap_or(1);
            let ciphertext = format!("vault:v{version}:{}", asked["plaintext"].as_str().unwrap());
            Json(json!({ "data": { "ciphertext": ciphertext, "key_version": version } }))
        };
        let decrypt = async |Json(asked): Json<Value>| {
            let plaintext = asked["ciphertext"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
            Json(json!({ "data": { "plaintext": plaintext } }))
        };
        let read = async |State(hostile): State<Arc<Self>>| {
            let number = match hostile.is_hostile.load(Ordering::SeqCst) {
                0 => 0,
                _ => hostile.reads.fetch_add(1, Ordering::SeqCst) + 1,
            };
            Json(json!({ "data": (hostile.key)(number) }))
        };
        let router = Router::new()
            .route("/v1/sys/health", get(async move || Json(health)))
            .route("/v1/auth/token/lookup-self", get(async move || Json(token)))
            .route("/v1/transit/encrypt/kms-key", post(encrypt).put(encrypt))
            .route("/v1/transit/decrypt/kms-key", post(decrypt).put(decrypt))
            .route("/v1/transit/keys/kms-key", get(read))
            .fallback(any(async || (StatusCode::FORBIDDEN, Json(json!({ "errors": ["permission denied"] })))))
            .with_state(hostile.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, hostile)
    }

    fn begin(&self) {
        self.is_hostile.store(1, Ordering::SeqCst);
    }

    async fn has_been_read(&self, times: u64) {
        eventually("the reads", async || {
            let reads = self.reads.load(Ordering::SeqCst);
            if reads >= times { Ok(()) } else { Err(format!("{reads} reads")) }
        })
        .await;
    }
}

/// A key that has these versions.
fn key(kind: &str, versions: std::ops::RangeInclusive<u64>) -> Value {
    let latest = *versions.end();
    let keys: serde_json::Map<String, Value> =
        versions.map(|version| (version.to_string(), Value::from(1_700_000_000 + version))).collect();
    json!({
        "name": "kms-key", "type": kind, "latest_version": latest, "keys": keys, "min_available_version": 0,
        "min_decryption_version": 1, "min_encryption_version": 0, "deletion_allowed": false, "derived": false,
        "exportable": false, "allow_plaintext_backup": false, "supports_encryption": true,
        "supports_decryption": true, "supports_derivation": true, "supports_signing": false, "imported_key": false,
    })
}

/// An agent of this server that is ready and reads the key often.
async fn agent_of(address: &str, more: &str) -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, "hvs.CAESIJtheTokenOfThisTest0123456789").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[vault]\naddresses = [{address:?}]\n[vault.transit]\nkey = \"kms-key\"\n{more}\
         [vault.auth]\nmethod = \"token\"\ntoken_file = {token:?}\n\
         [health]\nkey_check_interval = \"500ms\"\nprobe_interval = \"2s\"\n"
    );
    let agent = Agent::start_in(directory, &text, &[]);
    agent.wait_for_phase("ready").await;
    agent
}

/// The largest file that the agent has saved, in bytes.
fn largest_state(directory: &Path) -> u64 {
    let files = fs::read_dir(directory.join("run")).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, on a release build"]
async fn of_key_versions_that_grow_with_each_read() {
    let versions = |read: u64| match read {
        0 => key("aes256-gcm96", 1..=1),
        _ => key("aes256-gcm96", read * 60_000..=read * 60_000 + 59_999),
    };
    let (address, hostile) = Hostile::serve(versions).await;
    let agent = agent_of(&address, "").await;
    let memory = Memory::of(&agent).await;
    hostile.begin();
    hostile.has_been_read(20).await;
    agent.kms().await.round_trip().await;
    let state = largest_state(agent.directory.path());
    memory.tell("60,000 new key versions in each of 20 reads", &format!("; a state file of {state} bytes"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, on a release build"]
async fn of_every_epoch_of_twenty_thousand_versions() {
    let (address, hostile) = Hostile::serve(|_| key("aes256-gcm96", 1..=20_000)).await;
    let agent = agent_of(&address, "key_id_epoch = 255\n").await;
    let memory = Memory::of(&agent).await;
    hostile.begin();
    hostile.has_been_read(20).await;
    agent.kms().await.round_trip().await;
    memory.tell("key_id_epoch = 255 and 20,000 versions", "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, on a release build"]
async fn of_a_key_type_of_900_kilobytes() {
    let kinds = |read: u64| match read {
        0 => key("aes256-gcm96", 1..=1),
        _ => key(&"\nSTOPPING=1\n\u{1b}[2J\u{202e}".repeat(50_000), 1..=1),
    };
    let (address, hostile) = Hostile::serve(kinds).await;
    let agent = agent_of(&address, "").await;
    let memory = Memory::of(&agent).await;
    hostile.begin();
    // With a key that cannot be used, it looks less and less often.
    hostile.has_been_read(5).await;
    let longest = agent.log().lines().map(str::len).max().unwrap_or_default();
    let status = agent.status().unwrap().to_string();
    assert!(!agent.log().contains('\u{1b}') && !status.contains("\\u001b"), "{status}");
    assert!(longest < 8192 && status.len() < 32 * 1024, "{longest} {}", status.len());
    let more = format!("; the longest line of the log has {longest} bytes, /status {}", status.len());
    memory.tell("a key type of 900 kB", &more);
}
