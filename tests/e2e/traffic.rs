//! Clients that read, write and list Secrets without a pause, and check every text.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::apiserver::{Client, text_of};
use crate::support::eventually;

/// Secrets that the clients of one API server overwrite, and the clients of all API servers read.
const OBJECTS: usize = 5;
/// The least number of requests.
const LEAST: usize = 100;
const PREFIX: &str = "traffic-";

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    List,
    Write,
    Ready,
}

/// A request's end.
#[derive(Clone, Debug)]
pub struct Done {
    pub kind: Kind,
    pub ended: Instant,
    pub took: Duration,
    /// Why it failed.
    pub failed: Option<String>,
}

/// Running traffic.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: JoinSet<Vec<Done>>,
}

impl Traffic {
    /// Writes the first texts through each of these API servers, then starts clients at each.
    pub async fn start(servers: &[&Client]) -> Self {
        let names: Arc<Vec<String>> = Arc::new((0..servers.len()).flat_map(names_of).collect());
        for (server, client) in servers.iter().enumerate() {
            for name in names_of(server) {
                client.write("secrets", &name, &text(&name, 0)).await.unwrap();
            }
        }
        let mut clients = JoinSet::new();
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        for (server, client) in servers.iter().enumerate() {
            let own = Arc::new(names_of(server));
            for kind in [Kind::Read, Kind::List, Kind::Write, Kind::Ready] {
                let names = if kind == Kind::Write { own.clone() } else { names.clone() };
                let (stop, asked, client) = (stop.clone(), asked.clone(), (*client).clone());
                clients.spawn(async move {
                    let mut all = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let started = Instant::now();
                        let failed = once(kind, &client, &names, all.len()).await.err();
                        all.push(Done { kind, ended: Instant::now(), took: started.elapsed(), failed });
                        asked.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(pause(kind)).await;
                    }
                    all
                });
            }
        }
        Self { stop, asked, clients }
    }

    /// Ends it after enough requests; what was done.
    pub async fn stop(self) -> Seen {
        eventually("traffic", async || {
            let asked = self.asked.load(Ordering::Relaxed);
            if asked < LEAST { Err(format!("{asked} requests")) } else { Ok(()) }
        })
        .await;
        self.stop.store(true, Ordering::Relaxed);
        let mut all = self.clients.join_all().await.concat();
        all.sort_by_key(|done| done.ended);
        Seen(all)
    }
}

/// What the clients have seen.
pub struct Seen(pub Vec<Done>);

impl Seen {
    /// What failed of this kind.
    pub fn failed(&self, kind: Kind) -> Vec<&Done> {
        self.0.iter().filter(|done| done.kind == kind && done.failed.is_some()).collect()
    }

    /// The longest that one of this kind took.
    pub fn longest(&self, kind: Kind) -> Duration {
        self.0.iter().filter(|done| done.kind == kind).map(|done| done.took).max().unwrap()
    }

    /// How many there were of this kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|done| done.kind == kind).count()
    }

    /// Fails when a single read, list or write failed; tells the figures.
    pub fn none_failed(&self, what: &str) {
        let mut line = format!("MEASURED {what}:");
        for kind in [Kind::Read, Kind::List, Kind::Write] {
            let failed = self.failed(kind);
            assert!(failed.is_empty(), "{what}: {} of {kind:?} failed: {:?}", failed.len(), failed.first());
            line += &format!(" {} of {kind:?}", self.count(kind));
        }
        let unready = self.failed(Kind::Ready).len();
        eprintln!("{line}, 0 failed; /readyz failed {unready} of {} times", self.count(Kind::Ready));
    }
}

/// Pause of one client between two requests: the API servers, not the load, are under test.
fn pause(kind: Kind) -> Duration {
    Duration::from_millis(match kind {
        Kind::Read | Kind::Write => 20,
        Kind::List => 200,
        // As often as a load balancer asks.
        Kind::Ready => 1000,
    })
}

/// One request, and whether it was answered as it must be.
async fn once(kind: Kind, client: &Client, names: &[String], turn: usize) -> Result<(), String> {
    let name = &names[turn % names.len()];
    match kind {
        Kind::Read => checked(name, &client.read("secrets", name).await?),
        Kind::Write => client.write("secrets", name, &text(name, turn)).await,
        Kind::List => {
            for item in client.list("secrets").await? {
                let name = item["metadata"]["name"].as_str().unwrap();
                if name.starts_with(PREFIX) {
                    checked(name, &text_of("secrets", &item))?;
                }
            }
            Ok(())
        }
        Kind::Ready => {
            let answer = client.get("/readyz").await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text) }
        }
    }
}

fn names_of(server: usize) -> Vec<String> {
    (0..OBJECTS).map(|number| format!("{PREFIX}{server}-{number}")).collect()
}

fn text(name: &str, turn: usize) -> String {
    format!("{name} turn {turn}")
}

/// A text of any turn is right, if it is of this object.
fn checked(name: &str, text: &str) -> Result<(), String> {
    if text.starts_with(&format!("{name} turn ")) {
        Ok(())
    } else {
        Err(format!("a wrong text of {name}: {text}"))
    }
}
