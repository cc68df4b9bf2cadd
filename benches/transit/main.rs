//! What a plugin adds to a call of Transit, on one OpenBao over TLS, in one run: `cargo bench`.
//!
//! Each round makes these calls, one kind after the other: raw Transit calls by the libraries that the agent uses, and
//! calls through each plugin's socket. So a noisy machine disturbs all of them alike, and only figures of one round are
//! compared. The tables show the median of the rounds and, in brackets, the lowest and the highest round.
//!
//! Other plugins are compared, too: `KMS_BENCH_OTHERS=NAME=PROGRAM,NAME=PROGRAM`. The program becomes the plugin. It finds
//! in its environment `BENCH_SOCKET`, where it has to listen; `BENCH_DIR`, a directory of its own with `token`;
//! `BENCH_ROLE_ID_FILE` and `BENCH_SECRET_ID_FILE`; `VAULT_ADDR`, `VAULT_CACERT` and `VAULT_TOKEN`. `KMS_BENCH_POLICY` adds
//! to the policy of all.

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

mod raw;
mod rounds;
mod subject;
#[path = "../../tests/integration/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use raw::Transit;
use rounds::{Rounds, percentile};
use subject::{Running, Subject};
use support::kms::SEED;
use support::memory::{ANONYMOUS, RESIDENT};
use support::pki::Pki;
use support::vault::{KEY, Vault, policy};
use tokio::task::JoinSet;

/// Rounds that count. One more before them warms up.
const ROUNDS: usize = 5;
/// Calls of one kind in one round, on one connection.
const CALLS: usize = 500;
/// Connections at the same time, in the calls with load.
const CONNECTIONS: usize = 8;
/// Calls of one kind in one round, on all of these connections.
const LOADED: usize = 2_000;
/// Operations before the memory is read: half of them Encrypt, half Decrypt.
const OPERATIONS: usize = 20_000;
/// DEK seeds that another node has wrapped: of a young cluster, and of one that has restarted its API servers for years.
const SEEDS: [usize; 2] = [500, 5_000];

/// A plugin that runs, and its figures.
struct Measured {
    subject: Subject,
    running: Running,
    figures: Figures,
}

/// Of one plugin, or of Transit itself. Times are medians of one round's calls, in microseconds.
#[derive(Default)]
struct Figures {
    encrypt: Rounds,
    decrypt: Rounds,
    status: Rounds,
    /// Calls a second on all connections.
    encrypts: Rounds,
    decrypts: Rounds,
}

fn main() {
    // Cargo's own arguments say nothing to this program.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::with_tls(&pki).await;
    let more = std::env::var("KMS_BENCH_POLICY").unwrap_or_default();
    vault.put_policy("kms", &(policy("transit", KEY) + &more)).await;
    let transit = Transit::new(&vault, &pki).await;

    start(&vault, &pki, &transit).await;

    let mut all = Vec::new();
    for subject in Subject::all() {
        let running = subject.start(&vault, &pki, &transit).await;
        all.push(Measured { subject, running, figures: Figures::default() });
    }
    let mut raw = Figures::default();
    for round in 0..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        let figures = raw_round(&transit).await;
        if round > 0 {
            raw.add(&figures);
        }
        for one in &mut all {
            let figures = plugin_round(&one.running).await;
            if round > 0 {
                one.figures.add(&figures);
            }
        }
    }
    times(&raw, &all);
    drop(all);

    println!(
        "\n| | processor s for 10,000 Encrypts | resident MiB after {OPERATIONS} operations | of it anonymous | executable MiB | Vault requests for 1,000 Encrypts, Decrypts, Statuses |"
    );
    println!("|---|---|---|---|---|---|");
    for subject in Subject::all() {
        work(&subject, &vault, &pki, &transit).await;
    }

    println!(
        "\n| | seeds of another node | unwrapped in | requests to Vault | resident MiB |\n|---|---|---|---|---|"
    );
    for subject in [Subject::Direct, Subject::LocalKek] {
        seeds(&subject, &vault, &pki, &transit).await;
    }
}

