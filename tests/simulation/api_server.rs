//! A model of kube-apiserver's KMS v2 client (k8s.io/apiserver, kmsv2): Status each minute, and each 10 s while it
//! fails; a new DEK seed when the key_id changes, wrapped and unwrapped inside that poll; writes with the last seed
//! for three minutes after the last good Status; after a restart, every stored seed is unwrapped.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status};

use super::chance::Chance;
use super::model::key::material_of;
use super::model::service::now;
use super::node::{Read, Serving, Socket};
use super::oracle::Rule;
use super::world::{Stored, World};
use crate::health::Phase;
use crate::kms::Connection;
use crate::local_kek::format::{Form, form};
use crate::proto::key_management_service_server::KeyManagementService as _;
use crate::proto::{DecryptRequest, EncryptRequest, EncryptResponse, StatusRequest};

/// The default timeout of a KMS provider.
const TIMEOUT: Duration = Duration::from_secs(3);
const WELL_INTERVAL: Duration = Duration::from_secs(60);
const ILL_INTERVAL: Duration = Duration::from_secs(10);
/// Until another API server reads what was just stored.
const READ_DELAY: Duration = Duration::from_millis(150);
/// How soon it must be readable.
const READABLE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(450);

pub(super) struct ApiServer {
    node: usize,
    world: Arc<World>,
    socket: Socket,
    chance: Chance,
    /// The connection to one run of the agent.
    connection: Option<(u64, Connection)>,
    /// The key_id of the seed in use.
    key_id: Option<String>,
    /// Whether the last try to make a seed failed.
    wants_seed: bool,
    read: Read,
    next_status: Instant,
    next_read: Instant,
}

impl ApiServer {
    pub(super) fn new(node: usize, world: Arc<World>, socket: Socket, read: Read) -> Self {
        let nanos = u64::try_from(now().as_nanos()).unwrap();
        let mut chance = Chance::new(world.seed ^ nanos ^ (node as u64) << 56);
        let first = chance.time(5..=400);
        Self {
            node,
            socket,
            chance,
            connection: None,
            key_id: None,
            wants_seed: false,
            read,
            next_status: Instant::now() + first,
            next_read: Instant::now() + first,
            world,
        }
    }

    pub(super) async fn run(mut self) {
        let mut stored = self.world.stored.subscribe();
        loop {
            let due = self.next_status.min(self.next_read);
            tokio::select! {
                biased;
                _ = stored.changed() => {
                    self.next_read = self.next_read.min(Instant::now() + READ_DELAY + self.chance.time(0..=80));
                }
                () = tokio::time::sleep_until(due) => {
                    if Instant::now() >= self.next_read {
                        self.read_all().await;
                    }
                    if Instant::now() >= self.next_status {
                        let well = self.poll().await;
                        let interval = if well { WELL_INTERVAL } else { ILL_INTERVAL };
                        self.next_status = Instant::now() + interval;
                    }
                }
            }
        }
    }

    /// One poll. Returns whether the provider is well.
    async fn poll(&mut self) -> bool {
        let Some(serving) = self.connect().await else { return false };
        let status = serving.service.status(self.request(StatusRequest {}));
        let Some(status) = self.answered("Status", timeout(TIMEOUT, status).await) else {
            // A further one on the socket polled before that, and encrypts now.
            if self.chance.percent(15) {
                let key_id = self.key_id.clone().unwrap_or_default();
                self.make_seed(&serving, &key_id).await;
            }
            return false;
        };
        if status.healthz != "ok" {
            self.world.log.add(format_args!("API server {}: Status {}", self.node, status.healthz));
            return false;
        }
        // An API server that was replaced, or a further one on the same socket, makes a seed under the same key_id.
        let further = self.chance.percent(self.world.further_seeds);
        (!further && !self.wants_seed && self.key_id.as_ref() == Some(&status.key_id))
            || self.make_seed(&serving, &status.key_id).await
    }

    /// Makes a seed under the key_id that Status has just announced.
    async fn make_seed(&mut self, serving: &Serving, key_id: &str) -> bool {
        let seed: Vec<u8> = (0..4).flat_map(|_| self.chance.next().to_be_bytes()).collect();
        let before = serving.views.borrow().snapshot.clone();
        let request = EncryptRequest { plaintext: seed.clone(), uid: format!("e{}", self.node) };
        self.world.oracle.call_begins(self.node);
        let answer = timeout(TIMEOUT, serving.service.encrypt(self.request(request))).await;
        let refused = matches!(&answer, Ok(Err(status)) if is_refusal(status.code()));
        self.world.oracle.encrypted(self.node, refused);
        self.wants_seed = true;
        let Some(answer) = self.answered("Encrypt", answer) else { return false };
        let after = serving.views.borrow().snapshot.clone();
        let material = wrapped_by(&answer);
        let is_named = self.world.oracle.is_named(&self.world, &answer.key_id, material);
        self.world.oracle.wrapped(self.node, &answer.key_id, (material, is_named), &before, &after);
        if answer.key_id != key_id {
            self.world.log.add(format_args!("API server {}: another key_id than Status", self.node));
            return false;
        }
        let stored = Stored {
            number: usize::MAX,
            at: now(),
            ciphertext: answer.ciphertext,
            key_id: answer.key_id,
            annotations: answer.annotations,
            seed,
            material,
        };
        if !self.decrypt(&stored).await {
            return false;
        }
        (self.key_id, self.wants_seed) = (Some(key_id.to_owned()), false);
        self.world.store(Stored { at: now(), ..stored });
        true
    }

