//! The key_ids of the agent's keys: the current one and earlier ones, as a running agent knows them.

use std::collections::{HashMap, HashSet};

use crate::admin::api_types::{Key, Status};
use crate::etcd::tally::KnownKeys;
use crate::key_service::key_id;

/// Most earlier ids of a key that have a name. The objects under others count as those of another key.
const MAX_IDS: usize = 500_000;

/// The key_ids in the status of an agent; `None` before the agent knows its key.
pub(super) fn from_status(status: &Status) -> Option<KnownKeys> {
    let key = status.primary.key.as_ref()?;
    let mut older = earlier(key, "");
    let mut elsewhere = HashSet::new();
    for service in &status.decrypt_only {
        let Some(other) = &service.key else { continue };
        let of = format!(" of decrypt_only {:?}", service.name);
        let mut ids = earlier(other, &of);
        ids.insert(other.key_id.clone(), format!("version {}{of}", other.version));
        // A key of the same name in another cluster: its versions count as those of the agent's key.
        if other.scope != key.scope {
            elsewhere.extend(ids.keys().cloned());
        }
        older.extend(ids);
    }
    older.remove(&key.key_id);
    elsewhere.remove(&key.key_id);
    Some(KnownKeys { current: Some(key.key_id.clone()), older, elsewhere, ..KnownKeys::default() })
}

/// Every earlier id of this key, with its name for people.
fn earlier(key: &Key, of: &str) -> HashMap<String, String> {
    // The status does not show the epoch. Find the one that gives the current id.
    let created = key.versions.get(key.version).unwrap_or_default();
    let present = |epoch: &u32| key_id::derive(&key.scope, key.version, created, *epoch) == key.key_id;
    let last = (0..=u32::from(u8::MAX)).find(present).unwrap_or_default();
    let of_epoch = |epoch| key.versions.iter().rev().map(move |version| (epoch, version));
    let newest = (0..=last).rev().flat_map(of_epoch).take(MAX_IDS);
    let mut ids: HashMap<String, String> = newest
        .map(|(epoch, (version, created))| {
            let in_epoch = if epoch == last { String::new() } else { format!(" in key_id_epoch {epoch}") };
            (key_id::derive(&key.scope, version, created, epoch), format!("version {version}{in_epoch}{of}"))
        })
        .collect();
    ids.remove(&key.key_id);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_service::KeyScope;

    #[test]
    fn earlier_ids_have_names() {
        let scope = |key: &str| KeyScope { namespace: "".into(), mount: "transit".into(), key: key.into() };
        let id =
            |key: &str, version, epoch| key_id::derive(&scope(key), version, i64::from(version) * 10, epoch);
        let service = |name: &str, key: &str, epoch| {
            serde_json::json!({ "name": name, "key": {
                "scope": scope(key), "key_id": id(key, 2, epoch), "version": 2, "versions": { "1": 10, "2": 20 },
            }})
        };
        let status = serde_json::json!({
            "primary": service("primary", "new", 1), "decrypt_only": [service("old", "old", 0), { "name": "x", "key": null }],
        });
        let known = from_status(&serde_json::from_value(status).unwrap()).unwrap();
        assert_eq!(known.current, Some(id("new", 2, 1)));
        for (id, name) in [
            (id("new", 1, 1), "version 1"),
            (id("new", 2, 0), "version 2 in key_id_epoch 0"),
            (id("new", 1, 0), "version 1 in key_id_epoch 0"),
            (id("old", 2, 0), "version 2 of decrypt_only \"old\""),
            (id("old", 1, 0), "version 1 of decrypt_only \"old\""),
        ] {
            assert_eq!(known.older.get(&id).map(String::as_str), Some(name));
        }
        assert_eq!(known.older.len(), 5);
        assert_eq!(known.elsewhere, HashSet::from([id("old", 1, 0), id("old", 2, 0)]));
    }

    #[test]
    fn an_agent_that_knows_no_key() {
        assert!(from_status(&Status::default()).is_none());
    }
}
