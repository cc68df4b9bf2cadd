//! The cache's calls, against key services with faults that a real one cannot produce.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::config::local_kek::Policy;
use crate::embedded::EmbeddedService;
use crate::key_service::{AddressState, KeyDescription, KeyScope, TokenState};
use crate::local_kek::format::kek_aad;

const POLICY: Policy =
    Policy { max_offline: Duration::from_secs(3600), max_age: Duration::from_secs(3600), max_uses: 10 };

/// A key service with a fault.
struct Faulty {
    inner: EmbeddedService,
    /// Ignores AAD, like old servers.
    ignores_aad: bool,
    /// Refuses to unwrap, after a moment.
    refuses: bool,
    /// When its key was made, as a read says; `None` where the key may not be read.
    created: Option<i64>,
    unwraps: AtomicUsize,
}

impl Faulty {
    fn new(directory: &tempfile::TempDir, ignores_aad: bool, refuses: bool) -> Self {
        let inner = EmbeddedService::open(directory.path().join("keyring")).unwrap();
        Self { inner, ignores_aad, refuses, created: Some(1), unwraps: AtomicUsize::new(0) }
    }

    fn aad<'a>(&self, aad: &'a [u8]) -> &'a [u8] {
        if self.ignores_aad { &[] } else { aad }
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
        let created = self.created.ok_or_else(|| KeyServiceError::new(ErrorKind::Denied, "no", "none"))?;
        let key = self.inner.describe(at_least, deadline).await?;
        Ok(KeyDescription { versions: [(1, created)].into(), ..key })
    }

    async fn wrap(
        &self,
        version: u32,
        plaintext: &[u8],
        aad: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, KeyServiceError> {
        self.inner.wrap(version, plaintext, self.aad(aad), deadline).await
    }

    async fn unwrap(
        &self,
        ciphertext: &[u8],
        aad: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        self.unwraps.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        match self.refuses {
            true => Err(KeyServiceError::new(ErrorKind::Denied, "no", "none")),
            false => self.inner.unwrap(ciphertext, self.aad(aad), deadline).await,
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
async fn no_local_kek_is_made_with_a_server_that_ignores_aad() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let key_service = Faulty::new(&directory, true, false);
    let refused = cache.prepare(&key_service, key_version(&key_service), soon()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::KeyUnusable, "{refused}");
    assert!(cache.use_current("v1.a").is_none());
    let key_service = Faulty::new(&directory, false, false);
    cache.prepare(&key_service, key_version(&key_service), soon()).await.unwrap();
    assert!(cache.use_current("v1.a").is_some());
}

#[tokio::test]
async fn no_local_kek_is_made_under_another_key() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let other = Faulty { created: Some(2), ..Faulty::new(&directory, false, false) };
    let refused = cache.prepare(&other, key_version(&other), soon()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::VersionAhead, "{refused}");
    assert!(cache.use_current("v1.a").is_none());
}

#[tokio::test]
async fn a_local_kek_that_was_made_without_a_read_is_replaced_when_the_key_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let unreadable = Faulty { created: None, ..Faulty::new(&directory, false, false) };
    cache.prepare(&unreadable, key_version(&unreadable), soon()).await.unwrap();
    let (_, first) = cache.use_current("v1.a").unwrap();
    assert!(!cache.needs_replacement("v1.a"), "in a policy that never allows it, it is as good as any");
    cache.key_was_read();
    assert!(cache.needs_replacement("v1.a"));
    assert!(cache.use_current("v1.a").is_some(), "until there is another one");
    let readable = Faulty { created: Some(1), ..unreadable };
    cache.prepare(&readable, key_version(&readable), soon()).await.unwrap();
    assert_ne!(cache.use_current("v1.a").unwrap().1, first);
    cache.key_was_read();
    assert!(!cache.needs_replacement("v1.a"));
}

#[tokio::test]
async fn waiters_share_a_failure_and_later_callers_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let key_service = Faulty::new(&directory, false, true);
    let unwrap =
        || cache.unwrap(&key_service, KeyKind::Kek, key_version(&key_service), b"embedded:v1:AAAA", soon());
    let answers = futures_util::future::join_all((0..50).map(|_| unwrap())).await;
    assert!(
        answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Denied))
    );
    assert_eq!(key_service.unwraps.load(Ordering::Relaxed), 1);
    assert!(unwrap().await.is_err());
    assert_eq!(key_service.unwraps.load(Ordering::Relaxed), 2);
    assert!(cache.calls.is_empty());
}

/// kube-apiserver 1.37 asks ten times at once for the seed of ten objects.
#[tokio::test]
async fn callers_at_the_same_time_share_one_call_without_a_cache_too() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, None);
    let key_service = Faulty::new(&directory, false, false);
    let wrapped = key_service.wrap(1, &[7; 32], &[], soon()).await.unwrap();
    let unwrap = || cache.unwrap(&key_service, KeyKind::Seed, key_version(&key_service), &wrapped, soon());
    let answers = futures_util::future::join_all((0..10).map(|_| unwrap())).await;
    assert!(answers.iter().all(|answer| **answer.as_ref().unwrap() == [7; 32]));
    assert_eq!(
        key_service.unwraps.load(Ordering::Relaxed),
        1,
        "also the first one, which was alone when it began"
    );
    assert!(cache.calls.is_empty());
    assert_eq!(*unwrap().await.unwrap(), [7; 32]);
    assert_eq!(key_service.unwraps.load(Ordering::Relaxed), 2, "nothing is kept");
}

#[tokio::test]
async fn a_cancelled_caller_does_not_block_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let key_service = Faulty::new(&directory, false, false);
    let aad = kek_aad("v1.a");
    let wrapped = key_service.wrap(1, &[7; 32], &aad, soon()).await.unwrap();
    let unwrap = || cache.unwrap(&key_service, KeyKind::Kek, key_version(&key_service), &wrapped, soon());
    assert!(tokio::time::timeout(Duration::from_millis(10), unwrap()).await.is_err());
    assert!(cache.calls.is_empty());
    assert_eq!(*unwrap().await.unwrap(), [7; 32]);
    assert_eq!(*unwrap().await.unwrap(), [7; 32]);
    assert_eq!(key_service.unwraps.load(Ordering::Relaxed), 2);
}

/// Two clusters may share a key_id. When one refuses, callers still call the other.
#[tokio::test]
async fn the_result_of_one_key_service_is_not_the_result_of_another() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = Cache::open(Vec::new(), None, Some(POLICY));
    let (refusing, good) = (Faulty::new(&directory, false, true), Faulty::new(&other, false, false));
    let wrapped = good.wrap(1, &[7; 32], &kek_aad("v1.a"), soon()).await.unwrap();
    let unwrap = async || {
        let first = cache.unwrap(&refusing, KeyKind::Kek, key_version(&refusing), &wrapped, soon()).await;
        assert!(first.is_err());
        cache.unwrap(&good, KeyKind::Kek, key_version(&good), &wrapped, soon()).await
    };
    let (one, two, three) = tokio::join!(unwrap(), unwrap(), unwrap());
    for answer in [one, two, three] {
        assert_eq!(*answer.unwrap(), [7; 32]);
    }
}
