//! What an API server of this node could read if it were restarted while the key service is unreachable: only objects
//! under keys in the agent's memory.

use std::collections::{BTreeMap, HashSet};

use super::text::{grouped, highest_first, printable, rewrite};
use crate::admin::api_types::Status;
use crate::admin::{Client, ClientError};
use crate::display::with_causes;
use crate::etcd::tally::Tally;

/// The keys in the memory of the agent of this node.
pub(crate) enum Offline {
    /// Local KEKs are off: no key.
    Off,
    /// The number of keys. The tally has their fingerprints.
    On(usize),
    /// The reason why they are not known.
    Unknown(String),
}

impl Offline {
    /// Asks the agent for its keys, where its `status` shows that local KEKs are on. Then also returns their
    /// fingerprints.
    pub(super) async fn of_agent(
        status: &Result<Status, ClientError>,
        agent: &Client,
    ) -> (Self, Option<HashSet<String>>) {
        match status {
            Err(why) => (Self::Unknown(with_causes(why)), None),
            Ok(Status { offline: None, .. }) => (Self::Off, None),
            Ok(_) => match agent.local_keks().await {
                Ok(keys) => (Self::On(keys.len()), Some(keys)),
                Err(why) => (Self::Unknown(with_causes(&why)), None),
            },
        }
    }

    /// One line for the report. `None` where local KEKs are off or not known, unless `--offline` requested it.
    pub(super) fn summary(&self, requested: bool) -> Option<String> {
        match self {
            Self::On(keys) => {
                let noun = if *keys == 1 { "key" } else { "keys" };
                Some(format!("{} {noun} in the memory of the running agent", grouped(*keys as u64)))
            }
            Self::Off if requested => {
                Some("local KEKs are off on this node: the agent has no key in memory".into())
            }
            Self::Unknown(why) if requested => Some(printable(&format!("unknown: {why}"))),
            Self::Off | Self::Unknown(_) => None,
        }
    }

    /// The verdict. `None` where no agent with local KEKs is known, unless `--offline` requested it.
    pub(super) fn verdict(&self, tally: &Tally, requested: bool) -> Option<String> {
        const WHO: &str = "offline: an API server of this node that is restarted while Vault is away";
        match (tally.unreadable_offline(), self) {
            (None, _) if !requested => None,
            (None, _) => Some(
                "offline: not judged: run the command as root on the agent's node (--runtime-dir)".into(),
            ),
            (Some(0), _) => Some(format!("{WHO} can read every object under this plugin's keys")),
            (Some(_), _) => {
                let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
                let unreadable =
                    || tally.groups().iter().filter(|(group, _)| group.readable_offline == Some(false));
                for (group, count) in unreadable() {
                    let mode = group.mode.map_or("", |mode| mode.text());
                    *counts.entry((group.resource.clone(), format!("({mode})"))).or_default() += count;
                }
                let off = "; turn local KEKs on first (docs/operations.md#local-keks)";
                let first = if matches!(self, Self::Off) { off } else { "" };
                // Under the same key_id, the API server skips the write of an unchanged object.
                let rotate = "; rotate the key first (vault write -f transit/keys/NAME/rotate), otherwise the API server skips unchanged objects";
                let same = unreadable().any(|(group, _)| group.state.is_good());
                let rotate = if same { rotate } else { "" };
                let parts = highest_first(counts).join(", ");
                let command = rewrite(unreadable().map(|(group, _)| group));
                Some(format!("{WHO} could not read {parts}{first}{rotate}{command}"))
            }
        }
    }
}
