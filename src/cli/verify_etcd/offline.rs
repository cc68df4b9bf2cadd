//! What an API server of this node could read if it were restarted while the key service is away: only what is
//! under keys that the agent has in memory.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::known::TIMEOUT;
use super::result::{grouped, most_first, printable, rewrite};
use crate::cli::client::AgentArgs;
use crate::cli::exit::Failure;
use crate::etcd::tally::Tally;

/// Which keys the agent of this node has in memory.
pub(super) enum Offline {
    /// Local KEKs are off: none.
    Off,
    /// The fingerprints of so many, which the tally has.
    On(usize),
    /// Why it is not known.
    Unknown(String),
}

impl Offline {
    /// Asks the agent whose `/status` this is. Also the fingerprints, where local KEKs are on.
    pub(super) async fn ask(
        status: Result<&str, String>,
        agent: &AgentArgs,
    ) -> (Self, Option<HashSet<String>>) {
        let status = match status {
            Ok(status) => status,
            Err(why) => return (Self::Unknown(why), None),
        };
        let on = serde_json::from_str::<Value>(status)
            .is_ok_and(|status| status.get("offline").is_some_and(|offline| !offline.is_null()));
        if !on {
            return (Self::Off, None);
        }
        let kept = agent.get("/kept-keys", TIMEOUT).await.map_err(Failure::into_error);
        let kept = kept.and_then(|text| Ok(serde_json::from_str::<HashSet<String>>(&text)?));
        match kept {
            Ok(kept) => (Self::On(kept.len()), Some(kept)),
            Err(error) => (Self::Unknown(format!("{error:#}")), None),
        }
    }

    /// Where the answer comes from; `None` when there is nothing to say unless somebody asks.
    pub(super) fn told(&self, asked: bool) -> Option<String> {
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
    pub(super) fn verdict(&self, tally: &Tally, asked: bool) -> Option<String> {
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
