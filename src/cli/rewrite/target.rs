//! What the objects are brought under: the key_id of the nodes, or what an EncryptionConfiguration says.

use std::collections::BTreeSet;
use std::time::Duration;

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
            one_plugin(&rules, args.provider.as_deref()).map_err(failed)?;
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
        let mut parts: Vec<String> =
            expectation.key_id.iter().map(|id| format!("key_id {id}{}", version_of(id, nodes))).collect();
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
            let rotated = key.versions.get(key.version).unwrap_or(key.created);
            let late = local.made?.saturating_sub(rotated);
            (late > AFTER_ROTATION).then(|| {
                let ago = since(rotated);
                format!(
                    "local KEKs are on at {}, and the key was last rotated {ago} ago, before they were: objects of the same key_id would stay as they are. Rotate the key first (vault write -f transit/keys/{}/rotate), or give --endpoint, so that etcd shows whether they are stored so already",
                    node.name, key.scope.key
                )
            })
        })
    }
}

/// The version of the key, and its age, where a node tells: whoever has just rotated sees whether the agents have.
fn version_of(key_id: &str, nodes: &[Node]) -> String {
    let mut keys = nodes.iter().filter_map(|node| node.status.primary.key.as_ref());
    let Some(key) = keys.find(|key| key.key_id == key_id) else { return String::new() };
    let created = key.versions.get(key.version).unwrap_or(key.created);
    format!(" (version {} of {}, made {} ago)", key.version, key.scope.key, since(created))
}

/// How long ago a time in seconds since 1970 was.
fn since(unix_seconds: i64) -> String {
    let seconds = clock::unix_seconds().saturating_sub(unix_seconds);
    ago(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// Several providers may write, as on OpenShift, and all of them must lead to one plugin: there is one key_id.
fn one_plugin(rules: &[Rule], provider: Option<&str>) -> Result<(), String> {
    let writers = rules.iter().filter_map(|rule| rule.providers.first().and_then(Provider::kms));
    let named = writers.filter(|kms| provider.is_none_or(|name| name == kms.name));
    let endpoints: BTreeSet<&str> = named.map(|kms| kms.endpoint.as_str()).collect();
    if endpoints.len() > 1 {
        let all: Vec<&str> = endpoints.into_iter().collect();
        return Err(format!(
            "lets several plugins write ({}): use --resource and --provider, once for each",
            all.join(", ")
        ));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("encryption.yaml");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
        std::fs::write(&file, format!("{head}{text}")).unwrap();
        configuration::read(&file).unwrap()
    }

    fn kms(name: &str, socket: &str) -> String {
        format!("kms: {{apiVersion: v2, name: {name}, endpoint: \"unix:///run/{socket}.sock\"}}")
    }

    #[test]
    fn what_was_never_encrypted_is_not_rewritten() {
        let (kms, further) = (kms("a", "a"), kms("b", "a"));
        let rules = rules(&format!(
            "- resources: [events]\n  providers:\n  - identity: {{}}\n- resources: [secrets, configmaps]\n  providers:\n  - {kms}\n  - identity: {{}}\n- resources: [routes.route.openshift.io]\n  providers:\n  - identity: {{}}\n  - {further}\n",
        ));
        assert_eq!(encrypted(&rules), ["secrets", "configmaps", "routes.route.openshift.io"]);
        assert_eq!(rules.iter().map(writer).collect::<Vec<_>>(), [None, Some("a".into()), None]);
    }

    #[test]
    fn several_providers_must_lead_to_one_plugin() {
        let both = |one: String, other: String| {
            rules(&format!(
                "- resources: [secrets]\n  providers:\n  - {one}\n- resources: [configmaps]\n  providers:\n  - {other}\n"
            ))
        };
        assert!(one_plugin(&both(kms("a", "a"), kms("b", "a")), None).is_ok());
        let two = both(kms("a", "a"), kms("b", "b"));
        assert!(one_plugin(&two, None).unwrap_err().contains("unix:///run/a.sock, unix:///run/b.sock"));
        assert!(one_plugin(&two, Some("b")).is_ok());
    }

    #[test]
    fn local_keks_that_are_newer_than_the_version_were_turned_on_after_the_rotation() {
        let node = |made: i64| {
            let status = serde_json::json!({
                "primary": { "key": {
                    "scope": { "namespace": "", "mount": "transit", "key": "k" }, "key_id": "v1.a", "version": 2,
                    "created": 1_000_000, "versions": { "1": 10, "2": 1_000_000 },
                }},
                "offline": { "made": made },
            });
            Node { name: "node-1".into(), status: serde_json::from_value(status).unwrap() }
        };
        assert_eq!(Target::local_keks_without_rotation(&[node(1_000_060)]), None);
        let refused = Target::local_keks_without_rotation(&[node(1_000_060), node(1_100_000)]).unwrap();
        assert!(refused.contains("transit/keys/k/rotate"), "{refused}");
        let mut off = node(1_100_000);
        off.status.offline = None;
        assert_eq!(Target::local_keks_without_rotation(&[off]), None);
    }
}
