//! Counts objects by resource and by encryption, in bounded memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::expected::{Expected, Writer};
use super::group::{Group, Owner, State};
use super::key::ObjectKey;
use super::value::Stored;

/// Most groups of one resource. The objects of further groups are counted together, by state.
const MAX_GROUPS_EACH: usize = 50;
/// Most groups of all resources. Further resources are counted together.
const MAX_GROUPS: usize = 1000;
/// Longest resource or object name that is stored, in bytes.
const MAX_NAME: usize = 512;
/// The resource, or the provider, of objects that are counted together.
const FURTHER: &str = "(further)";
/// The resource of a value without a key.
pub(crate) const UNKNOWN: &str = "(unknown)";

/// What is known about the keys. The objects are compared with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownKeys {
    /// The key_id that all objects should have, where it is known.
    pub current: Option<String>,
    /// Earlier key_ids of the agent's keys, each with its name for people.
    pub older: HashMap<String, String>,
    /// The key_ids among them whose key is another one than the agent's primary key.
    pub elsewhere: HashSet<String>,
    /// How each object should be stored, where the EncryptionConfiguration is known.
    pub expected: Option<Expected>,
    /// The name that the KMS provider should have, where one was given.
    pub provider: Option<String>,
    /// The fingerprints of the keys in the agent's memory, where they are known. The agent needs no key service for
    /// these keys.
    pub in_memory: Option<HashSet<String>>,
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Tally {
    known: KnownKeys,
    root: String,
    groups: BTreeMap<Group, u64>,
    /// How many groups of each resource are counted on their own.
    each: BTreeMap<String, usize>,
    key_ids: BTreeSet<String>,
    objects: u64,
    good: u64,
    unreadable_offline: u64,
    list: Vec<String>,
    list_most: usize,
}

impl Tally {
    /// An empty count. It will list the names of the first `list` objects that are not good.
    pub(crate) fn new(known: KnownKeys, root: &str, list: usize) -> Self {
        Self {
            known,
            root: root.to_owned(),
            groups: BTreeMap::new(),
            each: BTreeMap::new(),
            key_ids: BTreeSet::new(),
            objects: 0,
            good: 0,
            unreadable_offline: 0,
            list: Vec::new(),
            list_most: list,
        }
    }

    /// Counts one object.
    pub(crate) fn add(&mut self, key: Option<&[u8]>, value: &[u8]) {
        let key = key.map(String::from_utf8_lossy);
        let object = key.as_deref().map(|key| ObjectKey::parse(key, &self.root));
        let writer = key.as_deref().and_then(|key| self.known.expected.as_ref()?.of(key));
        let mut group = self.classify(Stored::parse(value), writer);
        group.resource = cut(object.as_ref().map_or(UNKNOWN, |object| &object.resource));
        let (good, unreadable) = (group.state.is_good(), group.readable_offline == Some(false));
        self.objects += 1;
        self.good += u64::from(good);
        self.unreadable_offline += u64::from(unreadable);
        if (!good || unreadable) && self.list.len() < self.list_most {
            let name =
                object.map_or_else(|| format!("value {}", self.objects), |object| cut(object.shown_name()));
            let offline = if unreadable { ", not readable in an outage" } else { "" };
            self.list.push(format!("{} {name}: {}{offline}", group.resource, group.state.text()));
        }
        let unseen = !group.key_id.is_empty() && !self.key_ids.contains(&group.key_id);
        if unseen && self.key_ids.len() < MAX_GROUPS {
            self.key_ids.insert(group.key_id.clone());
        }
        let group = self.bounded(group);
        *self.groups.entry(group).or_default() += 1;
    }

    /// The group itself, or the common one when there are too many groups.
    fn bounded(&mut self, group: Group) -> Group {
        if self.groups.contains_key(&group) {
            return group;
        }
        let together = |resource: &str, state| Group {
            resource: resource.to_owned(),
            provider: FURTHER.to_owned(),
            readable_offline: group.readable_offline,
            kms: group.kms,
            ..Group::of(state)
        };
        if self.groups.len() >= MAX_GROUPS {
            // The names of older keys are not distinguished either.
            let older = matches!(group.state, State::Older(_));
            return together(
                FURTHER,
                if older { State::Older("older keys".into()) } else { group.state.clone() },
            );
        }
        let of_resource = self.each.entry(group.resource.clone()).or_default();
        if *of_resource >= MAX_GROUPS_EACH {
            return together(&group.resource, group.state.clone());
        }
        *of_resource += 1;
        group
    }

