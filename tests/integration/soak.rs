//! A soak: four agents under steady traffic for two hours, while keys are rotated, configurations reloaded, agents
//! killed, restarted, upgraded and downgraded, and the server is away for a moment. Each answer is checked, and what fails
//! must fail in a moment that allows it. It draws memory and failed calls over time into docs/soak.svg:
//!
//! ```text
//! KMS_SOAK_MINUTES=120 tests/soak/run
//! ```
//!
//! Two agents wrap with Transit, two with local KEKs. Of each pair, one is never restarted: what grows, grows there. The
//! script names the executable of the last release in `KMS_SOAK_OTHER`; without one, restarts stay restarts.

mod chart;
mod member;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep_until;

use self::chart::{Chart, Sample};
use self::member::Member;
use self::traffic::Failure;
use crate::support::agent::LOCAL_KEK;
use crate::support::product::Product;
use crate::support::vault::Vault;

/// What happens in each cycle, and when: a part of the cycle.
const EVENTS: [(f64, Event); 4] =
    [(0.1, Event::Rotation), (0.3, Event::Reload), (0.45, Event::Restart), (0.7, Event::Outage)];
/// How long the server is away each time.
const AWAY: Duration = Duration::from_secs(10);
/// After an event's end, calls that began in it may still fail: kube-apiserver's deadline.
const SLACK: Duration = Duration::from_secs(3);
/// Without events before the end, so that it is quiet.
const QUIET_END: Duration = Duration::from_secs(20);
/// What memory may grow by, from the second fifth of the soak to the last one.
const GROWTH: f64 = 1.2;
/// More than this many MiB are not measured noise.
const NOISE: f64 = 2.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Rotation,
    Reload,
    Restart,
    Outage,
}

/// The moments in which a call to one kind of agent may fail.
#[derive(Clone, Copy)]
struct Allowed {
    what: &'static str,
    from: Instant,
    until: Instant,
    /// Whether this one's calls may fail.
    whose: fn(&Member) -> bool,
}

impl Allowed {
    fn covers(&self, member: &Member, failure: &Failure) -> bool {
        (self.whose)(member) && failure.ended >= self.from && failure.began <= self.until
    }
}

fn length() -> Duration {
    let minutes = std::env::var("KMS_SOAK_MINUTES").map_or(120.0, |text| text.parse::<f64>().unwrap());
    Duration::from_secs_f64(minutes * 60.0)
}

/// The soak so far.
struct Soak {
    vault: Vault,
    members: Vec<Member>,
    /// The executable of another version.
    other: Option<PathBuf>,
    started: Instant,
    allowed: Vec<Allowed>,
    /// The time in seconds, and what it was.
    marks: Vec<(f64, &'static str)>,
}

impl Soak {
    fn mark(&mut self, what: &'static str) {
        self.marks.push((self.started.elapsed().as_secs_f64(), what));
    }

    fn allow(&mut self, what: &'static str, from: Instant, whose: fn(&Member) -> bool) {
        self.allowed.push(Allowed { what, from, until: Instant::now() + SLACK, whose });
    }

    /// What its restarts are.
    fn restarts(&self) -> &'static str {
        if self.other.is_some() { "other version" } else { "restart" }
    }

    async fn perform(&mut self, event: Event, cycle: usize) {
        let from = Instant::now();
        match event {
            Event::Rotation => {
                self.mark("rotation");
                self.vault.rotate().await;
            }
            Event::Reload => {
                self.mark("reload");
                let interval = ["14s", "15s"][cycle % 2];
                for member in &mut self.members {
                    member.reload(interval).await;
                }
            }
            Event::Restart if cycle.is_multiple_of(2) => {
                self.mark("kill -9");
                for member in self.members.iter_mut().filter(|member| member.is_restarted) {
                    member.kill_and_start().await;
                }
                self.allow("kill -9", from, |member| member.is_restarted);
            }
            Event::Restart => {
                self.mark(self.restarts());
                for member in self.members.iter_mut().filter(|member| member.is_restarted) {
                    member.stop_and_start(self.other.as_deref()).await;
                }
                self.allow("a restart", from, |member| member.is_restarted);
            }
            Event::Outage => {
                self.mark("outage");
                self.vault.kill();
                tokio::time::sleep(AWAY).await;
                self.vault.restart().await;
                for member in &self.members {
                    member.ready().await;
                }
                // Local KEKs need no server.
                self.allow("an outage", from, |member| !member.has_local_keks);
            }
        }
        // It would fill the disk.
        fs::OpenOptions::new().write(true).open(self.vault.file("audit.log")).unwrap().set_len(0).unwrap();
    }

    /// All events of the soak, in their order and at their times.
    async fn events(&mut self, length: Duration) {
        let cycle = (length / 12).clamp(Duration::from_secs(50), Duration::from_secs(300));
        for number in 0.. {
            for (part, event) in EVENTS {
                let at = self.started + cycle.mul_f64(f64::from(number) + part);
                // The last event needs its time, too.
                if at + 2 * AWAY + QUIET_END > self.started + length {
                    return sleep_until((self.started + length).into()).await;
                }
                sleep_until(at.into()).await;
                self.perform(event, usize::try_from(number).unwrap()).await;
            }
        }
    }

    fn count(&self, what: &str) -> usize {
        self.marks.iter().filter(|(_, mark)| *mark == what).count()
    }

