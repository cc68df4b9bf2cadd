//! AES-256-GCM with the keys of a keyring file: `embedded:vN:` + base64(nonce, ciphertext, tag).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::keyring::{Keyring, KeyringError};
use crate::clock::Deadline;
use crate::key_service::{
    AddressState, ErrorKind, KeyDescription, KeyScope, KeyService, KeyServiceError, KeyWarning, TokenState,
};

/// How a ciphertext of this service begins.
const PREFIX: &str = "embedded:v";

/// A keyring file as a key service.
pub(crate) struct EmbeddedService {
    path: PathBuf,
    scope: KeyScope,
    loaded: Mutex<(Option<SystemTime>, Arc<Keyring>)>,
}

impl EmbeddedService {
    /// Opens the keyring at `path`. Creates it when there is no file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, KeyringError> {
        let keyring = Keyring::open(&path)?;
        let scope = KeyScope { namespace: String::new(), mount: "embedded".into(), key: keyring.id.clone() };
        let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        Ok(Self { path, scope, loaded: Mutex::new((modified, Arc::new(keyring))) })
    }

    /// The keyring. Reads its file again after a change.
    fn keyring(&self) -> Result<Arc<Keyring>, KeyServiceError> {
        let modified = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.0 != modified {
            let keyring = Keyring::read(&self.path).map_err(|error| {
                KeyServiceError::new(
                    ErrorKind::KeyUnusable,
                    error.to_string(),
                    "restore the keyring from a copy",
                )
            })?;
            if keyring.id != self.scope.key {
                return Err(KeyServiceError::new(
                    ErrorKind::KeyUnusable,
                    format!("the keyring {} was replaced by another one", self.path.display()),
                    "put the old file back, or restart to use the new one",
                ));
            }
            *loaded = (modified, Arc::new(keyring));
        }
        Ok(loaded.1.clone())
    }

    fn cipher(&self, version: u32) -> Result<RandomizedNonceKey, KeyServiceError> {
        let keyring = self.keyring()?;
        let Some(found) = keyring.versions.get(&version) else {
            let newer = keyring.versions.keys().next_back().is_some_and(|latest| version > *latest);
            let kind = if newer { ErrorKind::VersionAhead } else { ErrorKind::VersionGone };
            return Err(KeyServiceError::new(
                kind,
                format!("the keyring has no version {version}"),
                "restore the keyring that had it",
            ));
        };
        RandomizedNonceKey::new(&AES_256_GCM, found.key.as_slice()).map_err(|_| internal())
    }
}

fn internal() -> KeyServiceError {
    KeyServiceError::new(ErrorKind::Internal, "AES-GCM failed", "report this as a bug")
}

fn bad_ciphertext() -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::BadCiphertext,
        "the ciphertext is damaged or was not made by this keyring",
        "the data was written under another keyring, or is damaged",
    )
}

#[async_trait]
impl KeyService for EmbeddedService {
    fn scope(&self) -> &KeyScope {
        &self.scope
    }

    async fn reachable(&self, _deadline: Deadline) -> Result<(), KeyServiceError> {
        Ok(())
    }

    async fn describe(&self, _at_least: u32, _deadline: Deadline) -> Result<KeyDescription, KeyServiceError> {
        let keyring = self.keyring()?;
        let latest = keyring.versions.keys().next_back().copied().unwrap_or_default();
        Ok(KeyDescription {
            latest,
            min_encryption: 0,
            min_decryption: 1,
            versions: keyring.versions.iter().map(|(number, version)| (*number, version.created)).collect(),
            key_type: "aes256-gcm96".into(),
            warnings: vec![KeyWarning {
                text: "DEVELOPMENT ONLY: the keys are in a file; everybody who can read it has them".into(),
                remedy: "use Transit in Vault or OpenBao in production".into(),
            }],
            cluster_id: None,
        })
    }

    async fn wrap(
        &self,
        version: u32,
        plaintext: &[u8],
        aad: &[u8],
        _deadline: Deadline,
    ) -> Result<Vec<u8>, KeyServiceError> {
        let cipher = self.cipher(version)?;
        let mut data = plaintext.to_vec();
        let nonce = cipher.seal_in_place_append_tag(Aad::from(aad), &mut data).map_err(|_| internal())?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&data);
        Ok(format!("{PREFIX}{version}:{}", STANDARD.encode(sealed)).into_bytes())
    }

    async fn unwrap(
        &self,
        ciphertext: &[u8],
        aad: &[u8],
        _deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let version = self.ciphertext_version(ciphertext).ok_or_else(bad_ciphertext)?;
        let text = std::str::from_utf8(ciphertext).map_err(|_| bad_ciphertext())?;
        let encoded = text.rsplit(':').next().unwrap_or_default();
        let mut sealed = STANDARD.decode(encoded).map_err(|_| bad_ciphertext())?;
        if sealed.len() < NONCE_LEN {
            return Err(bad_ciphertext());
        }
        let mut data = Zeroizing::new(sealed.split_off(NONCE_LEN));
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| bad_ciphertext())?;
        let cipher = self.cipher(version)?;
        let length =
            cipher.open_in_place(nonce, Aad::from(aad), &mut data).map_err(|_| bad_ciphertext())?.len();
        data.truncate(length);
        Ok(data)
    }

    async fn confirm(&self, version: Option<u32>, _deadline: Deadline) -> Result<(), KeyServiceError> {
        match version {
            Some(version) => self.cipher(version).map(drop),
            None => self.keyring().map(drop),
        }
    }

    fn ciphertext_version(&self, ciphertext: &[u8]) -> Option<u32> {
        let text = std::str::from_utf8(ciphertext).ok()?;
        let (version, data) = text.strip_prefix(PREFIX)?.split_once(':')?;
        if data.is_empty() { None } else { version.parse().ok() }
    }

    fn addresses(&self) -> Vec<AddressState> {
        Vec::new()
    }

    fn token(&self) -> Option<TokenState> {
        None
    }

    async fn maintain(&self) {
        std::future::pending::<()>().await;
    }
}
