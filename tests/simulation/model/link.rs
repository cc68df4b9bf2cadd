//! The network between one agent and the replicas, in place of HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use zeroize::Zeroizing;

use super::super::world::World;
use super::answer::{Answer, Asked};
use super::effect::Trouble;
use super::service::{REPLICAS, Sent, now};
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::simulated::mix;
use crate::vault::{Address, Request, Response, Transport};

/// An agent heeds `Retry-After` up to this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where the agents reach the replicas. They are on loopback, so that an agent believes a refusal.
pub(in super::super) fn at_replica(replica: usize) -> String {
    format!("http://127.0.0.1:{}", 8201 + replica)
}

/// The network of one agent.
pub(in super::super) struct Link {
    pub world: Arc<World>,
    pub node: usize,
}

impl Link {
    /// The time of one way, from 0.1 to 2 ms. A function of the time and the request, not of a sequence: tokio does
    /// not define the order of tasks that become ready together.
    fn latency(&self, operation: &str, replica: usize) -> Duration {
        let text = operation.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        let nanos = u64::try_from(now().as_nanos()).unwrap_or_default();
        let place = (self.node * REPLICAS + replica) as u64;
        Duration::from_nanos(100_000 + mix(self.world.seed ^ mix(nanos ^ mix(place ^ text))) % 1_900_000)
    }

    /// Sends the request over the network. `None` when nothing comes back.
    async fn exchange(&self, replica: usize, request: &Request<'_>) -> Option<Result<Answer, ()>> {
        let (operation, is_health) = (request.call.label(), request.path.starts_with("sys/health"));
        let troubles = self.world.service.lock().unwrap().troubles(self.node, replica);
        let mut way = self.latency(operation, replica);
        for trouble in troubles {
            match trouble {
                Trouble::Hang => return None,
                Trouble::Reset => {
                    tokio::time::sleep(way).await;
                    return Some(Err(()));
                }
                Trouble::Page(status) => {
                    tokio::time::sleep(way * 2).await;
                    return Some(Ok(Answer::page(status)));
                }
                Trouble::NoHealth(status) if is_health => {
                    tokio::time::sleep(way * 2).await;
                    return Some(Ok(Answer::page(status)));
                }
                Trouble::NoHealth(_) => {}
                Trouble::Slow(by) => way += by / 2,
            }
        }
        tokio::time::sleep(way).await;
        let body = request.body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or(Value::Null);
        let token = request.token.map(|token| token.expose());
        let asked = Asked { node: self.node, path: request.path, token, body };
        let answer = {
            let mut service = self.world.service.lock().unwrap();
            let answer = service.answer(replica, &asked);
            if answer.status == 403 {
                service.refused.insert(self.node);
            }
            if answer.status == 400 && asked.path.ends_with("/login") {
                service.wrong_logins.insert(self.node);
            }
            answer
        };
        tokio::time::sleep(way).await;
        Some(Ok(answer))
    }
}

#[async_trait]
impl Transport for Link {
    async fn send(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Response, KeyServiceError> {
        let at = now();
        let (node, operation) = (self.node, request.call.label());
        let replica = (0..REPLICAS).find(|replica| address.name == at_replica(*replica)).unwrap_or(0);
        let has_aad = |body: &[u8]| body.windows(15).any(|part| part == b"associated_data");
        let wraps_kek = operation == "encrypt" && request.body.is_some_and(|body| has_aad(body));
        let number = {
            let sent = Sent { at, node, operation, purpose: deadline.purpose(), wraps_kek, audited: false };
            self.world.service.lock().unwrap().sent(sent)
        };
        let exchanged = tokio::time::timeout_at(deadline.instant(), self.exchange(replica, request)).await;
        let answer = match exchanged {
            Ok(Some(answer)) => Some(answer),
            Ok(None) => {
                tokio::time::sleep_until(deadline.instant()).await;
                None
            }
            Err(_) => None,
        };
        let audited = matches!(&answer, Some(Ok(answer)) if answer.audited);
        self.world.service.lock().unwrap().answered(number, audited);
        let seen = match &answer {
            Some(Ok(answer)) => answer.status.to_string(),
            Some(Err(())) => "reset".into(),
            None => "no answer".into(),
        };
        self.world.log.add(format_args!("agent {node}: {operation} at replica {replica}: {seen}"));
        let unreachable = |text: String, remedy: &'static str| {
            Err(KeyServiceError::new(ErrorKind::Unreachable, text, remedy))
        };
        if let Some(Ok(Answer { retry_after: Some(seconds), .. })) = &answer {
            let pause = now() + Duration::from_secs(*seconds).min(LONGEST_PAUSE);
            let service = &mut self.world.service.lock().unwrap();
            service.pause = service.pause.max(pause);
        }
        match answer {
            Some(Ok(answer)) => Ok(Response {
                status: answer.status,
                location: answer
                    .location
                    .map(|replica| format!("{}/v1/{}", at_replica(replica), request.path)),
                retry_after: answer.retry_after.map(Duration::from_secs),
                index: None,
                quota: None,
                body: Zeroizing::new(answer.body.into_bytes()),
            }),
            Some(Err(())) => unreachable(
                format!("{} cannot be reached: Connection reset by peer (os error 104)", address.name),
                "check that Vault runs and that this node may reach it",
            ),
            None => unreachable(
                format!("{} did not answer in time", address.name),
                "look for a firewall, a server that hangs, or a slow network",
            ),
        }
    }
}
