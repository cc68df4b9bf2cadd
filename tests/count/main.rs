//! What one call costs the agent, counted: instructions and allocations, which a busy machine does not change.
//! tests/count/run runs this.
//!
//! The real binary runs under valgrind. Only this process is counted: the server and the caller are others. The same run
//! is made twice, once with more calls of one kind; the difference is what those calls cost. So the start, the login and
//! the end are not in the figures. Vault is reached over TLS 1.3, on a connection that is kept.
//!
//! valgrind runs the program on a processor of its own, with a fixed set of features (AVX2, AES-NI, no AVX-512; see
//! `valgrind --help`), whatever the machine has. By these, aws-lc and glibc choose their code. Where the host lacks AVX2,
//! valgrind's processor lacks it, too; then the figures do not compare.

#![allow(clippy::restriction)] // a test that fails panics
#![allow(unreachable_pub)] // nobody uses a test program as a library

#[path = "../integration/support/mod.rs"]
#[allow(dead_code)] // the other tests' support code, of which a part is used
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use support::agent::{Agent, QUIET};
use support::kms::SEED;
use support::pki::Pki;
use support::product::Product;
use support::vault::Vault;

/// Calls of the kind that is counted, and of each kind before.
const CALLS: usize = 1_000;
const WARM: usize = 50;
/// How often all is counted; the least counts: threads that look for work in vain add to it.
const ROUNDS: usize = 2;
/// How much more instructions may be than those that are kept. Rounds of one binary differ by 2 to 5 %: the agent has two
/// threads, and which of them finds work first is different each time.
const INSTRUCTIONS: f64 = 0.05;
/// The same of allocations, which hardly differ.
const ALLOCATIONS: f64 = 0.03;
/// What allocates, in glibc and in musl.
const ALLOCATORS: [&str; 6] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"];
/// The figures that are kept.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/count/counted.toml");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Status,
    Encrypt,
    Decrypt,
}

/// What one call costs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Counted {
    /// What the figures were counted with. Others may differ by more than the tolerance, without a reason in this project.
    with: BTreeMap<String, String>,
    calls: BTreeMap<String, Cost>,
}

/// Calls the agent, and returns the totals of the whole process.
async fn run(vault: &Vault, pki: &Pki, more: Option<Kind>) -> Cost {
    let directory = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("KMS_COUNT_KEEP").map_or_else(|| directory.path().to_owned(), PathBuf::from);
    let output =
        keep.join(format!("callgrind.{}", more.map_or("none".to_owned(), |kind| format!("{kind:?}"))));
    let trusted = format!("[vault]\nca_file = {:?}\n", pki.ca);
    let config = vault.vault_config().replacen("[vault]\n", &trusted, 1) + QUIET;
    let written = format!("--callgrind-out-file={}", output.display());
    let mut agent = Agent::start_with(directory, &config, |command| {
        // One processor: the agent has more threads on a larger machine.
        let mut valgrind = Command::new("taskset");
        valgrind.args([
            "--cpu-list",
            "0",
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
            &written,
        ]);
        valgrind.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => valgrind.env(name, value),
                None => valgrind.env_remove(name),
            };
        }
        valgrind.env_remove("OPENSSL_ia32cap");
        valgrind
    });
    // Not by questions to the agent: their number would depend on how long its start takes.
    agent.wait_for_log("ready: transit/keys/").await;
    let mut kms = agent.kms().await;
    let wrapped = kms.round_trip().await;
    for kind in [Kind::Status, Kind::Encrypt, Kind::Decrypt] {
        let calls = WARM + if more == Some(kind) { CALLS } else { 0 };
        for _ in 0..calls {
            match kind {
                Kind::Status => assert_eq!(kms.status().await.unwrap().healthz, "ok"),
                Kind::Encrypt => drop(kms.encrypt(&SEED).await.unwrap()),
                Kind::Decrypt => assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED),
            }
        }
    }
    drop(kms);
    assert!(agent.stop().await.success(), "{}", agent.log());
    totals(&std::fs::read_to_string(output).unwrap())
}