    /// Unwraps every stored seed that it has not read since its start.
    async fn read_all(&mut self) {
        let stored = self.world.storage.lock().unwrap().clone();
        let mut late = None;
        for stored in &stored {
            if self.read.lock().unwrap().contains(&stored.number) {
                continue;
            }
            if self.decrypt(stored).await {
                self.read.lock().unwrap().insert(stored.number);
                continue;
            }
            let age = now().saturating_sub(stored.at);
            let again = if age < READABLE * 2 { RETRY } else { ILL_INTERVAL };
            late = Some(late.map_or(again, |late: Duration| late.min(again)));
            if age >= READABLE && age < READABLE * 2 {
                self.judge_late(stored);
            }
        }
        self.next_read = Instant::now() + late.unwrap_or(Duration::from_secs(86_400));
    }

    /// What one node wrote, the others must be able to read soon.
    fn judge_late(&self, stored: &Stored) {
        let well = self.socket.lock().unwrap().as_ref().is_some_and(|serving| {
            let snapshot = serving.views.borrow().snapshot.clone();
            snapshot.phase == Phase::Ready
        });
        let lineage = self.world.oracle.is_readable(&self.world, stored);
        // A token that was revoked since the last call: after several of them, the next login waits.
        let logged_in = self.world.service.lock().unwrap().has_token(self.node);
        if well && lineage && logged_in && self.world.clean_for() > READABLE + ILL_INTERVAL {
            let text = format!("API server {} cannot read seed {} after 2 s", self.node, stored.number);
            self.world.oracle.violated(Rule::ReadAfterRotation, text);
        }
    }

    async fn decrypt(&mut self, stored: &Stored) -> bool {
        let Some(serving) = self.connect().await else { return false };
        let request = DecryptRequest {
            ciphertext: stored.ciphertext.clone(),
            uid: format!("d{}", self.node),
            key_id: stored.key_id.clone(),
            annotations: stored.annotations.clone(),
        };
        self.world.oracle.call_begins(self.node);
        let answer = timeout(TIMEOUT, serving.service.decrypt(self.request(request))).await;
        let Some(answer) = self.answered("Decrypt", answer) else { return false };
        if answer.plaintext != stored.seed {
            let text = format!("API server {}: other bytes than were wrapped", self.node);
            self.world.oracle.violated(Rule::RightBytes, text);
        }
        true
    }

    /// The agent on the socket. A client of kube-apiserver waits for one until its timeout.
    async fn connect(&mut self) -> Option<Serving> {
        let until = Instant::now() + TIMEOUT;
        loop {
            let serving = self.socket.lock().unwrap().clone();
            if let Some(serving) = serving {
                if self.connection.as_ref().is_none_or(|(run, _)| *run != serving.run) {
                    let uid = nix::unistd::geteuid().as_raw();
                    self.connection = Some((serving.run, Connection::in_process(uid)));
                }
                return Some(serving);
            }
            if Instant::now() >= until {
                return None;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(self.connection.as_ref().unwrap().1.clone());
        request.metadata_mut().insert("grpc-timeout", "3S".parse().unwrap());
        request
    }

    fn answered<T>(
        &self,
        method: &str,
        answer: Result<Result<tonic::Response<T>, Status>, tokio::time::error::Elapsed>,
    ) -> Option<T> {
        let (seen, answer) = match answer {
            Ok(Ok(answer)) => ("ok".to_owned(), Some(answer.into_inner())),
            Ok(Err(status)) => (
                format!("{:?}: {}", status.code(), status.message().chars().take(140).collect::<String>()),
                None,
            ),
            Err(_) => ("no answer in 3 s".into(), None),
        };
        self.world.log.add(format_args!("API server {}: {method} {seen}", self.node));
        answer
    }
}

fn is_refusal(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::FailedPrecondition)
}

/// Which key wrapped the seed, or the local KEK that wrapped it.
fn wrapped_by(answer: &EncryptResponse) -> u64 {
    let wrapped = match form(&answer.ciphertext, &answer.annotations).unwrap() {
        Form::Direct => answer.ciphertext.as_slice(),
        Form::Local { wrapped } => wrapped,
    };
    material_of(wrapped).unwrap()
}