    /// Tells how a member fared. Fails where a call failed outside of what allows it, or where memory grew.
    fn judge(&self, member: &Member, samples: &[Sample]) {
        let seen = member.traffic.seen();
        let (mut allowed, mut unexpected) = (std::collections::BTreeMap::<_, usize>::new(), Vec::new());
        for failure in &seen.failures {
            match self.allowed.iter().find(|one| one.covers(member, failure)) {
                Some(one) => *allowed.entry(one.what).or_default() += 1,
                None => unexpected
                    .push(format!("{:?} after the start: {failure:?}", failure.began - self.started)),
            }
        }
        let memory: Vec<f64> = samples.iter().filter_map(|sample| sample.memory[member.number]).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / f64::from(u32::try_from(part.len()).unwrap());
        let fifth = memory.len() / 5;
        let (early, last) = (mean(&memory[fifth..2 * fifth]), mean(&memory[4 * fifth..]));
        let most = memory.iter().copied().fold(0.0, f64::max);
        eprintln!(
            "MEASURED soak, {}: {} calls, {} of them failed {allowed:?}, slowest good call {:.2} s; \
             {early:.1} MiB in the second fifth, {last:.1} in the last one, {most:.1} at most",
            member.name,
            seen.calls,
            seen.failures.len(),
            seen.slowest.as_secs_f64(),
        );
        assert!(
            unexpected.is_empty(),
            "{}: {} unexpected failures: {:#?}",
            member.name,
            unexpected.len(),
            unexpected.first()
        );
        assert!(last < early * GROWTH + NOISE, "{} grew from {early:.1} to {last:.1} MiB", member.name);
    }
}

/// Samples memory and failed calls until it is dropped.
async fn sample(
    members: Vec<member::View>,
    started: Instant,
    every: Duration,
    samples: Arc<std::sync::Mutex<Vec<Sample>>>,
) {
    let mut ticks = tokio::time::interval(every);
    let mut before = vec![0; members.len()];
    loop {
        ticks.tick().await;
        let failed: Vec<usize> = members.iter().map(|member| member.traffic.failed()).collect();
        samples.lock().unwrap().push(Sample {
            at: started.elapsed().as_secs_f64(),
            memory: members.iter().map(member::View::memory).collect(),
            failed: failed.iter().zip(&before).map(|(now, before)| now - before).collect(),
        });
        before = failed;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes two hours, or KMS_SOAK_MINUTES"]
async fn of_two_hours_under_rotation_restarts_upgrades_and_outages() {
    let length = length();
    let vault = Vault::persistent().await;
    let health = vault.request(Method::GET, "sys/health", Value::Null, "").await.1;
    let mut members = Vec::new();
    for (number, (name, local_keks, is_restarted)) in [
        ("direct", "", false),
        ("direct, restarted", "", true),
        ("local KEKs", LOCAL_KEK, false),
        ("local KEKs, restarted", LOCAL_KEK, true),
    ]
    .into_iter()
    .enumerate()
    {
        let config = vault.vault_config() + local_keks;
        members.push(Member::start(number, name, config, !local_keks.is_empty(), is_restarted).await);
    }
    let started = Instant::now();
    let traffic: Vec<_> = members.iter().map(Member::begin).collect();
    let samples = Arc::<std::sync::Mutex<Vec<Sample>>>::default();
    let every = (length / 500).clamp(Duration::from_secs(1), Duration::from_secs(15));
    let sampler =
        tokio::spawn(sample(members.iter().map(Member::view).collect(), started, every, samples.clone()));
    let other = std::env::var_os("KMS_SOAK_OTHER").map(PathBuf::from);
    let mut soak = Soak { vault, members, other, started, allowed: Vec::new(), marks: Vec::new() };
    soak.events(length).await;
    sampler.abort();
    for member in &soak.members {
        member.traffic.end();
    }
    for one in traffic {
        one.await.expect("a wrong answer");
    }
    let lasted = started.elapsed();

    // Each node reads what its neighbour has written, from the first value to the last.
    for [one, other] in [[0, 1], [1, 0], [2, 3], [3, 2]] {
        let kept = soak.members[one].traffic.kept();
        assert!(kept.len() > 50, "{}", kept.len());
        let mut kms = soak.members[other].kms().await;
        for (plaintext, wrapped) in kept {
            assert_eq!(kms.decrypt(&wrapped).await.unwrap(), plaintext, "{one} read by {other}");
        }
    }

    let samples = samples.lock().unwrap().clone();
    let server = format!("{} {}", Product::chosen().name(), health["version"].as_str().unwrap());
    let minutes = lasted.as_secs_f64() / 60.0;
    let build = if cfg!(debug_assertions) && std::env::var_os("KMS_TESTED_BINARY").is_none() {
        "debug"
    } else {
        "release"
    };
    let calls: usize = soak.members.iter().map(|member| member.traffic.seen().calls).sum();
    let kinds = ["rotation", "reload", "kill -9", soak.restarts(), "outage"];
    let counts = kinds.map(|what| (what, soak.count(what)));
    eprintln!(
        "MEASURED soak of {minutes:.1} minutes, {build} build, {server}: {calls} calls, no wrong byte; {counts:?}"
    );
    let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output().unwrap().stdout;
    let date = String::from_utf8(date).unwrap();
    let chart = Chart {
        title: format!("A soak of {minutes:.1} minutes, {}, {build} build, on {server}", date.trim()),
        names: soak.members.iter().map(|member| member.name).collect(),
        samples: &samples,
        kinds,
        marks: &soak.marks,
        seconds: lasted.as_secs_f64(),
    };
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/soak.svg"), chart.svg()).unwrap();
    for (what, count) in counts {
        assert!(count > 0, "the soak was too short for one {what}");
    }
    for member in &soak.members {
        soak.judge(member, &samples);
    }
}
