//! Settings that have no effect: those of a login method that is not the chosen one.
//!
//! They are accepted, since a fragment may be shared by nodes that log in differently; a check tells of them.

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

/// Each setting of `[vault.auth]` that the chosen method does not read, with its place.
pub fn stray(merged: &Merged) -> Vec<Problem> {
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
        .map(|key| Problem::of_key(merged, &key, format!("has no effect with method {method}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::config::schema;

    #[test]
    fn every_setting_of_a_login_is_in_the_table() {
        let common = ["method", "mount"];
        for key in schema::KEYS.iter().filter_map(|key| key.path.strip_prefix("vault.auth.")) {
            let known = OF_METHOD.iter().any(|(_, keys)| keys.contains(&key)) || common.contains(&key);
            assert!(known, "{key}");
        }
    }

    #[test]
    fn what_another_method_reads_is_told() {
        let flag = |key: &str, value: &str| (format!("vault.auth.{key}"), value.to_owned());
        let flags = vec![flag("method", "token"), flag("token_file", "/t"), flag("password_file", "/p")];
        let merged = Merged::load(&Sources { flags, ..Sources::default() }).unwrap();
        let told = stray(&merged);
        assert_eq!(told.len(), 1);
        assert!(told[0].message.contains("password_file: has no effect with method token"), "{told:?}");
    }
}
