//! `sys/health`: whether a server is there and usable, and which cluster it belongs to. Needs no token.
//!
//! Must not know tokens or Transit.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;

use super::address::Address;
use super::client::Client;
use super::error;
use super::transport::Request;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::Backoff;

/// Answers 200 whatever the state, except for what cannot serve at all.
const HEALTH: &str = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200";

/// Least and longest time until an address that failed is looked at again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Time for such a look.
const LOOK: Duration = Duration::from_millis(1500);

/// `sys/health`, as far as it is used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SysHealth {
    /// The cluster's id; a sealed server tells none.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Whether it is initialised.
    pub initialized: bool,
    /// Whether it only passes requests on.
    #[serde(default)]
    pub standby: bool,
    /// The server's version.
    #[serde(default)]
    pub version: String,
    /// The server's clock, in seconds since 1970.
    #[serde(default)]
    pub server_time_utc: Option<i64>,
}

impl Client {
    /// Whether any address answers `sys/health` as a usable server. Needs no token.
    pub(super) async fn reachable(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        let mut first = None;
        for (index, share) in self.shares(deadline) {
            match self.health(index, share()).await {
                Ok(_) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| KeyServiceError::deadline("looking for a server")))
    }

    /// Looks again and again at addresses that failed while another one serves: calls go to that one, and
    /// without this, what is told of the others would stay as it was. Never returns.
    pub(super) async fn look_after_failed(&self) {
        let mut pace = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            tokio::time::sleep(pace.next_delay()).await;
            let failed = |address: &Address| address.state().0 == Some(false) && !address.is_other_cluster();
            let looks: Vec<_> = self
                .addresses
                .iter()
                .enumerate()
                .filter(|(_, address)| failed(address))
                .map(|(index, _)| self.health(index, Deadline::after(LOOK)))
                .collect();
            // When all have failed, whoever calls looks at them.
            if looks.is_empty() || looks.len() == self.addresses.len() {
                pace.reset();
                continue;
            }
            futures_util::future::join_all(looks).await;
        }
    }

    async fn health(&self, index: usize, deadline: Deadline) -> Result<SysHealth, KeyServiceError> {
        let Some(address) = self.addresses.get(index) else {
            return Err(KeyServiceError::deadline("looking for a server"));
        };
        let judged = self.sys_health(address, deadline).await.and_then(|health| {
            if health.initialized && !health.sealed {
                return Ok(health);
            }
            Err(KeyServiceError::new(
                ErrorKind::Sealed,
                format!("{} is sealed or not initialised", address.name),
                "unseal it: vault operator unseal",
            ))
        });
        match &judged {
            Ok(_) => address.answered(),
            Err(error) => address.failed(error),
        }
        judged
    }

    /// What an address says of itself, also when it is sealed.
    pub(super) async fn sys_health(
        &self,
        address: &Address,
        deadline: Deadline,
    ) -> Result<SysHealth, KeyServiceError> {
        let request = Request {
            method: Method::GET,
            path: HEALTH,
            namespace: "",
            token: None,
            index: None,
            body: None,
        };
        let raw = self.attempt(address, &request, deadline).await?;
        serde_json::from_slice(&raw.body).map_err(|_| error::not_vault(&address.name))
    }

    /// Whether the address that refused us belongs to another cluster than the one our key is in. When
    /// every address does, the cluster was moved: then what was known of it is forgotten.
    pub(super) async fn is_other_cluster(&self, index: usize, deadline: Deadline) -> bool {
        let Some(known) = self.cluster_id() else { return false };
        let Ok(health) = self.health(index, deadline).await else { return false };
        let foreign = health.cluster_id.is_some_and(|id| id != known);
        if let Some(address) = self.addresses.get(index) {
            address.set_foreign(foreign);
            if foreign {
                let message =
                    format!("{} belongs to another cluster than the key's; it is left out", address.name);
                address.failed(&KeyServiceError::new(
                    ErrorKind::Unreachable,
                    message,
                    "correct vault.addresses",
                ));
            }
        }
        if foreign && self.addresses.iter().all(Address::is_other_cluster) {
            tracing::warn!("every address belongs to another cluster than before; it is taken as the key's");
            self.expect_cluster(None);
            self.addresses.iter().for_each(|address| address.set_foreign(false));
            return false;
        }
        foreign
    }

    /// The id of the cluster behind `index`, remembered as ours from the first time on.
    pub(super) async fn learn_cluster(&self, index: usize, deadline: Deadline) -> Option<String> {
        if let Some(known) = self.cluster_id() {
            return Some(known);
        }
        let id = self.health(index, deadline).await.ok()?.cluster_id?;
        self.expect_cluster(Some(id.clone()));
        Some(id)
    }
}
