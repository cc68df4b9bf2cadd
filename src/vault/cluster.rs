//! `sys/health`: whether a server can serve, and which cluster it belongs to. Needs no token.
//!
//! Must not know tokens or Transit.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::Method;
use serde::Deserialize;
use tokio::time::Instant;

use super::address::Address;
use super::classification::{Class, Judgement, not_vault};
use super::client::Client;
use super::transport::Request;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::Backoff;
use crate::untrusted;

/// The server answers 200 to this in most states. The answer is judged by its body: a gateway may drop the query.
const HEALTH: &str = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200";

/// Shortest and longest time between two checks of an address that failed.
const CHECK_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Time for such a check. An address that takes longer hangs.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_millis(1500);
/// Time to find the active server, and how long it is believed to be the active one.
const ACTIVE_TIMEOUT: Duration = Duration::from_millis(500);
const ACTIVE_KNOWN: Duration = Duration::from_secs(10);

/// The fields of `sys/health` that are used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SysHealth {
    /// A sealed server has none.
    #[serde(default, deserialize_with = "untrusted::deserialize_option")]
    pub cluster_id: Option<String>,
    pub sealed: bool,
    pub initialized: bool,
    /// Whether it forwards requests to the active server.
    #[serde(default)]
    pub standby: bool,
    #[serde(default, deserialize_with = "untrusted::deserialize")]
    pub version: String,
    /// Whether it is Vault Enterprise. OpenBao and older versions of Vault do not say.
    #[serde(default)]
    pub enterprise: Option<bool>,
    /// The server's clock, in seconds since 1970.
    #[serde(default)]
    pub server_time_utc: Option<i64>,
}

