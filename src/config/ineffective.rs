//! Settings without an effect: those of another login method, and those of local KEKs while they are off.
//!
//! The agent accepts them, because different nodes may share a file. `kms-plugin check` warns about them.

use super::problem::Problem;
use super::raw::Merged;

/// The settings that each method reads. `method` and `mount`, which every method reads, are not among them.
const OF_METHOD: [(&str, &[&str]); 7] = [
    ("none", &[]),
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

/// The settings of `[local_kek]` that have no effect while `enabled` is false.
const OF_LOCAL_KEK: [&str; 3] = ["local_kek.max_offline", "local_kek.max_age", "local_kek.max_uses"];

/// A setting without effect.
#[derive(Debug)]
pub(crate) struct Ineffective {
    pub problem: Problem,
    pub remedy: &'static str,
}

/// Each setting without an effect, with its origin.
pub(crate) fn ineffective(merged: &Merged) -> Vec<Ineffective> {
    let mut found = of_other_methods(merged);
    let is_on = merged.value("local_kek.enabled").and_then(|value| value.to_bool()) == Some(true);
    for key in OF_LOCAL_KEK.iter().filter(|key| !is_on && merged.value(key).is_some()) {
        found.push(Ineffective {
            problem: Problem::of_key(merged, key, "has no effect while local_kek.enabled is false".into()),
            remedy: "remove it, or turn local KEKs on with local_kek.enabled = true",
        });
    }
    found
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
            remedy: "remove it, or set vault.auth.method to the method that reads it",
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
    fn a_setting_of_another_method_is_found() {
        let flag = |key: &str, value: &str| (format!("vault.auth.{key}"), value.to_owned());
        let flags = vec![flag("method", "token"), flag("token_file", "/t"), flag("password_file", "/p")];
        let merged = Merged::load(&Sources { flags, ..Sources::default() }).unwrap();
        let found = ineffective(&merged);
        assert_eq!(found.len(), 1);
        let message = &found[0].problem.message;
        assert!(message.contains("password_file: has no effect with method token"), "{found:?}");
    }

    #[test]
    fn limits_of_local_keks_have_no_effect_while_they_are_off() {
        let flag = |key: &str, value: &str| (format!("local_kek.{key}"), value.to_owned());
        for (enabled, expected) in [("false", 1), ("true", 0)] {
            let flags = vec![flag("enabled", enabled), flag("max_age", "1h")];
            let merged = Merged::load(&Sources { flags, ..Sources::default() }).unwrap();
            assert_eq!(ineffective(&merged).len(), expected);
        }
    }
}
