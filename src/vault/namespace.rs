//! Whether the server has namespaces. One without them ignores the header of a namespace in silence: then the key is
//! that of the root namespace, and its key_id is not that of a node without the setting.
//!
//! Must not decide what follows: the agent goes on under the same key_id, since a cluster may live on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::address::Address;
use super::client::Client;
use super::cluster::SysHealth;
use crate::clock::Deadline;
use crate::config::vault::Vault;
use crate::key_service::KeyWarning;

/// A namespace that exists nowhere. A server with namespaces refuses `sys/health` in every namespace but the root.
const NOWHERE: &str = "kms-plugin-asks-for-namespaces";
/// The name of the root namespace: a server without namespaces has it, too.
const ROOT: &str = "root";

/// What is known about the server's namespaces.
#[derive(Default)]
pub(super) struct Namespaces {
    /// Whether a configured namespace depends on it.
    wanted: AtomicBool,
    /// The version that was asked, and whether it has namespaces.
    known: Mutex<Option<(String, bool)>>,
}

/// The settings of a key service that name a namespace, with their values.
fn configured(vault: &Vault) -> impl Iterator<Item = (&'static str, &str)> {
    [("vault.namespace", &*vault.namespace), ("vault.auth_namespace", &*vault.auth_namespace)]
        .into_iter()
        .filter(|(_, namespace)| !namespace.is_empty() && *namespace != ROOT)
}

/// The warning for a server without namespaces; `None` when no setting names one.
pub(crate) fn warning(vault: &Vault) -> Option<KeyWarning> {
    let (setting, namespace) = configured(vault).next()?;
    let consequence = match setting {
        "vault.namespace" => {
            "the key is that of the root namespace, and its key_id is not that of a node without the setting"
        }
        _ => "the login is in the root namespace",
    };
    let remedy = match setting {
        "vault.namespace" => {
            "do not just remove the setting: key_id changes. First make the key without namespace a decrypt_only on every node, then move and rewrite (docs/operations.md, \"Leave a namespace that the server ignores\")"
        }
        _ => "remove vault.auth_namespace: it has no effect on this server",
    };
    Some(KeyWarning {
        text: format!(
            "the server has no namespaces (Vault Community has none) and ignores {setting} = {namespace:?}: {consequence}"
        ),
        remedy: remedy.into(),
    })
}

impl SysHealth {
    /// Whether this server has namespaces, as far as it says so.
    fn has_namespaces(&self) -> Option<bool> {
        // Vault says which edition it is; OpenBao does not, nor did older versions of Vault.
        self.enterprise
            .or_else(|| (self.version.contains("+ent") || self.version.contains("+prem")).then_some(true))
    }
}

impl Client {
    /// Asks for namespaces from now on, if these settings name one.
    pub(super) fn use_namespaces_of(&self, vault: &Vault) {
        if configured(vault).next().is_some() {
            self.namespaces.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the server at this address has namespaces; `None` when it does not say. Sends a request only where its
    /// health does not tell.
    pub(super) async fn has_namespaces(
        &self,
        address: &Address,
        health: &SysHealth,
        deadline: Deadline,
    ) -> Option<bool> {
        match health.has_namespaces() {
            Some(known) => Some(known),
            None => self.answers_in(address, NOWHERE, deadline).await.map(|answers| !answers),
        }
    }

    /// Learns whether the server has namespaces, if that matters and is not known of its version.
    pub(super) async fn learn_namespaces(&self, address: &Address, health: &SysHealth, deadline: Deadline) {
        let is_known =
            self.known_namespaces().as_ref().is_some_and(|(version, _)| *version == health.version);
        if is_known || !self.namespaces.wanted.load(Ordering::Relaxed) {
            return;
        }
        if let Some(has) = self.has_namespaces(address, health, deadline).await {
            let known = Some((health.version.clone(), has));
            *self.namespaces.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
            self.changes.notify();
        }
    }

    fn known_namespaces(&self) -> Option<(String, bool)> {
        self.namespaces.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The warning about the namespace of these settings, when the server is known to have none.
    pub(super) fn ignored_namespace(&self, vault: &Vault) -> Option<KeyWarning> {
        let ignored = self.known_namespaces().is_some_and(|(_, has)| !has);
        if ignored { warning(vault) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_says_of_itself_counts() {
        let has = |text: &str| serde_json::from_str::<SysHealth>(text).unwrap().has_namespaces();
        let community = r#"{"initialized":true,"sealed":false,"version":"1.21.2","enterprise":false}"#;
        assert_eq!(has(community), Some(false));
        assert_eq!(has(&community.replace("\"enterprise\":false", "\"enterprise\":true")), Some(true));
        let older = r#"{"initialized":true,"sealed":false,"version":"1.15.2+ent.hsm"}"#;
        assert_eq!(has(older), Some(true));
        let openbao = r#"{"initialized":true,"sealed":false,"version":"2.7.2"}"#;
        assert_eq!(has(openbao), None, "OpenBao must be asked");
    }
}
