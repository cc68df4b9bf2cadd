//! Secret files as systemd credentials: the configuration that names them so, and where each comes from.
//!
//! A user that systemd makes for the service cannot read root's files: systemd hands them over.

use toml::{Table, Value};

/// A credential: its name, and the file that it is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub name: String,
    /// `None` where the configuration names the credential only.
    pub file: Option<String>,
}

/// The secret of each login method. A JWT is not among them: it changes, and a credential is read once.
const SECRETS: [(&str, &str); 3] =
    [("secret_id_file", "secret-id"), ("password_file", "password"), ("token_file", "token")];

/// Rewrites `config` so that every secret file is a credential; returns the credentials.
pub(crate) fn by_credential(config: &mut Table) -> Vec<Credential> {
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

/// What is added to the names of a decrypt_only entry's secrets; names of credentials are plain.
pub(crate) fn suffix(entry: &str) -> String {
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
    if let Some(Value::String(file)) = vault.get_mut("client_key_file") {
        let name = format!("client-key{suffix}");
        credentials.push(Credential { name: name.clone(), file: Some(file.clone()) });
        // The directory of a service's credentials has a fixed place (systemd.exec(5)).
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
             [decrypt_only.vault.auth]\ntoken_file = \"/t\"\n",
        )
        .unwrap();
        let credentials = by_credential(&mut config);
        let shown: Vec<_> =
            credentials.iter().map(|one| (one.name.as_str(), one.file.as_deref().unwrap())).collect();
        assert_eq!(shown, [("secret-id", "/s"), ("token-old-one", "/t"), ("client-key-old-one", "/k")]);
        let text = config.to_string();
        assert!(!text.contains("_file = \"/s\"") && !text.contains("\"/t\""), "{text}");
        assert!(text.contains("credential = \"token-old-one\""), "{text}");
        assert!(text.contains("/run/credentials/kms-plugin.service/client-key-old-one"), "{text}");
    }
}
