//! Writes an EncryptionConfiguration as text.
//!
//! A text template, and not a YAML writer: `dev` prints one from the daemon's executable, which links no YAML writer.

use std::path::Path;

use super::{duration, endpoint};

/// A KMS v2 provider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KmsProvider<'a> {
    pub name: &'a str,
    pub socket: &'a Path,
    /// Longest time for one call of the API server, as [`duration::parse_text`] reads it.
    pub timeout: &'a str,
}

/// The position of the provider `identity`, which stores data without encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// It writes: encryption is being turned off.
    First,
    /// It only reads: data is being encrypted.
    Last,
    /// No data without encryption is left.
    None,
}

/// The whole document. Its first provider writes, and all of them read.
pub(crate) fn encryption_configuration(
    resources: &[impl AsRef<str>],
    provider: &KmsProvider<'_>,
    identity: Identity,
) -> String {
    let kms = kms_provider(provider);
    let plain = "  - identity: {}\n";
    let providers = match identity {
        Identity::First => format!("{plain}{kms}"),
        Identity::Last => format!("{kms}{plain}"),
        Identity::None => kms,
    };
    let resources: String =
        resources.iter().map(|resource| format!("  - {}\n", scalar(resource.as_ref()))).collect();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - providers:\n{providers}  resources:\n{resources}"
    )
}

fn kms_provider(provider: &KmsProvider<'_>) -> String {
    format!(
        "  - kms:\n      apiVersion: v2\n      endpoint: {}\n      name: {}\n      timeout: {}\n",
        scalar(&endpoint::of_socket(provider.socket)),
        scalar(provider.name),
        scalar(provider.timeout),
    )
}

/// Checks the name of a provider. kube-apiserver refuses a colon, because the name ends at one in etcd.
///
/// # Errors
/// What is wrong with the name.
pub(crate) fn check_provider_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("is empty"),
        name if name.contains(':') => Err("must not contain a colon"),
        _ => Ok(()),
    }
}

/// Writes a text for YAML: without quotes if every parser reads it as a text, else in double quotes.
fn scalar(text: &str) -> String {
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    let is_word = words.iter().any(|word| word.eq_ignore_ascii_case(text));
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':'));
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    // Other texts that begin with a digit may be numbers, dates or times to a parser.
    let is_duration = text.is_ascii() && duration::parse_text(text).is_some();
    if plain && !text.ends_with(':') && !is_word && (begins || is_duration) {
        return text.to_owned();
    }
    let quoted: String = text.chars().map(quoted).collect();
    format!("\"{quoted}\"")
}

/// A character inside of double quotes (YAML 1.2, 5.7). YAML allows letters and digits of every language there.
fn quoted(c: char) -> String {
    match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        _ if c.is_alphanumeric() => c.to_string(),
        _ => format!("\\U{:08X}", u32::from(c)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
    use serde_json::Value;

    use super::super::document;
    use super::super::encryption_configuration::parse;
    use super::*;

    #[test]
    fn plain_texts_stay_readable_and_others_are_quoted() {
        for plain in
            ["secrets", "routes.route.openshift.io", "unix:///run/kms.sock", "kms-plugin", "3s", "500ms"]
        {
            assert_eq!(scalar(plain), plain);
        }
        for other in [
            "",
            "true",
            "No",
            "null",
            "1",
            "1e3",
            "0x1f",
            "1:30",
            "2001-01-01",
            "a: b",
            "a:",
            "*",
            "- a",
            "#",
        ] {
            assert_eq!(scalar(other), format!("\"{other}\""));
        }
        assert_eq!(scalar("a\n\"\\"), "\"a\\U0000000A\\\"\\\\\"");
    }

    #[test]
    fn identity_is_where_it_was_asked_for() {
        let provider = KmsProvider { name: "kms-plugin", socket: Path::new("/run/kms.sock"), timeout: "3s" };
        for (identity, expected) in [
            (Identity::First, vec!["identity", "kms"]),
            (Identity::Last, vec!["kms", "identity"]),
            (Identity::None, vec!["kms"]),
        ] {
            let rules = parse(&encryption_configuration(&["secrets"], &provider, identity)).unwrap();
            let names: Vec<_> = rules[0].providers.iter().map(|provider| provider.name()).collect();
            assert_eq!(names, expected);
        }
    }

    /// Texts of every kind, and texts that YAML could read as something else.
    fn texts() -> impl Strategy<Value = String> {
        proptest::prop_oneof![any::<String>(), "[-0-9a-fA-FxXeE.:_+ ]{1,8}", "[a-zA-Z~]{1,5}", "[ -~]{0,12}"]
    }

    proptest! {
        #[test]
        fn the_reader_gets_the_values_that_were_written(
            name in texts(), path in texts(), timeout in texts(), resource in texts()
        ) {
            let provider = KmsProvider { name: &name, socket: Path::new(&path), timeout: &timeout };
            let text = encryption_configuration(&[&resource], &provider, Identity::Last);
            // YAML 1.2, and YAML 1.1 with the loader's rules.
            let document: Value = yaml_serde::from_str(&text).unwrap();
            prop_assert_eq!(document["resources"][0]["resources"][0].as_str(), Some(&*resource));
            let kms = &document["resources"][0]["providers"][0]["kms"];
            let read = super::super::encryption_configuration_shape::rules(&document::parse(&text).unwrap()).unwrap();
            prop_assert_eq!(&read[0].resources, &[resource]);
            let ours = read[0].providers[0].kms.as_ref().unwrap();
            let endpoint = format!("unix://{path}");
            for (field, value, ours) in [
                ("apiVersion", "v2", &ours.api_version),
                ("name", &name, &ours.name),
                ("endpoint", &endpoint, &ours.endpoint),
            ] {
                prop_assert_eq!(kms[field].as_str(), Some(value));
                prop_assert_eq!(ours, value);
            }
            prop_assert_eq!(kms["timeout"].as_str(), Some(&*timeout));
        }
    }
}
