//! Reads all objects of a source, counts them, and makes the report.

use std::collections::HashSet;
use std::io::Read;
use std::time::Duration;

use super::error::StorageError;
use super::known;
use super::offline::Offline;
use super::questions::{self, Facts, Questions};
use super::result::Report;
use super::seeds::Seeds;
use super::source::{self, Configuration, Source};
use super::text::printable;
use crate::admin::api_types::Status;
use crate::admin::{Client, ClientError};
use crate::clock;
use crate::display::with_causes;
use crate::etcd::Sink;
use crate::etcd::etcdctl::form::Form;
use crate::etcd::etcdctl::reader;
use crate::etcd::tally::{KnownKeys, Tally};

/// Time for one answer of the agent.
pub(crate) const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the objects are compared with.
pub(crate) struct Options {
    /// The prefix of kube-apiserver in etcd (`--etcd-prefix`).
    pub root: String,
    /// The key_id that all objects should have. `None`: the agent's.
    pub current_key_id: Option<String>,
    /// The name that the provider should have in EncryptionConfiguration. `None`: any.
    pub provider: Option<String>,
    /// How many objects that are not good are listed by name.
    pub list: usize,
    /// Whether objects that cannot be read in an outage affect the result.
    pub offline: bool,
    /// The EncryptionConfigurations in use.
    pub configurations: Vec<Configuration>,
    pub questions: Questions,
    /// Whether a stream holds all objects of etcd.
    pub complete: bool,
}

/// Receives the progress while objects are read.
pub(crate) trait Progress: Send {
    /// The source has `objects` more objects. Not called where the source does not know their number.
    fn expect(&mut self, objects: u64);

    /// One object was read.
    fn object(&mut self);
}

/// Reads all objects of `source`, and compares them with what `agent` knows.
///
/// # Errors
/// When the source cannot be read to its end, or has no object.
pub(crate) async fn verify<R: Read>(
    source: Source<R>,
    options: &Options,
    agent: &Client,
    progress: &mut dyn Progress,
) -> Result<Report, StorageError> {
    // Check the options and the files before the agent and etcd are asked.
    let expected = source::expected(&options.configurations, &options.root)?;
    let source = match source {
        Source::Stream(_) if options.questions.any() && !options.complete => {
            return Err(StorageError::NotComplete);
        }
        Source::Stream(input) => Opened::Stream(input),
        Source::Etcd(endpoints, selection) => {
            let prefixes = selection.prefixes(&options.root, expected.as_ref());
            Opened::Etcd(Box::new(endpoints.etcd()?), prefixes)
        }
    };
    let status = agent.status().await;
    let (known, current, offline) = known_keys(options, &status, agent).await;
    let seeds = options.questions.can_read_seeds.is_some().then(Seeds::default);
    let known = KnownKeys { expected, ..known };
    let mut counting = Counting { tally: Tally::new(known, &options.root, options.list), seeds, progress };
    let mut empty = Vec::new();
    let (source, exact) = match source {
        Opened::Stream(input) => match reader::read(input, &mut counting)? {
            Form::Json => ("stdin, etcdctl -w json".into(), true),
            Form::Simple => ("stdin, etcdctl -w simple".into(), false),
            Form::Values => ("stdin, etcdctl --print-value-only".into(), false),
        },
        Opened::Etcd(mut etcd, prefixes) => {
            for prefix in prefixes {
                if etcd.read(&prefix, &mut counting).await? == 0 {
                    empty.push(prefix);
                }
            }
            let revision = etcd.revision().unwrap_or_default();
            (format!("{} at revision {revision}", etcd.endpoint()), true)
        }
    };
    if options.questions.any() && !exact {
        return Err(StorageError::NotComplete);
    }
    let tally = counting.tally;
    if tally.objects() == 0 {
        return Err(StorageError::NoObjects(empty));
    }
    let read = match (counting.seeds, &options.questions.can_read_seeds) {
        (Some(seeds), Some(socket)) => Some(seeds.unwrap_all(socket).await),
        _ => None,
    };
    let facts = Facts {
        tally: &tally,
        configurations: &options.configurations,
        status: status.as_ref().ok(),
        now: clock::unix_seconds(),
        seeds: read.as_ref(),
    };
    let answers = questions::answers(&options.questions, &facts);
    let offline_counts = options.offline;
    Ok(Report { tally, source, exact, current, empty, offline, offline_counts, answers })
}

/// A source that is ready to be read.
enum Opened<R> {
    Etcd(Box<crate::etcd::gateway::Etcd>, Vec<String>),
    Stream(R),
}

/// The known keys, where the current key_id comes from, and the keys in the agent's memory.
async fn known_keys(
    options: &Options,
    status: &Result<Status, ClientError>,
    agent: &Client,
) -> (KnownKeys, String, Offline) {
    let (offline, mut in_memory) = Offline::of_agent(status, agent).await;
    if options.offline && matches!(offline, Offline::Off) {
        in_memory = Some(HashSet::new());
    }
    let unknown = |why: &str| printable(&format!("unknown: {why}; see --current-key-id and --runtime-dir"));
    let (known, current) = match (&options.current_key_id, status) {
        (Some(current), _) => {
            let source = format!("{}, from the command line", printable(current));
            (KnownKeys { current: Some(current.clone()), ..KnownKeys::default() }, source)
        }
        (None, Ok(status)) => match known::from_status(status) {
            Some(known) => {
                let current = known.current.as_deref().unwrap_or_default();
                let source = format!("{current}, from the running agent");
                (known, source)
            }
            None => (
                KnownKeys::default(),
                unknown("the agent does not know its key yet (is kms-plugin.service starting?)"),
            ),
        },
        (None, Err(error)) => (KnownKeys::default(), unknown(&with_causes(error))),
    };
    (KnownKeys { provider: options.provider.clone(), in_memory, ..known }, current, offline)
}

/// Counts each object and reports the progress.
struct Counting<'a> {
    tally: Tally,
    seeds: Option<Seeds>,
    progress: &'a mut dyn Progress,
}

impl Sink for Counting<'_> {
    fn expect(&mut self, objects: u64) {
        self.progress.expect(objects);
    }

    fn object(&mut self, key: Option<&[u8]>, value: &[u8]) {
        self.tally.add(key, value);
        if let Some(seeds) = &mut self.seeds {
            seeds.add(value);
        }
        self.progress.object();
    }
}
