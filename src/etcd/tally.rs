//! Counts objects by resource and by what they are encrypted with, in bounded memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::key::ObjectKey;
use super::value::{Stored, Transformer};

/// Most groups of one resource that are told apart; the objects of further ones are counted together, by state.
const MAX_GROUPS_EACH: usize = 50;
/// Most groups in all that are told apart; further resources are counted together.
const MAX_GROUPS: usize = 1000;
/// Longest resource or object name that is kept, in bytes.
const MAX_NAME: usize = 512;
/// The resource, or the provider, of what is counted together.
const FURTHER: &str = "(further)";
/// The resource of a value without a key.
pub const UNKNOWN: &str = "(unknown)";

/// What is known of the keys that values may be under.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The key_id that everything should be under, where it is known.
    pub current: Option<String>,
    /// Earlier key_ids of our keys, each with its name for people.
    pub older: HashMap<String, String>,
    /// The name that the KMS provider should have, where one was given.
    pub provider: Option<String>,
}

/// How an object stands to the current key, best first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Under the current key_id.
    Current,
    /// Under KMS v2, while nobody said which key_id is the current one.
    KmsV2,
    /// Under an earlier version of our key, or a key that we only unwrap with.
    Older(String),
    /// Under KMS v2 with a key_id that is not known.
    OtherKeyId,
    /// Under KMS v2 by a provider of another name.
    OtherProvider,
    /// Under an older transformer.
    Other(Transformer),
    /// Not encrypted.
    Plain,
    /// Neither plain nor encrypted in a known way, and why.
    Unrecognised(&'static str),
}

impl State {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Current => "current".into(),
            Self::KmsV2 => "kms v2".into(),
            Self::Older(name) => name.clone(),
            Self::OtherKeyId => "other key_id".into(),
            Self::OtherProvider => "other KMS provider".into(),
            Self::Other(transformer) => transformer.name().into(),
            Self::Plain => "plain".into(),
            Self::Unrecognised(why) => format!("unrecognised ({why})"),
        }
    }

    /// The stable name, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::KmsV2 => "kms_v2",
            Self::Older(_) => "older",
            Self::OtherKeyId => "other_key_id",
            Self::OtherProvider => "other_provider",
            Self::Other(Transformer::KmsV1) => "kms_v1",
            Self::Other(Transformer::AesCbc) => "aescbc",
            Self::Other(Transformer::AesGcm) => "aesgcm",
            Self::Other(Transformer::Secretbox) => "secretbox",
            Self::Plain => "plain",
            Self::Unrecognised(_) => "unrecognised",
        }
    }

    /// Whether nothing is left to do for the object, as far as that is known.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Current | Self::KmsV2)
    }
}

/// What objects are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// As kubectl names it.
    pub resource: String,
    /// How they stand.
    pub state: State,
    /// The provider of EncryptionConfiguration, or the key of an older transformer; may be empty.
    pub provider: String,
    /// The plugin's; may be empty.
    pub key_id: String,
    /// Of the Transit key, where it is one.
    pub transit_version: Option<u32>,
}

/// The counts.
#[derive(Debug)]
pub struct Tally {
    known: Known,
    root: String,
    groups: BTreeMap<Group, u64>,
    /// How many groups of each resource are told apart.
    each: BTreeMap<String, usize>,
    key_ids: BTreeSet<String>,
    objects: u64,
    good: u64,
    list: Vec<String>,
    list_most: usize,
}

impl Tally {
    /// Counts nothing yet; names of the first `list` objects that are not good will be kept.
    pub fn new(known: Known, root: &str, list: usize) -> Self {
        Self {
            known,
            root: root.to_owned(),
            groups: BTreeMap::new(),
            each: BTreeMap::new(),
            key_ids: BTreeSet::new(),
            objects: 0,
            good: 0,
            list: Vec::new(),
            list_most: list,
        }
    }

