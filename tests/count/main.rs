//! What one call costs the agent, counted: instructions and allocations, which a busy machine does not change.
//! tests/count/run runs this.
//!
//! The real binary runs under valgrind. Only this process is counted: the server and the caller are others. Calls are made
//! in batches of one kind, and valgrind writes its counts down after each batch. So the start, the login and the end are
//! not in the figures; and what the agent does by the clock falls into few of the batches, of which the least one counts.
//! Vault is reached over TLS 1.3, on a connection that is kept.
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

use kms_plugin::proto::EncryptResponse;
use serde::{Deserialize, Serialize};
use support::agent::{Agent, QUIET};
use support::kms::{Kms, SEED};
use support::pki::Pki;
use support::product::Product;
use support::vault::Vault;

/// Batches of each kind, calls in a batch, and calls of each kind before.
const BATCHES: usize = 40;
const CALLS: usize = 25;
const WARM: usize = 50;
/// How much more instructions, and allocations, may be than those that are kept.
const TOLERANCE: f64 = 0.03;
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

/// What one call of each kind costs.
async fn count(vault: &Vault, pki: &Pki) -> BTreeMap<String, Cost> {
    let directory = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("KMS_COUNT_KEEP").map_or_else(|| directory.path().to_owned(), PathBuf::from);
    let output = keep.join("callgrind");
    let trusted = format!("[vault]\nca_file = {:?}\n", pki.ca);
    let config = vault.vault_config().replacen("[vault]\n", &trusted, 1) + QUIET;
    let written = format!("--callgrind-out-file={}", output.display());
    let mut agent = Agent::start_with(directory, &config, |command| {
        // Behind the caller, with which it shares a processor: it wakes when a request is there as a whole. Else it
        // would read some requests in two pieces, which costs more, and more often on a quiet machine.
        let mut valgrind = Command::new("nice");
        valgrind.args([
            "--adjustment=5",
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
    let kinds = [Kind::Status, Kind::Encrypt, Kind::Decrypt];
    for kind in kinds {
        kind.call(&mut kms, &wrapped, WARM).await;
    }
    let mut dumps = 0;
    // The file gets the name of what it counted, for people who read it.
    let mut dump = |name: &str| {
        let asked = format!("--pid={}", agent.pid());
        let answer = Command::new("vgdb").args([&asked, "dump"]).output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        dumps += 1;
        let file = keep.join(format!("callgrind.{name}"));
        std::fs::rename(keep.join(format!("callgrind.{dumps}")), &file).unwrap();
        totals(&std::fs::read_to_string(file).unwrap())
    };
    dump("before");
    let mut batches: BTreeMap<String, Vec<Cost>> = BTreeMap::new();
    for batch in 1..=BATCHES {
        for kind in kinds {
            kind.call(&mut kms, &wrapped, CALLS).await;
            batches.entry(format!("{kind:?}")).or_default().push(dump(&format!("{kind:?}.{batch}")));
        }
    }
    drop(kms);
    assert!(agent.stop().await.success(), "{}", agent.log());
    let each = |total: f64| (total / CALLS as f64 * 10.0).round() / 10.0;
    let least = |name: &str, batches: &[Cost], figure: fn(&Cost) -> f64| {
        let mut figures: Vec<f64> = batches.iter().map(|cost| each(figure(cost))).collect();
        figures.sort_by(f64::total_cmp);
        println!("{name}: {figures:?}");
        figures[0]
    };
    let cost = |name: &str, batches: &[Cost]| Cost {
        instructions: least(name, batches, |cost| cost.instructions).round(),
        allocations: least(name, batches, |cost| cost.allocations),
    };
    batches.iter().map(|(name, batches)| (name.clone(), cost(name, batches))).collect()
}

impl Kind {
    async fn call(self, kms: &mut Kms, wrapped: &EncryptResponse, times: usize) {
        for _ in 0..times {
            match self {
                Kind::Status => assert_eq!(kms.status().await.unwrap().healthz, "ok"),
                Kind::Encrypt => drop(kms.encrypt(&SEED).await.unwrap()),
                Kind::Decrypt => assert_eq!(kms.decrypt(wrapped).await.unwrap(), SEED),
            }
        }
    }
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
        for (what, now, before) in [
            ("instructions", now.instructions, before.instructions),
            ("allocations", now.allocations, before.allocations),
        ] {
            if now > before * (1.0 + TOLERANCE) {
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
