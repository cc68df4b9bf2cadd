//! The calls behind the cache, against key services that real ones cannot be made to be.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::config::local_kek::Policy;
use crate::embedded::EmbeddedService;
use crate::key_service::{AddressState, KeyDescription, KeyScope, TokenState};
use crate::local_kek::format::kek_data;

const POLICY: Policy =
    Policy { max_offline: Duration::from_secs(3600), max_age: Duration::from_secs(3600), max_uses: 10 };

/// A keyring with a fault.
struct Faulty {
    inner: EmbeddedService,
    /// Takes no notice of associated data, as servers did before they knew it.
    ignores_data: bool,
    /// Refuses to unwrap, after a moment.
    refuses: bool,
    unwraps: AtomicUsize,
}

impl Faulty {
    fn new(directory: &tempfile::TempDir, ignores_data: bool, refuses: bool) -> Self {
        let inner = EmbeddedService::open(directory.path().join("keyring")).unwrap();
        Self { inner, ignores_data, refuses, unwraps: AtomicUsize::new(0) }
    }

    fn bound<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        if self.ignores_data { &[] } else { data }
    }
}

#[async_trait]
impl KeyService for Faulty {
    fn scope(&self) -> &KeyScope {
        self.inner.scope()
    }

    async fn reachable(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        self.inner.reachable(deadline).await
    }

    async fn describe(&self, at_least: u32, deadline: Deadline) -> Result<KeyDescription, KeyServiceError> {
        self.inner.describe(at_least, deadline).await
    }

    async fn wrap(
        &self,
        version: u32,
        plaintext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, KeyServiceError> {
        self.inner.wrap(version, plaintext, self.bound(data), deadline).await
    }

    async fn unwrap(
        &self,
        ciphertext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        self.unwraps.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        match self.refuses {
            true => Err(KeyServiceError::new(ErrorKind::Denied, "no", "ask somebody else")),
            false => self.inner.unwrap(ciphertext, self.bound(data), deadline).await,
        }
    }

    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), KeyServiceError> {
        self.inner.confirm(version, deadline).await
    }

    fn ciphertext_version(&self, ciphertext: &[u8]) -> Option<u32> {
        self.inner.ciphertext_version(ciphertext)
    }

    fn addresses(&self) -> Vec<AddressState> {
        Vec::new()
    }

    fn token(&self) -> Option<TokenState> {
        None
    }

    async fn maintain(&self) {}
}

fn key_version(key_service: &Faulty) -> KeyVersion<'_> {
    KeyVersion { scope: key_service.scope(), version: 1, created: Some(1), key_id: "v1.a" }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(3))
}

#[tokio::test]
async fn a_server_that_takes_no_notice_of_associated_data_is_not_trusted_with_a_local_kek() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let key_service = Faulty::new(&directory, true, false);
    let refused = cache.prepare(&key_service, key_version(&key_service), soon()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::KeyUnusable, "{refused}");
    assert!(cache.claim("v1.a").is_none());
    let key_service = Faulty::new(&directory, false, false);
    cache.prepare(&key_service, key_version(&key_service), soon()).await.unwrap();
    assert!(cache.claim("v1.a").is_some());
}

#[tokio::test]
async fn who_waits_for_an_unwrap_shares_its_failure_and_who_comes_later_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let key_service = Faulty::new(&directory, false, true);
    let ask =
        || cache.unwrap(&key_service, Kind::Kek, key_version(&key_service), b"embedded:v1:AAAA", soon());
    let answers = futures_util::future::join_all((0..50).map(|_| ask())).await;
    assert!(
        answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Denied))
    );
    assert_eq!(key_service.unwraps.load(Ordering::Relaxed), 1);
    assert!(ask().await.is_err());
    assert_eq!(key_service.unwraps.load(Ordering::Relaxed), 2);
    assert!(cache.calls.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_caller_that_goes_away_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let key_service = Faulty::new(&directory, false, false);
    let data = kek_data("v1.a");
    let wrapped = key_service.wrap(1, &[7; 32], &data, soon()).await.unwrap();
    let ask = || cache.unwrap(&key_service, Kind::Kek, key_version(&key_service), &wrapped, soon());
    assert!(tokio::time::timeout(Duration::from_millis(10), ask()).await.is_err());
    assert!(cache.calls.0.lock().unwrap().is_empty());
    assert_eq!(*ask().await.unwrap(), [7; 32]);
    assert_eq!(*ask().await.unwrap(), [7; 32]);
    assert_eq!(key_service.unwraps.load(Ordering::Relaxed), 2);
}

/// Two clusters may share a key_id: while many wait, what one refuses is still asked of the other.
#[tokio::test]
async fn one_key_services_answer_is_not_anothers() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let (refusing, good) = (Faulty::new(&directory, false, true), Faulty::new(&other, false, false));
    let wrapped = good.wrap(1, &[7; 32], &kek_data("v1.a"), soon()).await.unwrap();
    let ask = async || {
        let first = cache.unwrap(&refusing, Kind::Kek, key_version(&refusing), &wrapped, soon()).await;
        assert!(first.is_err());
        cache.unwrap(&good, Kind::Kek, key_version(&good), &wrapped, soon()).await
    };
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    for answer in [one, two, three] {
        assert_eq!(*answer.unwrap(), [7; 32]);
    }
}
