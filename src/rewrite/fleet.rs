//! The nodes side by side: do their agents agree?
//!
//! A pure comparison of what the agents say about themselves.

use serde::Serialize;

use crate::admin::api_types::{KmsStatus, Phase, Status};
use crate::display::fit;

/// An agent and what it says.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The file, or another name for people.
    pub name: String,
    pub status: Status,
}

/// One node as programs and the table see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub node: String,
    pub version: String,
    pub phase: Phase,
    /// Empty when the agent does not know its key.
    pub key_id: String,
    pub key_version: Option<u32>,
    /// A hash of the configuration in use; empty when it is not known.
    pub configuration: String,
    /// `None` when local KEKs are off.
    pub local_keks: Option<String>,
}

/// Something in which the nodes differ, or for which one of them cannot take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// Whether nothing may be rewritten as long as it is so.
    pub grave: bool,
    pub text: String,
}

/// The nodes, compared.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fleet {
    pub nodes: Vec<Row>,
    pub differences: Vec<Difference>,
}

impl Fleet {
    pub(crate) fn of(nodes: &[Node]) -> Self {
        Self { nodes: nodes.iter().map(row).collect(), differences: differences(nodes) }
    }

    /// Why nothing may be rewritten yet.
    pub(crate) fn grave(&self) -> Option<&str> {
        self.differences.iter().find(|one| one.grave).map(|one| one.text.as_str())
    }

    /// The key_id of all nodes.
    pub(crate) fn key_id(&self) -> Option<&str> {
        let first = self.nodes.first().map(|row| row.key_id.as_str()).filter(|id| !id.is_empty())?;
        self.nodes.iter().all(|row| row.key_id == first).then_some(first)
    }

    /// The table, and a line for each difference.
    pub(crate) fn text(&self) -> String {
        let head =
            ["NODE", "VERSION", "PHASE", "KEY_ID", "KEY", "CONFIGURATION", "LOCAL KEKS"].map(str::to_owned);
        let mut lines = vec![head.to_vec()];
        lines.extend(self.nodes.iter().map(Row::cells));
        let mut widths = vec![0; head.len()];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for line in &lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        let verdict = match self.differences.as_slice() {
            [] => "\nthe nodes agree".to_owned(),
            all => all.iter().map(|one| format!("\n{}", one.text)).collect(),
        };
        text + &verdict
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let short = |text: &str| match text {
            "" => "-".to_owned(),
            text => fit(text, 16),
        };
        let phase = serde_json::to_value(self.phase).unwrap_or_default();
        vec![
            fit(&self.node, 40),
            short(&self.version),
            phase.as_str().unwrap_or_default().to_owned(),
            short(&self.key_id),
            self.key_version.map_or_else(|| "-".to_owned(), |version| format!("v{version}")),
            short(&self.configuration),
            self.local_keks.as_deref().map_or_else(|| "off".to_owned(), |line| fit(line, 60)),
        ]
    }
}

fn row(node: &Node) -> Row {
    let status = &node.status;
    Row {
        node: node.name.clone(),
        version: status.version.clone(),
        phase: status.phase,
        key_id: status.key_id().unwrap_or_default().to_owned(),
        key_version: status.primary.key.as_ref().map(|key| key.version),
        configuration: status.config.digest.clone(),
        local_keks: status.offline.as_ref().map(|offline| offline.line.clone()),
    }
}

