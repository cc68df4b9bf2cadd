//! `kms-plugin rewrite` side by side with `kubectl get | kubectl replace`, for `.ci/scheduled`.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::cluster::{Cluster, Writers};
use super::large::size;
use crate::apiserver::Client;
use crate::encryption::PROVIDER;
use crate::support::memory::{PEAK, memory};

/// The size of each object's text.
const TEXT: usize = 1024;
/// Writes a second of others, meanwhile.
const WRITES: usize = 200;

/// What it cost to rewrite everything.
#[derive(Debug)]
struct Cost {
    took: Duration,
    /// The most memory of all its processes, in KiB.
    memory: u64,
    /// Objects that it reported as not written.
    failures: usize,
    /// What went through the pipe.
    piped: u64,
}

/// Both in one cluster, one after the other, under the writes of others; then both in a cluster that audits what they send
/// and get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: .ci/scheduled runs it"]
async fn side_by_side_with_kubectl() {
    let (secrets, configmaps) = (size("KMS_E2E_SECRETS", 5_000), size("KMS_E2E_CONFIGMAPS", 2_000));
    let what = format!("of {secrets} Secrets and {configmaps} ConfigMaps with a text of {TEXT} bytes");
    let cluster = Cluster::start().await;
    fill(&cluster.api.client, secrets, configmaps).await;
    for (name, by) in [("kms-plugin rewrite", rewrite as Way), ("kubectl get | kubectl replace", pipe)] {
        let (cost, writes) = under_writes(&cluster, by).await;
        eprintln!(
            "MEASURED rewriting {what} under {writes} writes of others by {name}: {:.1?}, {} MiB of memory at most, {} \
             objects not written, {} KiB through a pipe",
            cost.took,
            cost.memory / 1024,
            cost.failures,
            cost.piped / 1024
        );
    }
    drop(cluster);

    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    let cluster = Cluster::start_with(audit_flags(directory.path())).await;
    fill(&cluster.api.client, secrets, configmaps).await;
    let mut values = Vec::new();
    for (name, by, its) in
        [("kms-plugin", rewrite as Way, is_of_rewrite as Which), ("kubectl", pipe, is_of_kubectl)]
    {
        let begun = std::fs::metadata(&log).unwrap().len();
        under_writes(&cluster, by).await;
        let (requests, bytes) = values_in(&log, begun, its);
        eprintln!(
            "MEASURED rewriting {what} by {name}: {bytes} bytes of the values of Secrets in {requests} requests and their answers"
        );
        assert!(requests >= secrets / 500, "{name}: the audit log has {requests} requests");
        values.push(bytes);
    }
    assert_eq!(values[0], 0, "a value left the API server");
    assert!(values[1] > (secrets * TEXT) as u64, "the values of kubectl are not seen: {values:?}");
}

/// A way to rewrite everything.
type Way = fn(&Cluster) -> Cost;

/// After a rotation, while others write: no write of theirs is lost, and everything is under the new key. Returns how many
/// writes there were, too.
async fn under_writes(cluster: &Cluster, by: Way) -> (Cost, usize) {
    let key_id = cluster.rotate().await;
    cluster.api.client.writes_under(&cluster.etcd, PROVIDER, &key_id).await;
    let writers = Writers::start(&cluster.api.client, WRITES);
    let cost = tokio::task::block_in_place(|| by(cluster));
    let writes = writers.stop(&cluster.api.client).await;
    cluster.all_under(&key_id).await;
    (cost, writes)
}

async fn fill(client: &Client, secrets: usize, configmaps: usize) {
    let text = "t".repeat(TEXT);
    for (resource, objects) in [("secrets", secrets), ("configmaps", configmaps)] {
        let names = (0..objects).map(|number| format!("object-{number:06}"));
        futures_util::stream::iter(names)
            .map(async |name| client.write(resource, &name, &text).await.unwrap())
            .buffer_unordered(16)
            .collect::<()>()
            .await;
    }
}

/// It also proves in etcd that everything is under the new key.
fn rewrite(cluster: &Cluster) -> Cost {
    let began = Instant::now();
    let run = cluster.begin(&cluster.etcd_arguments());
    let memory = wait_for(&mut [run], &[true]);
    Cost { took: began.elapsed(), memory, failures: 0, piped: 0 }
}

