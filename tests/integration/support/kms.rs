//! A KMS v2 client of one connection, and short forms of its calls.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kms_plugin::proto::key_management_service_client::KeyManagementServiceClient;
use kms_plugin::proto::{DecryptRequest, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tower::service_fn;

use super::PATIENCE;

/// A DEK seed.
pub const SEED: [u8; 32] = *b"a DEK seed of thirty-two bytes!!";
/// kube-apiserver's own deadline for a call. Only for tests of what must be done within it: all others wait for as
/// long as [`PATIENCE`].
pub const DEADLINE: Duration = Duration::from_secs(3);

/// A connection for calls of any form.
pub async fn channel(socket: &Path) -> Channel {
    try_channel(socket).await.unwrap()
}

async fn try_channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let target = socket.to_path_buf();
    let connector = service_fn(move |_: Uri| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// One connection.
#[derive(Clone)]
pub struct Kms {
    client: KeyManagementServiceClient<Channel>,
    deadline: Duration,
}

impl Kms {
    pub async fn connect(socket: &Path) -> Self {
        Self::try_connect(socket).await.unwrap()
    }

    pub async fn try_connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let client = KeyManagementServiceClient::new(try_channel(socket).await?);
        Ok(Self { client, deadline: PATIENCE })
    }

    /// The same connection, with another deadline for each call.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub async fn status(&mut self) -> Result<StatusResponse, Status> {
        let request = self.request(StatusRequest {});
        self.client.status(request).await.map(tonic::Response::into_inner)
    }

    pub async fn encrypt(&mut self, plaintext: &[u8]) -> Result<EncryptResponse, Status> {
        let request = self.request(EncryptRequest { plaintext: plaintext.to_vec(), uid: "test".into() });
        self.client.encrypt(request).await.map(tonic::Response::into_inner)
    }

    /// Decrypts what an Encrypt answered, with its annotations.
    pub async fn decrypt(&mut self, wrapped: &EncryptResponse) -> Result<Vec<u8>, Status> {
        self.decrypt_annotated(&wrapped.ciphertext, &wrapped.key_id, wrapped.annotations.clone()).await
    }

    pub async fn decrypt_raw(&mut self, ciphertext: &[u8], key_id: &str) -> Result<Vec<u8>, Status> {
        self.decrypt_annotated(ciphertext, key_id, HashMap::new()).await
    }

    pub async fn decrypt_annotated(
        &mut self,
        ciphertext: &[u8],
        key_id: &str,
        annotations: HashMap<String, Vec<u8>>,
    ) -> Result<Vec<u8>, Status> {
        let request = self.request(DecryptRequest {
            ciphertext: ciphertext.to_vec(),
            uid: "test".into(),
            key_id: key_id.into(),
            annotations,
        });
        let answer = self.client.decrypt(request).await?;
        Ok(answer.into_inner().plaintext)
    }

    /// Wraps the usual seed and checks that it comes back.
    pub async fn round_trip(&mut self) -> EncryptResponse {
        let wrapped = self.encrypt(&SEED).await.unwrap();
        assert_ne!(wrapped.ciphertext, SEED);
        assert_eq!(self.decrypt(&wrapped).await.unwrap(), SEED);
        wrapped
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        request
    }
}
