//! The versions of a key, and when each was created: sorted, in one allocation that all copies share.
//!
//! A key that rotates each hour has 8,760 new versions a year. The list is copied into each snapshot, and its memory is
//! bounded: [`MAX_VERSIONS`].

use std::fmt;
use std::sync::Arc;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most versions of a key that are kept: seven years of rotations each hour.
pub(crate) const MAX_VERSIONS: usize = 64_000;

/// The versions of a key, and when each was created, in seconds since 1970, by the service's clock. At most
/// [`MAX_VERSIONS`], the newest ones.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct KeyVersions(Arc<[(u32, i64)]>);

impl KeyVersions {
    /// When this version was created; `None` when it is not known.
    pub(crate) fn get(&self, version: u32) -> Option<i64> {
        let index = self.0.binary_search_by_key(&version, |(version, _)| *version).ok()?;
        self.0.get(index).map(|(_, created)| *created)
    }

    pub(crate) fn contains(&self, version: u32) -> bool {
        self.get(version).is_some()
    }

    /// The versions from the oldest to the newest.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, i64)> + Clone + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These versions and those that the service `shows` now. At the limit, the oldest of those that it does not show
    /// are dropped: it unwraps none of them.
    pub(crate) fn merged(&self, shows: &Self) -> Self {
        if self == shows || self.is_empty() {
            return shows.clone();
        }
        let hidden: Vec<_> = self.iter().filter(|(version, _)| !shows.contains(*version)).collect();
        if hidden.is_empty() {
            return shows.clone();
        }
        let room = MAX_VERSIONS.saturating_sub(shows.0.len());
        let kept = hidden.get(hidden.len().saturating_sub(room)..).unwrap_or_default();
        kept.iter().copied().chain(shows.iter()).collect()
    }
}

impl FromIterator<(u32, i64)> for KeyVersions {
    fn from_iter<I: IntoIterator<Item = (u32, i64)>>(versions: I) -> Self {
        let mut newest = Newest::default();
        versions.into_iter().for_each(|version| newest.add(version));
        newest.versions()
    }
}

impl<const N: usize> From<[(u32, i64); N]> for KeyVersions {
    fn from(versions: [(u32, i64); N]) -> Self {
        versions.into_iter().collect()
    }
}

impl fmt::Debug for KeyVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Collects the newest versions, however many come. Of two creation times of a version, the last one counts.
#[derive(Default)]
struct Newest(Vec<(u32, i64)>);

impl Newest {
    fn add(&mut self, version: (u32, i64)) {
        self.0.push(version);
        if self.0.len() >= 2 * MAX_VERSIONS {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        self.0.sort_by_key(|(version, _)| *version);
        self.0.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                *kept = *later;
            }
            same
        });
        let beyond = self.0.len().saturating_sub(MAX_VERSIONS);
        self.0.drain(..beyond);
    }

    fn versions(mut self) -> KeyVersions {
        self.shrink();
        KeyVersions(self.0.into())
    }
}

impl Serialize for KeyVersions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (version, created) in self.iter() {
            map.serialize_entry(&version, &created)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for KeyVersions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ShownVersions::deserialize(deserializer).map(|shown| shown.versions)
    }
}

/// The versions in a list of a key service. What is not a version with a time is left out: an asymmetric key has an
/// object in place of the time.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShownVersions {
    /// The newest ones.
    pub versions: KeyVersions,
    /// Whether the list had more than [`MAX_VERSIONS`].
    pub is_cut: bool,
}

impl<'de> Deserialize<'de> for ShownVersions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = ShownVersions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of versions to the times of their creation")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ShownVersions, A::Error> {
        let (mut newest, mut count) = (Newest::default(), 0_usize);
        while let Some((name, Created(created))) = map.next_entry::<std::borrow::Cow<'de, str>, Created>()? {
            if let (Ok(version), Some(created)) = (name.parse(), created) {
                newest.add((version, created));
                count = count.saturating_add(1);
            }
        }
        // A list may name a version twice: only a long one is counted exactly.
        let versions = newest.versions();
        Ok(ShownVersions { is_cut: count > MAX_VERSIONS && versions.0.len() == MAX_VERSIONS, versions })
    }
}

