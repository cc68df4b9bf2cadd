//! What the plugin adds to a Transit call, on one OpenBao in one run: `cargo bench`.
//!
//! Each round makes these calls: raw Transit calls over one connection; Encrypt and Decrypt through the socket, in
//! direct mode and under a local KEK; and Status, which is answered from memory. So a noisy machine disturbs all of
//! them alike. The table shows the median of the rounds and, in brackets, the lowest and the highest round. The added
//! time and the ratio compare with the raw call in direct mode, and with Status under a local KEK. At the end the
//! benchmark prints the requests to Vault per 10,000 operations in each mode.

// A benchmark may fail loudly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(missing_docs)] // nothing here is used by others
#![allow(unreachable_pub)] // the tests' support code is public for the tests
#![allow(dead_code)] // the tests' support code, of which a part is used

#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::agent::{Agent, QUIET};
use support::kms::{Kms, SEED};
use support::pki::Pki;
use support::vault::{KEY, Vault};
use tokio::task::JoinSet;

/// Rounds, in each of which every kind of call is made.
const ROUNDS: usize = 7;
/// Calls of one kind in one round.
const CALLS: usize = 2_000;
/// Callers at the same time, in the rounds with load.
const CALLERS: usize = 8;
/// Operations before the memory is measured.
const OPERATIONS: usize = 100_000;

/// p50 and p99 of each round, in microseconds.
#[derive(Default)]
struct Rounds {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, mut times: Vec<Duration>) {
        times.sort_unstable();
        let at =
            |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
        self.p50.push(at(50));
        self.p99.push(at(99));
    }

    fn line(&self, name: &str, baseline: Option<&Self>) {
        let added = |mine: &[f64], theirs: &[f64]| {
            let mut added: Vec<f64> = mine.iter().zip(theirs).map(|(a, b)| a - b).collect();
            middle(&mut added)
        };
        let added = baseline.map_or(String::new(), |base| {
            let ratio = middle(&mut self.p50.clone()) / middle(&mut base.p50.clone());
            format!("{:>9.0} {:>9.0}   {ratio:.2}", added(&self.p50, &base.p50), added(&self.p99, &base.p99))
        });
        println!("{name:<28} {:>22} {:>24} {added}", spread(&self.p50), spread(&self.p99));
    }
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    let middle = middle(&mut sorted);
    format!("{middle:.0} ({:.0}–{:.0})", sorted[0], sorted[sorted.len() - 1])
}