fn health_request(namespace: &str) -> Request<'_> {
    Request { namespace, ..Request::new(Method::GET, HEALTH) }
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
        Err(first.unwrap_or_else(|| KeyServiceError::deadline("trying the addresses")))
    }

    /// The addresses in the order in which they are tried, that of the active server first. A standby may be behind,
    /// and a member that was removed from the cluster may answer as a standby for good. One address may lead to any
    /// server, so it is not asked.
    pub(super) async fn order_from_active(&self, deadline: Deadline) -> Vec<usize> {
        let order = self.order();
        if let [_] | [] = order[..] {
            return order;
        }
        let known = *self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((active, _)) = known.filter(|(_, since)| since.elapsed() < ACTIVE_KNOWN) {
            return self.order_from(active);
        }
        let deadline = deadline.at_most(ACTIVE_TIMEOUT.min(deadline.remaining() / 4));
        let leads = |index: usize| async move {
            let health = self.usable_health(self.addresses.get(index)?, deadline).await;
            health.is_ok_and(|health| !health.standby).then_some(index)
        };
        let (first, rest) = order.split_at(1);
        let mut found = None;
        for some in [first, rest] {
            let mut asked: FuturesUnordered<_> = some.iter().map(|index| leads(*index)).collect();
            while let (None, Some(answer)) = (found, asked.next().await) {
                found = answer;
            }
        }
        let Some(active) = found else { return order };
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = Some((active, Instant::now()));
        self.order_from(active)
    }

    /// Checks failed addresses again while another address serves. Calls go only to the one that serves, so without
    /// this the reported state of the others would never change. Never returns.
    pub(super) async fn check_failed_addresses(&self) {
        let mut backoff = Backoff::new(CHECK_INTERVAL.0, CHECK_INTERVAL.1);
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            for address in &self.addresses {
                address.http().close_idle();
            }
            let failed = |address: &Address| address.state().0 == Some(false) && !address.is_other_cluster();
            let checks: Vec<_> = self
                .addresses
                .iter()
                .enumerate()
                .filter(|(_, address)| failed(address))
                .map(|(index, _)| self.health(index, Deadline::after(CHECK_TIMEOUT)))
                .collect();
            // When all have failed, the callers' requests try them anyway.
            if checks.is_empty() || checks.len() == self.addresses.len() {
                backoff.reset();
                continue;
            }
            futures_util::future::join_all(checks).await;
        }
    }

    /// Checks one address, and records the result.
    async fn health(&self, index: usize, deadline: Deadline) -> Result<SysHealth, KeyServiceError> {
        let Some(address) = self.addresses.get(index) else {
            return Err(KeyServiceError::deadline("trying the addresses"));
        };
        let result = self.usable_health(address, deadline).await;
        match &result {
            Ok(health) => {
                address.answered();
                self.learn_namespaces(address, health, deadline).await;
            }
            Err(error) => address.failed(error),
        }
        result
    }

    /// The health of a server that can serve.
    async fn usable_health(
        &self,
        address: &Address,
        deadline: Deadline,
    ) -> Result<SysHealth, KeyServiceError> {
        let (health, judgement) = self.ask_health(address, deadline).await?;
        address.set_removed(judgement.is_of_removed_member());
        match judgement.failure(&address.name) {
            Some(error) => Err(error),
            None => health.ok_or_else(|| not_vault(&address.name)),
        }
    }

    /// The health of the server at an address, also when it is sealed.
    pub(super) async fn sys_health(
        &self,
        address: &Address,
        deadline: Deadline,
    ) -> Result<SysHealth, KeyServiceError> {
        let (health, judgement) = self.ask_health(address, deadline).await?;
        match (health, judgement.failure(&address.name)) {
            (Some(health), Some(_)) if judgement.class() == Class::Sealed => Ok(health),
            (_, Some(error)) => Err(error),
            (health, None) => health.ok_or_else(|| not_vault(&address.name)),
        }
    }

    /// What the server says of its health, if it does, and what the answer means.
    async fn ask_health(
        &self,
        address: &Address,
        deadline: Deadline,
    ) -> Result<(Option<SysHealth>, Judgement), KeyServiceError> {
        let (response, judgement) = self.send(address, &health_request(""), deadline).await?;
        Ok((serde_json::from_slice(&response.body).ok(), judgement))
    }

    /// Whether the server tells its health in this namespace, too; `None` when there is no answer.
    pub(super) async fn answers_in(
        &self,
        address: &Address,
        namespace: &str,
        deadline: Deadline,
    ) -> Option<bool> {
        let (response, judgement) = self.send(address, &health_request(namespace), deadline).await.ok()?;
        match judgement.class() {
            Class::Ok => Some(true),
            // In the server's own form. A gateway may refuse a path or a header that it does not know.
            _ if response.status == 400 && judgement.is_of_the_server() => Some(false),
            _ => None,
        }
    }

    /// Whether the address that refused a request belongs to a cluster other than the key's. When all addresses do,
    /// the cluster was replaced: then the known cluster id is dropped, and the result is `false`.
    pub(super) async fn is_other_cluster(&self, index: usize, deadline: Deadline) -> bool {
        let Some(known) = self.cluster_id() else { return false };
        let Some(address) = self.addresses.get(index) else { return false };
        let health = match self.usable_health(address, deadline).await {
            Ok(health) => health,
            Err(error) => {
                address.failed(&error);
                return false;
            }
        };
        let other = health.cluster_id.is_some_and(|id| id != known);
        address.set_other_cluster(other);
        if other {
            let message =
                format!("{} belongs to another cluster than the key's; it is not used", address.name);
            let remedy = "correct vault.addresses";
            address.failed(&KeyServiceError::new(ErrorKind::Unreachable, message, remedy));
        } else {
            address.answered();
        }
        if other && self.addresses.iter().all(Address::is_other_cluster) {
            tracing::warn!(
                "every address belongs to another cluster than before; the agent accepts it as the key's cluster"
            );
            self.expect_cluster(None);
            self.addresses.iter().for_each(|address| address.set_other_cluster(false));
            return false;
        }
        other
    }

    /// The id of the key's cluster. The first time, asks the server at `index` and keeps its id.
    pub(super) async fn learn_cluster(&self, index: usize, deadline: Deadline) -> Option<String> {
        if let Some(known) = self.cluster_id() {
            return Some(known);
        }
        let id = self.health(index, deadline).await.ok()?.cluster_id?;
        self.expect_cluster(Some(id.clone()));
        Some(id)
    }
}
