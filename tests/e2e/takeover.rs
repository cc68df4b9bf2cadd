//! This plugin replaces another one, and reads its data.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kms_plugin::proto::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use kms_plugin::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

use crate::apiserver::ApiServer;
use crate::encryption::{PROVIDER, kms, of};
use crate::etcd::Etcd;
use crate::support::agent::{Agent, QUICK};
use crate::support::eventually;
use crate::support::vault::{KEY, Vault};

/// The other plugin's key_id, whatever the key's version.
const KEY_ID: &str = "1";

/// A plugin like the common ones: bare Transit ciphertexts, and a key_id that never changes.
struct BareTransit {
    vault: std::sync::Arc<Vault>,
}

impl BareTransit {
    /// Serves on a runtime of its own. Its shutdown breaks the connections, as the end of a process does.
    fn serve(self, socket: &Path) -> Runtime {
        let runtime = Runtime::new().unwrap();
        let guard = runtime.enter();
        let listener = UnixListener::bind(socket).unwrap();
        drop(guard);
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = tonic::transport::Server::builder().add_service(KeyManagementServiceServer::new(self));
        runtime.spawn(server.serve_with_incoming(incoming));
        runtime
    }
}

#[tonic::async_trait]
impl KeyManagementService for BareTransit {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = StatusResponse { version: "v2".into(), healthz: "ok".into(), key_id: KEY_ID.into() };
        Ok(Response::new(status))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let plaintext = BASE64_STANDARD.encode(request.into_inner().plaintext);
        let answer =
            self.vault.post(&format!("transit/encrypt/{KEY}"), json!({ "plaintext": plaintext })).await;
        let ciphertext = answer["data"]["ciphertext"].as_str().unwrap().into();
        Ok(Response::new(EncryptResponse { ciphertext, key_id: KEY_ID.into(), annotations: HashMap::new() }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let ciphertext = String::from_utf8(request.into_inner().ciphertext).unwrap();
        let answer =
            self.vault.post(&format!("transit/decrypt/{KEY}"), json!({ "ciphertext": ciphertext })).await;
        let plaintext = BASE64_STANDARD.decode(answer["data"]["plaintext"].as_str().unwrap()).unwrap();
        Ok(Response::new(DecryptResponse { plaintext }))
    }
}

#[tokio::test]
async fn data_of_another_plugin_under_the_same_name_is_read_and_taken_over() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let vault = std::sync::Arc::new(vault);
    let directory = tempfile::tempdir().unwrap();
    let before = BareTransit { vault: vault.clone() }.serve(&directory.path().join("kms.sock"));
    let encryption = of(&[kms(&directory.path().join("kms.sock"))]);
    let mut api = ApiServer::ready(&etcd, &encryption).await;
    api.client.write("secrets", "early", "under version 1").await.unwrap();
    // After a rotation the other plugin still answers the same key_id.
    vault.rotate().await;
    api.restart(&encryption).await;
    api.client.write("secrets", "late", "under version 2").await.unwrap();
    let stored = etcd.key_ids("secrets/", PROVIDER).await;
    assert_eq!(stored.keys().collect::<Vec<_>>(), [KEY_ID]);

    // This plugin takes over the socket; the API server does not know.
    before.shutdown_background();
    let agent = Agent::start_in(directory, &(vault.vault_config() + QUICK), &[]);
    agent.wait_for_phase("ready").await;
    let ours = agent.kms().await.status().await.unwrap().key_id;
    api.client.writes_under(&etcd, PROVIDER, &ours).await;
    for round in ["with what it has in memory", "cold"] {
        for (name, text) in [("early", "under version 1"), ("late", "under version 2")] {
            assert_eq!(api.client.read("secrets", name).await.unwrap(), text, "{round}");
        }
        api.restart(&encryption).await;
    }
    api.client.rewrite("secrets").await;
    assert_eq!(etcd.key_ids("secrets/", PROVIDER).await.into_keys().collect::<Vec<_>>(), [ours]);
    eventually("both read after the takeover", async || {
        for name in ["early", "late"] {
            api.client.read("secrets", name).await?;
        }
        Ok(())
    })
    .await;
}