/// The totals in a file of callgrind's: instructions, and calls of allocators.
fn totals(file: &str) -> Cost {
    let (mut instructions, mut allocations, mut allocates) = (None, 0, false);
    for line in file.lines() {
        if let Some(total) = line.strip_prefix("totals: ") {
            instructions = total.trim().parse::<u64>().ok();
        } else if let Some(name) = line.strip_prefix("cfn=") {
            allocates = ALLOCATORS.contains(&name);
        } else if let Some(calls) = line.strip_prefix("calls=").filter(|_| allocates) {
            allocations += calls.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    let instructions = instructions.expect("callgrind's file has a total");
    assert!(allocations > 0, "callgrind's file names no allocator");
    Cost { instructions: instructions as f64, allocations: allocations as f64 }
}

/// What one call of each kind costs, by these calls.
async fn count(vault: &Vault, pki: &Pki) -> BTreeMap<String, Cost> {
    let kinds = [Kind::Status, Kind::Encrypt, Kind::Decrypt];
    let mut least: BTreeMap<String, Cost> = BTreeMap::new();
    for round in 1..=ROUNDS {
        let base = run(vault, pki, None).await;
        for kind in kinds {
            let with = run(vault, pki, Some(kind)).await;
            let each = |with: f64, base: f64| ((with - base) / CALLS as f64 * 10.0).round() / 10.0;
            let cost = Cost {
                instructions: each(with.instructions, base.instructions).round(),
                allocations: each(with.allocations, base.allocations),
            };
            println!("round {round}: {kind:?}: {cost:?}");
            let kept = least.entry(format!("{kind:?}")).or_insert(cost);
            kept.instructions = kept.instructions.min(cost.instructions);
            kept.allocations = kept.allocations.min(cost.allocations);
        }
    }
    least
}

/// What the figures depend on, beside the program.
fn surroundings() -> BTreeMap<String, String> {
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let avx2 = cpu.lines().any(|line| line.starts_with("flags") && line.contains(" avx2 "));
    BTreeMap::from([
        ("compiler".to_owned(), said("rustc", "--version")),
        ("libc".to_owned(), said("ldd", "--version")),
        ("processor".to_owned(), format!("valgrind's, {} AVX2", if avx2 { "with" } else { "without" })),
        ("server".to_owned(), said(Product::OpenBao.program().to_str().unwrap(), "version")),
        ("valgrind".to_owned(), said("valgrind", "--version")),
    ])
}

// On one thread: then a request always leaves in the same pieces, and the agent reads it in as many.
#[tokio::test]
async fn no_call_costs_more_than_before() {
    let binary = std::env::var_os("KMS_TESTED_BINARY").expect("tests/count/run names the release binary");
    assert!(Path::new(&binary).is_file(), "{} is not there", Path::new(&binary).display());
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::with_tls(&pki).await;
    let counted = Counted { with: surroundings(), calls: count(&vault, &pki).await };
    let text = toml::to_string(&counted).unwrap();
    println!("{text}");
    if std::env::var_os("KMS_COUNT_WRITE").is_some() {
        std::fs::write(
            KEPT,
            format!("# What one call costs the agent: written by `tests/count/run --write`.\n{text}"),
        )
        .unwrap();
        return;
    }
    let kept: Counted = toml::from_str(&std::fs::read_to_string(KEPT).unwrap()).unwrap();
    assert_eq!(kept.calls.keys().collect::<Vec<_>>(), counted.calls.keys().collect::<Vec<_>>());
    let mut worse = Vec::new();
    for (kind, now) in &counted.calls {
        let before = kept.calls[kind];
        for (what, now, before, tolerance) in [
            ("instructions", now.instructions, before.instructions, INSTRUCTIONS),
            ("allocations", now.allocations, before.allocations, ALLOCATIONS),
        ] {
            if now > before * (1.0 + tolerance) {
                worse.push(format!("{kind}: {now} {what}, and {before} are kept"));
            }
        }
    }
    let other = if kept.with == counted.with {
        String::new()
    } else {
        format!("\nbut they were counted with other tools: {:#?}, now {:#?}", kept.with, counted.with)
    };
    assert!(
        worse.is_empty(),
        "{}{other}\nif that is meant, and said in CHANGELOG.md: tests/count/run --write",
        worse.join("\n")
    );
}