fn differences(nodes: &[Node]) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut grave = |text: String| found.push(Difference { grave: true, text });
    for node in nodes {
        let (name, status) = (&node.name, &node.status);
        if status.key_id().is_none() {
            grave(format!("{name} does not know its key yet"));
        } else if status.kms_status != KmsStatus::Ok {
            let why =
                status.reason.as_ref().map_or("its KMS Status is not ok", |reason| reason.text.as_str());
            grave(format!("{name} cannot take part: {}", fit(why, 200)));
        }
    }
    let known = |node: &&Node| node.status.key_id().is_some();
    let ids = by(nodes.iter().filter(known), |status| status.key_id().unwrap_or_default().to_owned());
    if let Some(who) = differ(&ids) {
        grave(format!(
            "the nodes announce different key_ids: {who}; each agent sees a rotation within key_check_interval (a minute): ask again, or compare vault.transit in their configurations"
        ));
    }
    let keks = by(nodes.iter(), |status| {
        if status.offline.is_some() { "local KEKs on".into() } else { "local KEKs off".into() }
    });
    if let Some(who) = differ(&keks) {
        grave(format!("local KEKs are not on everywhere: {who}"));
    }
    let mut slight = |text: String| found.push(Difference { grave: false, text });
    if let Some(who) = differ(&by(nodes.iter(), |status| status.version.clone())) {
        slight(format!("the nodes run different versions: {who}"));
    }
    let digest = |node: &&Node| !node.status.config.digest.is_empty();
    if let Some(who) = differ(&by(nodes.iter().filter(digest), |status| status.config.digest.clone())) {
        slight(format!("the nodes have different configurations: {who}"));
    }
    for node in nodes.iter().filter(|node| !node.status.config.in_use) {
        let why = node.status.config.problem.as_deref().unwrap_or("run kms-plugin reload there");
        slight(format!("{} does not use the configuration on its disk: {}", node.name, fit(why, 200)));
    }
    found
}

/// The names of the nodes by a value of theirs, in the order in which the values come.
fn by<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    value: impl Fn(&Status) -> String,
) -> Vec<(String, Vec<&'a str>)> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for node in nodes {
        let value = value(&node.status);
        match found.iter_mut().find(|(other, _)| *other == value) {
            Some((_, names)) => names.push(&node.name),
            None => found.push((value, vec![&node.name])),
        }
    }
    found
}

/// `v1.abc on node-1 and node-2, v1.def on node-3`, when there is more than one value.
fn differ(values: &[(String, Vec<&str>)]) -> Option<String> {
    let shown =
        |(value, names): &(String, Vec<&str>)| format!("{} on {}", fit(value, 24), names.join(" and "));
    (values.len() > 1).then(|| values.iter().map(shown).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, key_id: &str, digest: &str) -> Node {
        let status = serde_json::json!({
            "version": "0.1.0", "phase": "ready", "kms_status": "ok",
            "primary": { "name": "primary", "key": {
                "scope": { "namespace": "", "mount": "transit", "key": "k" }, "key_id": key_id, "version": 2,
            }},
            "config": { "in_use": true, "digest": digest },
        });
        Node { name: name.into(), status: serde_json::from_value(status).unwrap() }
    }

    #[test]
    fn nodes_that_agree() {
        let fleet = Fleet::of(&[node("one", "v1.a", "d"), node("two", "v1.a", "d")]);
        assert_eq!((fleet.differences.as_slice(), fleet.key_id()), (&[][..], Some("v1.a")));
        assert!(fleet.text().ends_with("\nthe nodes agree"), "{}", fleet.text());
        assert!(Fleet::of(&[]).key_id().is_none());
    }

    #[test]
    fn who_differs_is_named() {
        let fleet =
            Fleet::of(&[node("one", "v1.a", "d"), node("two", "v1.b", "e"), node("three", "v1.a", "d")]);
        assert!(fleet.grave().unwrap().contains("v1.a on one and three, v1.b on two"), "{fleet:?}");
        assert_eq!(fleet.key_id(), None);
        let slight: Vec<_> = fleet.differences.iter().filter(|one| !one.grave).collect();
        assert_eq!(slight.len(), 1, "{slight:?}");
        assert!(slight[0].text.contains("d on one and three, e on two"), "{slight:?}");
    }

    #[test]
    fn a_node_without_a_key_or_with_local_keks_alone_is_grave() {
        let mut starting = node("two", "v1.a", "d");
        starting.status.primary.key = None;
        let fleet = Fleet::of(&[node("one", "v1.a", "d"), starting]);
        assert_eq!(fleet.grave(), Some("two does not know its key yet"));
        let mut local = node("two", "v1.a", "d");
        local.status.offline = Some(crate::admin::api_types::LocalKeks::default());
        let fleet = Fleet::of(&[node("one", "v1.a", "d"), local]);
        assert_eq!(
            fleet.grave(),
            Some("local KEKs are not on everywhere: local KEKs off on one, local KEKs on on two")
        );
        let mut refused = node("two", "v1.a", "d");
        refused.status.kms_status = KmsStatus::Refused;
        let fleet = Fleet::of(&[node("one", "v1.a", "d"), refused]);
        assert!(fleet.grave().unwrap().starts_with("two cannot take part"), "{fleet:?}");
    }
}