impl Figures {
    fn add(&mut self, round: &Self) {
        self.encrypt.0.extend(&round.encrypt.0);
        self.decrypt.0.extend(&round.decrypt.0);
        self.status.0.extend(&round.status.0);
        self.encrypts.0.extend(&round.encrypts.0);
        self.decrypts.0.extend(&round.decrypts.0);
    }
}

async fn raw_round(transit: &Transit) -> Figures {
    let mut connection = transit.connect().await;
    let ciphertext = connection.encrypt().await;
    let loaded = async |encrypts: bool| {
        let mut workers = Vec::new();
        for _ in 0..CONNECTIONS {
            let (mut connection, ciphertext) = (transit.connect().await, ciphertext.clone());
            workers.push(async move {
                for _ in 0..LOADED / CONNECTIONS {
                    if encrypts {
                        connection.encrypt().await;
                    } else {
                        connection.decrypt(&ciphertext).await;
                    }
                }
            });
        }
        a_second(LOADED, workers).await
    };
    Figures {
        encrypt: p50(async || drop(connection.encrypt().await)).await,
        decrypt: p50(async || connection.decrypt(&ciphertext).await).await,
        status: Rounds::default(),
        encrypts: loaded(true).await,
        decrypts: loaded(false).await,
    }
}

async fn plugin_round(plugin: &Running) -> Figures {
    let mut kms = plugin.connect().await;
    let wrapped = kms.round_trip().await;
    Figures {
        encrypt: p50(async || drop(kms.encrypt(&SEED).await.unwrap())).await,
        decrypt: p50(async || assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED)).await,
        status: p50(async || drop(kms.status().await.unwrap())).await,
        encrypts: loaded(plugin, LOADED, true).await,
        decrypts: loaded(plugin, LOADED, false).await,
    }
}

/// Makes [`CALLS`] calls, one after the other; returns the median of their times.
async fn p50(mut call: impl AsyncFnMut()) -> Rounds {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let started = Instant::now();
        call().await;
        times.push(micros(started));
    }
    Rounds(vec![percentile(times, 50)])
}

/// Makes so many calls of one kind on all connections; returns how many a second.
async fn loaded(plugin: &Running, calls: usize, encrypts: bool) -> Rounds {
    let wrapped = plugin.connect().await.round_trip().await;
    let mut workers = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut kms, wrapped) = (plugin.connect().await, wrapped.clone());
        workers.push(async move {
            for _ in 0..calls / CONNECTIONS {
                if encrypts {
                    kms.encrypt(&SEED).await.unwrap();
                } else {
                    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
                }
            }
        });
    }
    a_second(calls, workers).await
}

/// Runs the workers, which make so many calls in all; returns how many a second.
async fn a_second(calls: usize, workers: Vec<impl Future<Output = ()> + Send + 'static>) -> Rounds {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for worker in workers {
        running.spawn(worker);
    }
    running.join_all().await;
    Rounds(vec![calls as f64 / started.elapsed().as_secs_f64()])
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

fn times(raw: &Figures, all: &[Measured]) {
    println!(
        "\n{ROUNDS} rounds; {CALLS} calls on one connection, {LOADED} on {CONNECTIONS}. Median (lowest–highest).\n"
    );
    println!(
        "| | raw Transit |{}",
        all.iter().map(|one| format!(" {} |", one.subject.name())).collect::<String>()
    );
    println!("|---|---|{}", "---|".repeat(all.len()));
    type Pick = fn(&Figures) -> &Rounds;
    let rows: [(&str, Pick); 5] = [
        ("Encrypt, p50, µs", |figures| &figures.encrypt),
        ("Decrypt, p50, µs", |figures| &figures.decrypt),
        ("Status, p50, µs", |figures| &figures.status),
        ("Encrypts a second, 8 connections", |figures| &figures.encrypts),
        ("Decrypts a second, 8 connections", |figures| &figures.decrypts),
    ];
    for (name, pick) in rows {
        let cells: String = all.iter().map(|one| format!(" {} |", pick(&one.figures).text(0))).collect();
        println!("| {name} | {} |{cells}", pick(raw).text(0));
    }
    for (name, pick) in rows.into_iter().filter(|(name, _)| !name.starts_with("Status")) {
        let ratio = |one: &Measured| format!(" {} |", pick(&one.figures).against(pick(raw)).text(2));
        println!("| {name}: against raw | 1 |{}", all.iter().map(ratio).collect::<String>());
    }
    for (name, pick) in rows.into_iter().take(2) {
        let ratio =
            |one: &Measured| format!(" {} |", pick(&one.figures).against(&one.figures.status).text(2));
        println!("| {name}: against its own Status | |{}", all.iter().map(ratio).collect::<String>());
    }
}