/// As it was done before. It proves nothing.
fn pipe(cluster: &Cluster) -> Cost {
    let directory = cluster.agent.directory.path();
    let errors = directory.join("kubectl.log");
    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new(crate::path_of("KMS_E2E_KUBECTL"));
        command.arg("--kubeconfig").arg(cluster.api.kubeconfig());
        command.arg("--cache-dir").arg(directory.join("kubectl-cache")).args(arguments);
        command
    };
    let began = Instant::now();
    let mut get = kubectl(&["get", "secrets,configmaps", "-A", "-o", "json"]);
    let mut get = get.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut replace = kubectl(&["replace", "-f", "-"]);
    let written = std::fs::File::create(&errors).unwrap();
    let mut replace = replace.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(written).spawn().unwrap();
    let (mut from, mut to) = (get.stdout.take().unwrap(), replace.stdin.take().unwrap());
    // The pipe, which counts.
    let piped = std::thread::spawn(move || std::io::copy(&mut from, &mut to).unwrap());
    let memory = wait_for(&mut [get, replace], &[true, false]);
    let failures = std::fs::read_to_string(&errors).unwrap();
    let failures = failures.lines().filter(|line| line.starts_with("Error from server")).count();
    Cost { took: began.elapsed(), memory, failures, piped: piped.join().unwrap() }
}

/// Waits until all have ended: the most memory of them together. `must` says which ones must end well: kubectl fails
/// where one object was not written.
fn wait_for(processes: &mut [Child], must: &[bool]) -> u64 {
    let mut peaks = vec![0; processes.len()];
    loop {
        let mut running = 0;
        for ((process, peak_of), must) in processes.iter_mut().zip(&mut peaks).zip(must) {
            *peak_of = memory(process.id(), PEAK).unwrap_or_default().max(*peak_of);
            match process.try_wait().unwrap() {
                Some(status) => assert!(status.success() || !must, "{status}"),
                None => running += 1,
            }
        }
        if running == 0 {
            return peaks.iter().sum();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Flags of an API server that writes down every request for Secrets, and its answer, in this folder.
fn audit_flags(directory: &std::path::Path) -> &'static [&'static str] {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "RequestResponse", "resources": [{ "group": "", "resources": ["secrets"] }] },
            { "level": "None" },
        ],
    });
    std::fs::write(directory.join("policy.yaml"), policy.to_string()).unwrap();
    let flag = |name: &str, file: &str| format!("--{name}={}", directory.join(file).display());
    let flags = [flag("audit-policy-file", "policy.yaml"), flag("audit-log-path", "audit.log")];
    let flags = flags.map(|flag| &*flag.leak());
    vec![flags[0], flags[1], "--audit-log-maxsize=10000"].leak()
}

/// Whether a request in the audit log is one of a program's.
type Which = fn(&Value) -> bool;

fn is_of_rewrite(event: &Value) -> bool {
    event["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kms-plugin/"))
}

fn is_of_kubectl(event: &Value) -> bool {
    event["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl"))
}

/// What the audit log has of one program's requests from this place on: how many, and the size of the values in them
/// and in their answers.
fn values_in(log: &std::path::Path, begun: u64, its: Which) -> (usize, u64) {
    use std::io::{Seek as _, SeekFrom};
    let (mut text, mut file) = (String::new(), std::fs::File::open(log).unwrap());
    file.seek(SeekFrom::Start(begun)).unwrap();
    file.read_to_string(&mut text).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(its).fold((0, 0), |(requests, bytes), event| {
        let objects = ["requestObject", "responseObject"].map(|object| &event[object]);
        (requests + 1, bytes + objects.into_iter().map(values_of).sum::<u64>())
    })
}

/// The size of the values of a Secret, or of those in a list, as they are sent: in base64.
fn values_of(object: &Value) -> u64 {
    let one = |object: &Value| {
        let data = object["data"].as_object().into_iter().flat_map(|data| data.values());
        data.map(|value| value.as_str().map_or(0, str::len) as u64).sum::<u64>()
    };
    one(object) + object["items"].as_array().into_iter().flatten().map(one).sum::<u64>()
}
