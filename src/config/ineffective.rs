//! Settings that have no effect: those of a login method that is not the chosen one, and those of local KEKs while
//! they are off.
//!
//! They are accepted, since a fragment may be shared by nodes that differ; a check tells of them.

use super::raw::{Merged, Problem};

/// The settings that each method reads, beside those that all of them do.
const OF_METHOD: [(&str, &[&str]); 6] = [
    ("token", &["token_file", "credential", "allow_world_readable"]),
    (
        "approle",
        &[
            "role_id",
            "role_id_file",
            "secret_id_file",
            "secret_id_wrapped",
            "credential",
            "allow_world_readable",
        ],
    ),
    ("userpass", &["username", "password_file", "credential", "allow_world_readable"]),
    ("cert", &["role"]),
    ("jwt", &["role", "jwt_file", "credential"]),
    ("kubernetes", &["role", "jwt_file", "credential"]),
];

/// The settings of `[local_kek]` beside the switch.
const OF_LOCAL_KEK: [&str; 3] = ["local_kek.max_offline", "local_kek.max_age", "local_kek.max_uses"];

/// A setting without effect.
#[derive(Debug)]
pub(crate) struct Ineffective {
    /// Which one, and where it stands.
    pub problem: Problem,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Each setting that has no effect beside the others, with its place.
pub(crate) fn ineffective(merged: &Merged) -> Vec<Ineffective> {
    let mut told = of_other_methods(merged);
    let is_on = merged.value("local_kek.enabled").and_then(|value| value.to_bool()) == Some(true);
    for key in OF_LOCAL_KEK.iter().filter(|key| !is_on && merged.value(key).is_some()) {
        told.push(Ineffective {
            problem: Problem::of_key(merged, key, "has no effect while local_kek.enabled is false".into()),
            remedy: "take it out, or turn local KEKs on with local_kek.enabled = true",
        });
    }
    told
}

/// Each setting of `[vault.auth]` that the chosen method does not read.
fn of_other_methods(merged: &Merged) -> Vec<Ineffective> {
    let method = merged.value("vault.auth.method").and_then(|value| value.into_string());
    let Some((method, read)) = OF_METHOD.iter().find(|(name, _)| Some(*name) == method.as_deref()) else {
        return Vec::new();
    };
    let mut others: Vec<&str> = OF_METHOD.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    others.sort_unstable();
    others.dedup();
    others
        .into_iter()
        .filter(|key| !read.contains(key))
        .map(|key| format!("vault.auth.{key}"))
        .filter(|key| merged.value(key).is_some())
        .map(|key| Ineffective {
            problem: Problem::of_key(merged, &key, format!("has no effect with method {method}")),
            remedy: "take it out, or choose the method that reads it with vault.auth.method",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::config::schema;

    #[test]
    fn every_setting_of_a_login_and_of_local_keks_is_in_a_table() {
        let common = ["method", "mount"];
        for key in schema::KEYS.iter().filter_map(|key| key.path.strip_prefix("vault.auth.")) {
            let known = OF_METHOD.iter().any(|(_, keys)| keys.contains(&key)) || common.contains(&key);
            assert!(known, "{key}");
        }
        let others = schema::KEYS.iter().map(|key| key.path).filter(|path| path.starts_with("local_kek."));
        let others: Vec<_> = others.filter(|path| *path != "local_kek.enabled").collect();
        assert_eq!(others, OF_LOCAL_KEK);
    }

    #[test]
    fn what_another_method_reads_is_told() {
        let flag = |key: &str, value: &str| (format!("vault.auth.{key}"), value.to_owned());
        let flags = vec![flag("method", "token"), flag("token_file", "/t"), flag("password_file", "/p")];
        let merged = Merged::load(&Sources { flags, ..Sources::default() }).unwrap();
        let told = ineffective(&merged);
        assert_eq!(told.len(), 1);
        let message = &told[0].problem.message;
        assert!(message.contains("password_file: has no effect with method token"), "{told:?}");
    }

    #[test]
    fn local_keks_that_are_off_have_no_bounds() {
        let flag = |key: &str, value: &str| (format!("local_kek.{key}"), value.to_owned());
        for (enabled, expected) in [("false", 1), ("true", 0)] {
            let flags = vec![flag("enabled", enabled), flag("max_age", "1h")];
            let merged = Merged::load(&Sources { flags, ..Sources::default() }).unwrap();
            assert_eq!(ineffective(&merged).len(), expected);
        }
    }
}