/// What a fresh plugin needs for many calls.
async fn work(subject: &Subject, vault: &Vault, pki: &Pki, transit: &Transit) {
    let plugin = subject.start(vault, pki, transit).await;
    let mut kms = plugin.connect().await;
    let wrapped = kms.round_trip().await;
    let before = plugin.processor();
    loaded(&plugin, OPERATIONS / 2, true).await;
    let processor = (plugin.processor() - before) * 10_000.0 / (OPERATIONS / 2) as f64;
    loaded(&plugin, OPERATIONS / 2, false).await;
    let (resident, anonymous) = (plugin.memory(RESIDENT), plugin.memory(ANONYMOUS));
    let mut requests = Vec::new();
    for kind in 0..3 {
        let before = vault.audited().len();
        for _ in 0..1_000 {
            match kind {
                0 => drop(kms.encrypt(&SEED).await.unwrap()),
                1 => drop(kms.decrypt(&wrapped).await.unwrap()),
                _ => drop(kms.status().await.unwrap()),
            }
        }
        requests.push((vault.audited().len() - before).to_string());
    }
    println!(
        "| {} | {processor:.2} | {resident:.1} | {anonymous:.1} | {:.1} | {} |",
        subject.name(),
        plugin.binary(),
        requests.join(", ")
    );
}

/// What a plugin needs to unwrap many seeds that the one of another node has wrapped, each once.
async fn seeds(subject: &Subject, vault: &Vault, pki: &Pki, transit: &Transit) {
    let node = subject.start(vault, pki, transit).await;
    let mut other = node.connect().await;
    let mut wrapped = Vec::new();
    for number in 0..SEEDS[1] {
        let mut seed = SEED;
        seed[..8].copy_from_slice(&number.to_be_bytes());
        wrapped.push((seed, other.encrypt(&seed).await.unwrap()));
    }
    for count in SEEDS {
        let plugin = subject.start(vault, pki, transit).await;
        let requests = vault.audited().len();
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for part in wrapped[..count].chunks(count / CONNECTIONS + 1) {
            let (mut kms, part) = (plugin.connect().await, part.to_vec());
            workers.spawn(async move {
                for (seed, wrapped) in part {
                    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), seed);
                }
            });
        }
        workers.join_all().await;
        let (took, resident) = (started.elapsed(), plugin.memory(RESIDENT));
        let requests = vault.audited().len() - requests;
        println!("| {} | {count} | {took:.2?} | {requests} | {resident:.1} |", subject.name());
    }
}

/// From the start of the process to the first good Status, beside the time of the same requests by the benchmark itself.
async fn start(vault: &Vault, pki: &Pki, transit: &Transit) {
    let (mut whole, mut beyond) = (Rounds::default(), Rounds::default());
    for _ in 0..=ROUNDS * 2 {
        let began = Instant::now();
        transit.connect().await.start(vault).await;
        let own = micros(began) / 1e3;
        let began = Instant::now();
        let running = Subject::Direct.start(vault, pki, transit).await;
        let time = micros(began) / 1e3;
        drop(running);
        whole.0.push(time);
        beyond.0.push(time - own);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!(
        "process start to the first good Status: {} ms, {} beyond the time of Vault's answers",
        whole.text(1),
        beyond.text(1)
    );
}
