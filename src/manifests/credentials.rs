//! Changes a configuration so that its secrets come from systemd credentials, and lists these credentials.
//!
//! A dynamic user of the service cannot read root's files, so systemd passes them as credentials.

use toml::{Table, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credential {
    pub name: String,
    /// The file that systemd passes; `None` when the configuration names only the credential.
    pub file: Option<String>,
}

/// The key and the credential's name of each secret. A JWT is not among them: it changes, and systemd reads a
/// credential once.
const SECRETS: [(&str, &str); 3] =
    [("secret_id_file", "secret-id"), ("password_file", "password"), ("token_file", "token")];

/// Replaces every secret file in `config` by a credential. Returns the credentials.
pub(super) fn replace_files(config: &mut Table) -> Vec<Credential> {
    let mut credentials = Vec::new();
    if let Some(Value::Table(vault)) = config.get_mut("vault") {
        of_vault(vault, "", &mut credentials);
    }
    if let Some(Value::Array(entries)) = config.get_mut("decrypt_only") {
        for entry in entries.iter_mut().filter_map(Value::as_table_mut) {
            let name = entry.get("name").and_then(Value::as_str).unwrap_or_default();
            let suffix = suffix(name);
            if let Some(Value::Table(vault)) = entry.get_mut("vault") {
                of_vault(vault, &suffix, &mut credentials);
            }
        }
    }
    credentials
}

/// The end of the names of a `decrypt_only` entry's credentials. Such a name has letters, digits and dashes only.
pub(super) fn suffix(entry: &str) -> String {
    format!("-{}", entry.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

fn of_vault(vault: &mut Table, suffix: &str, credentials: &mut Vec<Credential>) {
    if let Some(Value::Table(auth)) = vault.get_mut("auth") {
        for (key, name) in SECRETS {
            if let Some(Value::String(file)) = auth.remove(key) {
                let name = format!("{name}{suffix}");
                auth.insert("credential".into(), Value::String(name.clone()));
                credentials.push(Credential { name, file: Some(file) });
            }
        }
        if let Some(Value::String(name)) = auth.get("credential")
            && !credentials.iter().any(|credential| credential.name == *name)
        {
            credentials.push(Credential { name: name.clone(), file: None });
        }
    }
    if let Some(Value::String(file)) = vault.remove("proxy_password_file") {
        let name = format!("proxy-password{suffix}");
        vault.insert("proxy_credential".into(), Value::String(name.clone()));
        credentials.push(Credential { name, file: Some(file) });
    }
    if let Some(Value::String(file)) = vault.get_mut("client_key_file") {
        let name = format!("client-key{suffix}");
        credentials.push(Credential { name: name.clone(), file: Some(file.clone()) });
        // The path of a service's credentials is fixed (systemd.exec(5)).
        *file = format!("/run/credentials/kms-plugin.service/{name}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_file_becomes_a_credential_of_its_own() {
        let mut config: Table = toml::from_str(
            "[vault.auth]\nmethod = \"approle\"\nsecret_id_file = \"/s\"\n\
             [[decrypt_only]]\nname = \"old one\"\n[decrypt_only.vault]\nclient_key_file = \"/k\"\n\
             proxy_password_file = \"/p\"\n\
             [decrypt_only.vault.auth]\ntoken_file = \"/t\"\n",
        )
        .unwrap();
        let credentials = replace_files(&mut config);
        let shown: Vec<_> =
            credentials.iter().map(|one| (one.name.as_str(), one.file.as_deref().unwrap())).collect();
        assert_eq!(
            shown,
            [
                ("secret-id", "/s"),
                ("token-old-one", "/t"),
                ("proxy-password-old-one", "/p"),
                ("client-key-old-one", "/k")
            ]
        );
        let text = config.to_string();
        assert!(!text.contains("_file = \"/s\"") && !text.contains("\"/t\""), "{text}");
        assert!(text.contains("credential = \"token-old-one\""), "{text}");
        assert!(text.contains("/run/credentials/kms-plugin.service/client-key-old-one"), "{text}");
    }
}