    /// Counts one object.
    pub fn add(&mut self, key: Option<&[u8]>, value: &[u8]) {
        let key = key.map(String::from_utf8_lossy);
        let object = key.as_deref().map(|key| ObjectKey::parse(key, &self.root));
        let mut group = self.classify(Stored::parse(value));
        group.resource = cut(object.as_ref().map_or(UNKNOWN, |object| &object.resource));
        self.objects += 1;
        if group.state.is_good() {
            self.good += 1;
        } else if self.list.len() < self.list_most {
            let name =
                object.map_or_else(|| format!("value {}", self.objects), |object| cut(object.shown_name()));
            self.list.push(format!("{} {name}: {}", group.resource, group.state.text()));
        }
        let unseen = !group.key_id.is_empty() && !self.key_ids.contains(&group.key_id);
        if unseen && self.key_ids.len() < MAX_GROUPS {
            self.key_ids.insert(group.key_id.clone());
        }
        let group = self.bounded(group);
        *self.groups.entry(group).or_default() += 1;
    }

    /// The group itself, or that of what is not told apart any more.
    fn bounded(&mut self, group: Group) -> Group {
        if self.groups.contains_key(&group) {
            return group;
        }
        let together = |resource: &str, state| Group {
            resource: resource.to_owned(),
            state,
            provider: FURTHER.to_owned(),
            key_id: String::new(),
            transit_version: None,
        };
        if self.groups.len() >= MAX_GROUPS {
            // The name of an older key is not told apart either.
            let older = matches!(group.state, State::Older(_));
            return together(FURTHER, if older { State::Older("older keys".into()) } else { group.state });
        }
        let of_resource = self.each.entry(group.resource.clone()).or_default();
        if *of_resource >= MAX_GROUPS_EACH {
            return together(&group.resource, group.state);
        }
        *of_resource += 1;
        group
    }

    fn classify(&self, stored: Stored) -> Group {
        let resource = String::new();
        let plain = |state, provider| Group {
            resource: String::new(),
            state,
            provider,
            key_id: String::new(),
            transit_version: None,
        };
        match stored {
            Stored::Plain => plain(State::Plain, String::new()),
            Stored::Unrecognised(why) => plain(State::Unrecognised(why), String::new()),
            Stored::Other(transformer, name) => plain(State::Other(transformer), name),
            Stored::KmsV2 { provider, key_id, transit_version } => {
                let known = &self.known;
                let state = match &known.current {
                    _ if known.provider.as_ref().is_some_and(|expected| *expected != provider) => {
                        State::OtherProvider
                    }
                    None => State::KmsV2,
                    Some(current) if *current == key_id => State::Current,
                    Some(_) => known.older.get(&key_id).cloned().map_or(State::OtherKeyId, State::Older),
                };
                Group { resource, state, provider, key_id, transit_version }
            }
        }
    }

    /// The key_id that everything should be under, where it is known.
    pub fn current(&self) -> Option<&str> {
        self.known.current.as_deref()
    }

    /// The groups in order, with the number of objects in each.
    pub fn groups(&self) -> &BTreeMap<Group, u64> {
        &self.groups
    }

    /// How many objects were counted.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// How many of them are left to do.
    pub fn left(&self) -> u64 {
        self.objects - self.good
    }

    /// How many different key_ids there are under KMS v2, as far as they are told apart.
    pub fn key_ids(&self) -> usize {
        self.key_ids.len()
    }

    /// The names of the first objects that are not good.
    pub fn list(&self) -> &[String] {
        &self.list
    }

    /// Whether there were more groups than are told apart.
    pub fn is_folded(&self) -> bool {
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

    fn known() -> Known {
        Known {
            current: Some("v1.now".into()),
            older: HashMap::from([("v1.before".into(), "version 1".into())]),
            provider: None,
        }
    }

    fn states(tally: &Tally) -> Vec<(String, String, u64)> {
        let told = |(group, count): (&Group, &u64)| (group.resource.clone(), group.state.text(), *count);
        tally.groups().iter().map(told).collect()
    }

    #[test]
    fn objects_are_judged_by_their_key_id() {
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
        let mut tally = Tally::new(Known { provider: Some("p".into()), ..known() }, "/registry", 0);
        tally.add(None, &value("p", "v1.now", 1));
        tally.add(None, &value("q", "v1.now", 1));
        let unknown = |state: &str| (UNKNOWN.to_owned(), state.to_owned(), 1);
        assert_eq!(states(&tally), [unknown("current"), unknown("other KMS provider")]);
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