    /// `writer` should have written the object, where that is known.
    fn classify(&self, stored: Stored, writer: Option<&Writer>) -> Group {
        let as_configured = writer.and_then(|writer| Some((writer, writer.wrote(&stored)?)));
        let mut group = self.by_itself(stored);
        match (as_configured, &group.state) {
            (Some((writer, true)), _) => group.state = State::AsConfigured(writer.text()),
            (None, _) | (_, State::Unrecognised(_)) => {}
            (Some((writer, false)), state) => {
                group.state =
                    State::NotAsConfigured(format!("{} instead of {}", state.text(), writer.text()));
            }
        }
        group
    }

    fn by_itself(&self, stored: Stored) -> Group {
        match stored {
            Stored::Plain => Group::of(State::Plain),
            Stored::Unrecognised(why) => Group::of(State::Unrecognised(why)),
            Stored::Other(transformer, name) => {
                Group { provider: name, ..Group::of(State::Other(transformer)) }
            }
            Stored::KmsV2 { provider, key_id, mode, transit_version, fingerprint } => {
                let known = &self.known;
                let state = match &known.current {
                    _ if known.provider.as_ref().is_some_and(|expected| *expected != provider) => {
                        State::OtherProvider
                    }
                    None => State::KmsV2,
                    Some(current) if *current == key_id => State::Current,
                    Some(_) => known.older.get(&key_id).cloned().map_or(State::OtherKeyId, State::Older),
                };
                // The agent has no key for objects of another plugin.
                let in_memory = known.in_memory.as_ref().filter(|_| state != State::OtherProvider);
                let readable_offline = in_memory.map(|keys| keys.contains(&fingerprint.hex()));
                let mode = Some(mode);
                let elsewhere = known.elsewhere.contains(&key_id);
                let kms = Some(if elsewhere { Owner::Elsewhere } else { Owner::Ours });
                Group { provider, key_id, kms, mode, transit_version, readable_offline, ..Group::of(state) }
            }
        }
    }

    /// The key_id that all objects should have, where it is known.
    pub(crate) fn current(&self) -> Option<&str> {
        self.known.current.as_deref()
    }

    /// The groups in order, with the number of objects in each.
    pub(crate) fn groups(&self) -> &BTreeMap<Group, u64> {
        &self.groups
    }

    pub(crate) fn objects(&self) -> u64 {
        self.objects
    }

    /// How many objects need a rewrite.
    pub(crate) fn left(&self) -> u64 {
        self.objects - self.good
    }

    /// How many objects an API server could not read after a restart while the key service is unreachable. `None`
    /// when the keys in the agent's memory are not known.
    pub(crate) fn unreadable_offline(&self) -> Option<u64> {
        self.known.in_memory.as_ref().map(|_| self.unreadable_offline)
    }

    /// How many different key_ids there are under KMS v2. Counted up to a limit.
    pub(crate) fn key_ids(&self) -> usize {
        self.key_ids.len()
    }

    /// The names of the first objects that are not good, or not readable in an outage.
    pub(crate) fn list(&self) -> &[String] {
        &self.list
    }

    /// Whether there were too many groups, so that some are counted together.
    pub(crate) fn is_folded(&self) -> bool {
        self.groups.keys().any(|group| group.provider == FURTHER)
    }
}

