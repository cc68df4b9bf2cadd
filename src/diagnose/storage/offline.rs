//! What an API server of this node could read if it were restarted while the key service is away: only what is
//! under keys that the agent has in memory.

use std::collections::{BTreeMap, HashSet};

use super::result::{grouped, most_first, printable, rewrite};
use crate::admin::types::Status;
use crate::admin::{Client, ClientError};
use crate::etcd::tally::Tally;

/// Which keys the agent of this node has in memory.
pub(crate) enum Offline {
    /// Local KEKs are off: none.
    Off,
    /// The fingerprints of so many, which the tally has.
    On(usize),
    /// Why it is not known.
    Unknown(String),
}

impl Offline {
    /// Asks the agent whose status this is. Also the fingerprints, where local KEKs are on.
    pub(crate) async fn ask(
        status: &Result<Status, ClientError>,
        agent: &Client,
    ) -> (Self, Option<HashSet<String>>) {
        match status {
            Err(why) => (Self::Unknown(why.to_string()), None),
            Ok(Status { offline: None, .. }) => (Self::Off, None),
            Ok(_) => match agent.local_keks().await {
                Ok(keys) => (Self::On(keys.len()), Some(keys)),
                Err(why) => (Self::Unknown(why.to_string()), None),
            },
        }
    }

    /// Where the answer comes from; `None` when there is nothing to say unless somebody asks.
    pub(crate) fn told(&self, asked: bool) -> Option<String> {
        match self {
            Self::On(keys) => {
                let noun = if *keys == 1 { "key" } else { "keys" };
                Some(format!("{} {noun} in the memory of the running agent", grouped(*keys as u64)))
            }
            Self::Off if asked => Some("local KEKs are off on this node: no key is kept".into()),
            Self::Unknown(why) if asked => Some(printable(&format!("unknown: {why}"))),
            Self::Off | Self::Unknown(_) => None,
        }
    }

    /// The verdict; `None` where no agent with local KEKs is known, unless somebody asks.
    pub(crate) fn verdict(&self, tally: &Tally, asked: bool) -> Option<String> {
        const WHO: &str = "offline: an API server of this node that is restarted while Vault is away";
        match (tally.unreadable_offline(), self) {
            (None, _) if !asked => None,
            (None, _) => Some("offline: not judged: run it as root beside the agent (--runtime-dir)".into()),
            (Some(0), _) => Some(format!("{WHO} can read all that is under this plugin's keys")),
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
                // Under the same key_id, the API server takes an object that is written as it was for unchanged.
                let rotate = "; rotate the key first (vault write -f transit/keys/NAME/rotate), or nothing is written anew";
                let same = unreadable().any(|(group, _)| group.state.is_good());
                let rotate = if same { rotate } else { "" };
                let parts = most_first(counts).join(", ");
                let command = rewrite(unreadable().map(|(group, _)| group));
                Some(format!("{WHO} could not read {parts}{first}{rotate}{command}"))
            }
        }
    }
}
