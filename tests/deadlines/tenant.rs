//! What one agent has on a server: a key, a policy and a role of its own, so that several agents share a server and a
//! fault meets only one of them.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::product::Product;
use crate::support::vault::{Vault, policy, write_secret};

/// What an agent loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The policy allows another key instead.
    Right,
    /// The key is deleted. It comes back from a backup, with the same creation time.
    Key,
    /// The key is soft-deleted, which only OpenBao can do.
    SoftDeleted,
}

impl Loss {
    /// Those that the server can do.
    pub fn all() -> &'static [Self] {
        match Product::chosen() {
            Product::OpenBao => &[Self::Right, Self::Key, Self::SoftDeleted],
            Product::Vault => {
                println!("NOT TESTED a soft-deleted key: HashiCorp Vault has no soft deletion");
                &[Self::Right, Self::Key]
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Right => "right lost",
            Self::Key => "key deleted",
            Self::SoftDeleted => "key soft-deleted",
        }
    }
}

/// A key, a policy and a role of one name.
pub struct Tenant {
    pub name: String,
    files: TempDir,
    backup: Value,
}

impl Tenant {
    pub async fn new(vault: &Vault, name: &str) -> Self {
        vault.post(&format!("transit/keys/{name}"), json!({})).await;
        let config = json!({ "exportable": true, "allow_plaintext_backup": true, "deletion_allowed": true });
        vault.post(&format!("transit/keys/{name}/config"), config).await;
        let backup = vault.get(&format!("transit/backup/{name}")).await["data"]["backup"].clone();
        let tenant = Self { name: name.to_owned(), files: tempfile::tempdir().unwrap(), backup };
        tenant.allow(vault, &policy("transit", name)).await;
        let role = json!({
            "token_policies": name, "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "4h",
        });
        vault.post(&format!("auth/approle/role/{name}"), role).await;
        let role_id = vault.get(&format!("auth/approle/role/{name}/role-id")).await;
        write_secret(&tenant.file("role-id"), role_id["data"]["role_id"].as_str().unwrap());
        let secret_id = vault.post(&format!("auth/approle/role/{name}/secret-id"), json!({})).await;
        write_secret(&tenant.file("secret-id"), secret_id["data"]["secret_id"].as_str().unwrap());
        tenant
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A configuration that leaves everything at its default but the server, the key and the credentials.
    pub fn config(&self, addresses: &[&str]) -> String {
        format!(
            "[vault]\naddresses = {addresses:?}\n[vault.transit]\nkey = {:?}\n[vault.auth]\nmethod = \"approle\"\n\
             role_id_file = {:?}\nsecret_id_file = {:?}\n",
            self.name,
            self.file("role-id"),
            self.file("secret-id"),
        )
    }

    /// Puts a wrong secret-id in place of the right one.
    pub fn spoil_secret_id(&self) {
        write_secret(&self.file("secret-id"), "00000000-0000-0000-0000-000000000000");
    }

    /// Replaces the policy.
    pub async fn allow(&self, vault: &Vault, text: &str) {
        vault.put_policy(&self.name, text).await;
    }

    /// A seed that the key itself has wrapped, and that no agent has seen.
    pub async fn seed(&self, vault: &Vault) -> Vec<u8> {
        let plaintext = json!({ "plaintext": "YSBzZWVkIG9mIHRoaXJ0eS10d28gYnl0ZXMgbG9uZyE=" });
        let wrapped = vault.post(&format!("transit/encrypt/{}", self.name), plaintext).await;
        wrapped["data"]["ciphertext"].as_str().unwrap().as_bytes().to_vec()
    }

    pub async fn lose(&self, vault: &Vault, loss: Loss) {
        let key = format!("transit/keys/{}", self.name);
        match loss {
            Loss::Right => self.allow(vault, &policy("transit", "another-key")).await,
            Loss::Key => vault.delete(&key).await,
            Loss::SoftDeleted => vault.delete(&format!("{key}/soft-delete")).await,
        }
    }

    pub async fn restore(&self, vault: &Vault, loss: Loss) {
        let name = &self.name;
        match loss {
            Loss::Right => self.allow(vault, &policy("transit", name)).await,
            Loss::Key => {
                vault.post(&format!("transit/restore/{name}"), json!({ "backup": self.backup })).await;
            }
            Loss::SoftDeleted => {
                vault.post(&format!("transit/keys/{name}/soft-delete-restore"), json!({})).await;
            }
        }
    }
}