/// Makes `CALLS` calls with `callers` at the same time. Returns the time of each.
async fn timed<F>(callers: usize, call: impl Fn() -> F + Clone + Send + 'static) -> Vec<Duration>
where
    F: Future<Output = ()> + Send,
{
    let mut workers = JoinSet::new();
    for _ in 0..callers {
        let call = call.clone();
        workers.spawn(async move {
            let mut times = Vec::with_capacity(CALLS / callers);
            for _ in 0..CALLS / callers {
                let started = Instant::now();
                call().await;
                times.push(started.elapsed());
            }
            times
        });
    }
    workers.join_all().await.concat()
}

/// The same call, with the same kind of token: the server checks less for a root token.
async fn raw_client(
    vault: &Vault,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + 'static {
    let http =
        reqwest::Client::builder().no_proxy().tls_backend_preconfigured(Pki::no_tls()).build().unwrap();
    let url = format!("{}/v1/transit/encrypt/{KEY}", vault.address);
    let id = |name| std::fs::read_to_string(vault.file(name)).unwrap();
    let login = json!({ "role_id": id("role-id"), "secret_id": id("secret-id") });
    let token =
        vault.post("auth/approle/login", login).await["auth"]["client_token"].as_str().unwrap().to_owned();
    let body =
        json!({ "plaintext": "YSBERUsgc2VlZCBvZiB0aGlydHktdHdvIGJ5dGVzISE=", "key_version": 1 }).to_string();
    move || {
        let request = http.post(&url).header("x-vault-token", &token).body(body.clone());
        Box::pin(async move {
            let answer = request.send().await.unwrap();
            assert!(answer.status().is_success());
            answer.bytes().await.unwrap();
        })
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let kms = agent.kms().await;
    let wrapped = kms.clone().encrypt(&SEED).await.unwrap();
    let raw = raw_client(&vault).await;
    let (status, encrypt, decrypt) = (kms.clone(), kms.clone(), kms.clone());
    let status = move || {
        let mut kms = status.clone();
        async move { drop(kms.status().await.unwrap()) }
    };
    let encrypt = move || {
        let mut kms = encrypt.clone();
        async move { drop(kms.encrypt(&SEED).await.unwrap()) }
    };
    let decrypt = move || {
        let (mut kms, wrapped) = (decrypt.clone(), wrapped.clone());
        async move { assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED) }
    };

    let local_agent = Agent::ready(&(vault.vault_config() + QUIET + "[local_kek]\nenabled = true\n")).await;
    let local = local_agent.kms().await;
    let sealed = local.clone().encrypt(&SEED).await.unwrap();
    assert!(!sealed.annotations.is_empty(), "not under a local KEK");
    let (local_status, local_encrypt, local_decrypt) = (local.clone(), local.clone(), local.clone());
    let local_status = move || {
        let mut kms = local_status.clone();
        async move { drop(kms.status().await.unwrap()) }
    };
    let local_encrypt = move || {
        let mut kms = local_encrypt.clone();
        async move { drop(kms.encrypt(&SEED).await.unwrap()) }
    };
    let local_decrypt = move || {
        let (mut kms, sealed) = (local_decrypt.clone(), sealed.clone());
        async move {
            assert_eq!(kms.decrypt(&sealed).await.unwrap(), SEED);
        }
    };

    println!(
        "microseconds                             p50 (lowest–highest)     p99 (lowest–highest)  p50 added p99 added ratio of p50"
    );
    for callers in [1, CALLERS] {
        println!("-- {callers} at once, {ROUNDS} rounds of {CALLS} calls of each kind");
        let [mut raws, mut statuses, mut encrypts, mut decrypts]: [Rounds; 4] = Default::default();
        let [mut local_statuses, mut local_encrypts, mut local_decrypts]: [Rounds; 3] = Default::default();
        for round in 0..=ROUNDS {
            let times = (
                timed(callers, raw.clone()).await,
                timed(callers, status.clone()).await,
                timed(callers, encrypt.clone()).await,
                timed(callers, decrypt.clone()).await,
                timed(callers, local_status.clone()).await,
                timed(callers, local_encrypt.clone()).await,
                timed(callers, local_decrypt.clone()).await,
            );
            // The first round warms up.
            if round > 0 {
                raws.add(times.0);
                statuses.add(times.1);
                encrypts.add(times.2);
                decrypts.add(times.3);
                local_statuses.add(times.4);
                local_encrypts.add(times.5);
                local_decrypts.add(times.6);
            }
        }
        raws.line("raw Transit encrypt", None);
        statuses.line("Status (no call to Vault)", None);
        encrypts.line("Encrypt through the socket", Some(&raws));
        decrypts.line("Decrypt through the socket", Some(&raws));
        local_statuses.line("Status, with local KEKs", None);
        local_encrypts.line("Encrypt under a local KEK", Some(&local_statuses));
        local_decrypts.line("Decrypt under a local KEK", Some(&local_statuses));
    }
    for (name, call) in [("direct mode", &kms), ("a local KEK", &local)] {
        println!("-- requests to Vault per 10,000 operations, {name}: {}", requests(&vault, call).await);
    }

    vault.freeze();
    let mut frozen = Rounds::default();
    for _ in 0..ROUNDS {
        frozen.add(timed(CALLERS, status.clone()).await);
    }
    vault.thaw();
    println!("-- Vault hangs (SIGSTOP), {CALLERS} at once");
    frozen.line("Status", None);

    memory(&agent, &kms).await;
    start_up(&vault).await;
}

/// How many requests Vault gets for 5,000 Encrypts and 5,000 Decrypts, from its audit log.
async fn requests(vault: &Vault, kms: &Kms) -> usize {
    let mut kms = kms.clone();
    let before = vault.audited().len();
    for _ in 0..5_000 {
        let wrapped = kms.encrypt(&SEED).await.unwrap();
        assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
    }
    vault.audited().len() - before
}

/// Resident memory after many operations.
async fn memory(agent: &Agent, kms: &Kms) {
    let wrapped = kms.clone().encrypt(&SEED).await.unwrap();
    let mut workers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut kms, wrapped) = (kms.clone(), wrapped.clone());
        workers.spawn(async move {
            for _ in 0..OPERATIONS / CALLERS / 2 {
                kms.encrypt(&SEED).await.unwrap();
                kms.decrypt(&wrapped).await.unwrap();
            }
        });
    }
    workers.join_all().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    println!(
        "-- resident after {OPERATIONS} operations: {:.1} MiB, of which {:.1} anonymous; peak {:.1} MiB",
        of("VmRSS:"),
        of("RssAnon:"),
        of("VmHWM:")
    );
}

/// From the start of the process to the first good Status.
async fn start_up(vault: &Vault) {
    let mut times = Rounds::default();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let agent = Agent::start(&(vault.vault_config() + QUIET));
        let socket = agent.socket();
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut kms = Kms::connect(&socket).await;
        while kms.status().await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.add(vec![started.elapsed()]);
    }
    println!("-- process start to the first good Status: {} ms", {
        let mut millis: Vec<f64> = times.p50.iter().map(|micros| micros / 1000.0).collect();
        let middle = middle(&mut millis);
        format!("{middle:.0} ({:.0}–{:.0})", millis[0], millis[millis.len() - 1])
    });
}
