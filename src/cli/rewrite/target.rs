//! What the objects are brought under: the key_id of the nodes, or what an EncryptionConfiguration says.

use std::collections::BTreeSet;

use super::args::RewriteArgs;
use crate::cli::exit::{Exit, Failure};
use crate::clock;
use crate::display::ago;
use crate::files;
use crate::kubernetes::encryption_configuration::{self as configuration, Provider, Rule};
use crate::rewrite::fleet::{Fleet, Node};
use crate::rewrite::{Expectation, hash};

/// Largest EncryptionConfiguration, in bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// A local KEK that is made so many seconds after its version of the key was not made because of a rotation.
const AFTER_ROTATION: i64 = 15 * 60;

pub(super) struct Target {
    /// The resources, as an EncryptionConfiguration names them.
    pub names: Vec<String>,
    /// What each API server must report.
    pub expectation: Expectation,
    /// For people.
    pub text: String,
    /// Two runs with the same id want the same.
    pub id: String,
}

impl Target {
    pub(super) fn of(args: &RewriteArgs, nodes: &[Node]) -> Result<Self, Failure> {
        let mut names = match args.resources.is_empty() {
            true => vec!["secrets".to_owned(), "configmaps".to_owned()],
            false => args.resources.clone(),
        };
        let mut expectation =
            Expectation { providers: args.provider.iter().cloned().collect(), ..Expectation::default() };
        let mut kms = true;
        if let Some(file) = &args.encryption_config {
            let failed = |error: String| Failure::message(Exit::Usage, format!("{} {error}", file.display()));
            let rules = configuration::read(file).map_err(|error| failed(error.to_string()))?;
            let bytes = files::read_argument(file, MAX_FILE).map_err(|error| failed(error.to_string()))?;
            names = encrypted(&rules);
            if names.is_empty() {
                return Err(failed("names nothing that is or was encrypted".into()));
            }
            let first: BTreeSet<_> = rules.iter().filter(|rule| !is_plain(rule)).map(writer).collect();
            kms = first.iter().any(Option::is_some);
            if first.contains(&None) {
                expectation.configuration = Some(hash(&bytes));
            }
            if args.provider.is_none() {
                expectation.providers = first.into_iter().flatten().collect();
            }
            if expectation.providers.len() > 1 {
                let all = expectation.providers.join(" and ");
                return Err(Failure::message(
                    Exit::Usage,
                    format!(
                        "{} writes with the KMS providers {all}: use --resource and --provider, once for each",
                        file.display()
                    ),
                ));
            }
        }
        let fleet = Fleet::of(nodes);
        if kms {
            let known = args.key_id.clone().or_else(|| fleet.key_id().map(str::to_owned));
            // Nodes that disagree are the reason, and not a wrong command line.
            if known.is_none() && fleet.grave().is_none() {
                return Err(Failure::message(
                    Exit::Unavailable,
                    "the new key_id is not known: run the command as root on a control plane node, or name the status of the nodes with --node, or the key_id with --key-id",
                ));
            }
            expectation.key_id = known;
        }
        let mut parts: Vec<String> = expectation.key_id.iter().map(|id| format!("key_id {id}")).collect();
        if let (Some(hash), Some(file)) = (&expectation.configuration, &args.encryption_config) {
            parts.push(format!("{} ({hash})", file.display()));
        }
        let id =
            [&expectation.key_id, &expectation.configuration].map(|part| part.clone().unwrap_or_default());
        Ok(Self { names, expectation, text: parts.join(", "), id: id.join(" ") })
    }

    /// Why nothing may be written yet, by what the nodes say.
    pub(super) fn not_yet(&self, nodes: &[Node]) -> Option<String> {
        let fleet = Fleet::of(nodes);
        if let Some(grave) = fleet.grave() {
            return Some(format!("{grave} (kms-plugin nodes shows the nodes side by side)"));
        }
        let (wanted, known) = (self.expectation.key_id.as_deref()?, fleet.key_id()?);
        (wanted != known).then(|| format!("the nodes announce the key_id {known}, and not {wanted}"))
    }

    /// Whether local KEKs were turned on after the last rotation, by what the nodes say: then the API servers find nothing
    /// stale. `None` when they were not, or it is not known.
    pub(super) fn local_keks_without_rotation(nodes: &[Node]) -> Option<String> {
        nodes.iter().find_map(|node| {
            let (local, key) = (node.status.offline.as_ref()?, node.status.primary.key.as_ref()?);
            let rotated = key.versions.get(&key.version).copied().unwrap_or(key.created);
            let late = local.made?.saturating_sub(rotated);
            (late > AFTER_ROTATION).then(|| {
                let ago = ago(std::time::Duration::from_secs(
                    u64::try_from(clock::unix_seconds().saturating_sub(rotated)).unwrap_or_default(),
                ));
                format!(
                    "local KEKs are on at {}, and the key was last rotated {ago} ago, before they were: objects of the same key_id would stay as they are. Rotate the key first (vault write -f transit/keys/{}/rotate), or give --endpoint, so that etcd shows whether they are stored so already",
                    node.name, key.scope.key
                )
            })
        })
    }
}

/// The name of the KMS provider that writes; `None` for another one.
fn writer(rule: &Rule) -> Option<String> {
    rule.providers.first().and_then(Provider::kms).map(|kms| kms.name.clone())
}

/// Whether a rule only leaves its resources in clear.
fn is_plain(rule: &Rule) -> bool {
    rule.providers.iter().all(|provider| matches!(provider, Provider::Identity))
}

/// The resources that are or were encrypted, in the order of the file.
fn encrypted(rules: &[Rule]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in rules.iter().filter(|rule| !is_plain(rule)).flat_map(|rule| &rule.resources) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}