/// A whole number of seconds; `None` for every other value.
struct Created(Option<i64>);

impl<'de> Deserialize<'de> for Created {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CreatedVisitor)
    }
}

struct CreatedVisitor;

impl<'de> Visitor<'de> for CreatedVisitor {
    type Value = Created;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_i64<E>(self, value: i64) -> Result<Created, E> {
        Ok(Created(Some(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Created, E> {
        Ok(Created(i64::try_from(value).ok()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Created, E> {
        Ok(Created(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Created, E> {
        Ok(Created(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Created, E> {
        Ok(Created(None))
    }

    fn visit_unit<E>(self) -> Result<Created, E> {
        Ok(Created(None))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Created, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Created(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Created, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Created(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(versions: std::ops::RangeInclusive<u32>) -> KeyVersions {
        versions.map(|version| (version, i64::from(version))).collect()
    }

    #[test]
    fn a_list_is_read_written_and_looked_up() {
        let json =
            r#"{"2":20,"10":100,"x":1,"3":{"creation_time":"2026"},"4":"5","5":[1],"6":1.5,"7":null,"2":21}"#;
        let shown: ShownVersions = serde_json::from_str(json).unwrap();
        assert!(!shown.is_cut);
        assert_eq!(shown.versions, KeyVersions::from([(10, 100), (2, 21)]));
        assert_eq!((shown.versions.get(10), shown.versions.get(3)), (Some(100), None));
        let written = serde_json::to_string(&shown.versions).unwrap();
        assert_eq!(written, r#"{"2":21,"10":100}"#);
        assert_eq!(serde_json::from_str::<KeyVersions>(&written).unwrap(), shown.versions);
    }

    #[test]
    fn what_is_shown_is_kept_and_the_rest_is_bounded() {
        let most = u32::try_from(MAX_VERSIONS).unwrap();
        assert_eq!(range(1..=3).merged(&range(2..=5)), range(1..=5));
        let changed = KeyVersions::from([(3, 33)]);
        assert_eq!(range(1..=3).merged(&changed), KeyVersions::from([(1, 1), (2, 2), (3, 33)]));
        // Every shown version is kept, and of the others the newest.
        let merged = range(1..=most).merged(&range(most + 1..=most + 10));
        assert_eq!(merged, range(11..=most + 10));
        let mut known = KeyVersions::default();
        for read in 0..22 {
            let first = read * 60_000;
            let shown = range(first + 1..=first + 60_000);
            known = known.merged(&shown);
            assert!(known.0.len() <= MAX_VERSIONS);
            assert!(shown.iter().all(|(version, _)| known.contains(version)));
        }
    }

    #[test]
    fn of_a_list_beyond_the_limit_the_newest_are_kept() {
        let list = |last: usize| {
            let items: Vec<_> = (1..=last).map(|version| format!("\"{version}\":{version}")).collect();
            serde_json::from_str::<ShownVersions>(&format!("{{{}}}", items.join(","))).unwrap()
        };
        assert!(!list(MAX_VERSIONS).is_cut);
        let cut = list(3 * MAX_VERSIONS);
        assert!(cut.is_cut && cut.versions.0.len() == MAX_VERSIONS);
        assert!(cut.versions.contains(u32::try_from(3 * MAX_VERSIONS).unwrap()));
        // One version, many times, is one version.
        let same = format!("{{{}\"1\":1}}", "\"1\":1,".repeat(3 * MAX_VERSIONS));
        let same: ShownVersions = serde_json::from_str(&same).unwrap();
        assert!(!same.is_cut && same.versions == range(1..=1));
    }
}