fn cut(name: &str) -> String {
    match name.char_indices().find(|(at, _)| *at >= MAX_NAME) {
        Some((at, _)) => format!("{}…", name.get(..at).unwrap_or_default()),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_kek::{Fingerprint, KeyKind};

    /// An `EncryptedObject` by hand: fields 1, 2 and 3, all shorter than 128 bytes.
    fn value(provider: &str, key_id: &str, version: u32) -> Vec<u8> {
        let mut value = format!("k8s:enc:kms:v2:{provider}:").into_bytes();
        for (tag, text) in
            [(0x0a, "data".to_owned()), (0x12, key_id.to_owned()), (0x1a, format!("vault:v{version}:A"))]
        {
            value.extend([tag, u8::try_from(text.len()).unwrap()]);
            value.extend(text.bytes());
        }
        value
    }

    fn known() -> KnownKeys {
        KnownKeys {
            current: Some("v1.now".into()),
            older: HashMap::from([("v1.before".into(), "version 1".into())]),
            ..KnownKeys::default()
        }
    }

    fn states(tally: &Tally) -> Vec<(String, String, u64)> {
        let entry = |(group, count): (&Group, &u64)| (group.resource.clone(), group.state.text(), *count);
        tally.groups().iter().map(entry).collect()
    }

    #[test]
    fn objects_are_counted_by_their_key_id() {
        let mut tally = Tally::new(known(), "/registry", 3);
        for (name, value) in [
            ("a", value("p", "v1.now", 2)),
            ("b", value("p", "v1.now", 2)),
            ("c", value("p", "v1.before", 1)),
            ("d", value("q", "other", 1)),
            ("e", b"k8s\0".to_vec()),
            ("f", b"k8s:enc:aescbc:v1:key1:x".to_vec()),
            ("g", b"?".to_vec()),
        ] {
            tally.add(Some(format!("/registry/secrets/ns/{name}").as_bytes()), &value);
        }
        let expected = [
            ("current", 2),
            ("version 1", 1),
            ("other key_id", 1),
            ("aescbc", 1),
            ("plain", 1),
            ("unrecognised (neither protobuf nor JSON)", 1),
        ];
        let expected: Vec<_> =
            expected.map(|(state, count)| ("secrets".to_owned(), state.to_owned(), count)).into();
        assert_eq!(states(&tally), expected);
        assert_eq!((tally.objects(), tally.left(), tally.key_ids()), (7, 5, 3));
        assert_eq!(
            tally.list(),
            ["secrets ns/c: version 1", "secrets ns/d: other key_id", "secrets ns/e: plain"]
        );
    }

    #[test]
    fn a_providers_name_counts_where_one_is_expected() {
        let mut tally = Tally::new(KnownKeys { provider: Some("p".into()), ..known() }, "/registry", 0);
        tally.add(None, &value("p", "v1.now", 1));
        tally.add(None, &value("q", "v1.now", 1));
        let unknown = |state: &str| (UNKNOWN.to_owned(), state.to_owned(), 1);
        assert_eq!(states(&tally), [unknown("current"), unknown("other KMS provider")]);
    }

    #[test]
    fn objects_that_no_api_server_could_read_in_an_outage_are_counted() {
        let in_memory = Fingerprint::of(KeyKind::Seed, "v1.now", b"vault:v1:A").hex();
        let mut tally =
            Tally::new(KnownKeys { in_memory: Some(HashSet::from([in_memory])), ..known() }, "/registry", 5);
        for (name, value) in [
            ("a", value("p", "v1.now", 1)),
            ("b", value("p", "v1.now", 2)),
            ("c", value("p", "v1.before", 1)),
            ("d", b"k8s\0".to_vec()),
            ("e", b"?".to_vec()),
        ] {
            tally.add(Some(format!("/registry/secrets/ns/{name}").as_bytes()), &value);
        }
        assert_eq!((tally.left(), tally.unreadable_offline()), (3, Some(2)));
        let readable: Vec<_> = tally.groups().keys().map(|group| group.readable_offline).collect();
        assert_eq!(readable, [Some(true), Some(false), Some(false), None, None]);
        assert_eq!(tally.list()[0], "secrets ns/b: current, not readable in an outage");
        assert_eq!(Tally::new(known(), "/registry", 0).unreadable_offline(), None);
    }

    #[test]
    fn groups_are_bounded_and_no_object_is_lost() {
        let mut tally = Tally::new(known(), "/registry", 5);
        for number in 0..5000 {
            let key = format!("/registry/kind-{number}/{}", "x".repeat(5000));
            tally.add(Some(key.as_bytes()), &value("p", &format!("id-{number}"), number));
            tally.add(Some(key.as_bytes()), &value("p", "v1.now", 1));
        }
        assert!(tally.groups().len() <= MAX_GROUPS + 12 && tally.is_folded(), "{}", tally.groups().len());
        assert_eq!(tally.groups().values().sum::<u64>(), 10_000);
        assert_eq!((tally.objects(), tally.left()), (10_000, 5000));
        assert!(tally.list().iter().all(|name| name.len() < 2 * MAX_NAME));

        // Many keys of one resource leave room for the others, and the resource keeps its name.
        let mut tally = Tally::new(known(), "/registry", 0);
        for number in 0..5000 {
            tally.add(Some(b"/registry/secrets/a/b"), &value("p", &format!("id-{number}"), number));
        }
        tally.add(Some(b"/registry/configmaps/a/b"), b"k8s\0");
        let further = tally.groups().iter().find(|(group, _)| group.provider == FURTHER).unwrap();
        assert_eq!((further.0.resource.as_str(), *further.1), ("secrets", 4950));
        assert_eq!((tally.groups().len(), tally.key_ids()), (MAX_GROUPS_EACH + 2, MAX_GROUPS));
    }
}
