//! Objects by their metadata: pages of them, and the write that changes nothing.
//!
//! An empty merge patch is enough for an object that is stored under an older key: kube-apiserver stores it anew, and
//! no value travels. An object that is stored under the current key is not written at all. (`GuaranteedUpdate` in
//! `k8s.io/apiserver/pkg/storage/etcd3/store.go`, the same in 1.34, 1.36 and 1.37; `tests/e2e/rewrite/mod.rs` proves it.)
//! Annotations are metadata, and `kubectl apply` copies values into one: pages hold those.

use hyper::Method;
use serde::Deserialize;

use super::answer::{ListMeta, Partial, encoded};
use super::connection::{Call, Connection};
use super::discovery::Resource;
use super::error::CallError;

const LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const OBJECT: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Largest page that is read, in bytes.
const MAX_PAGE: usize = 8 * 1024 * 1024;
/// Largest metadata of one object, in bytes: etcd's limit is 1.5 MiB.
const MAX_OBJECT: usize = 4 * 1024 * 1024;
/// The field manager of the writes. They change no field, so it owns none.
const MANAGER: &str = "kms-plugin-rewrite";

/// One object, at the version that was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Empty for an object of the whole cluster.
    pub namespace: String,
    pub name: String,
    pub resource_version: String,
}

impl Object {
    /// The revision of etcd at which it was last written; `None` when it is not a number.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.resource_version.parse().ok()
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{}{slash}{}", self.namespace, self.name)
    }
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub objects: Vec<Object>,
    /// Where the list continues; `None` at its end.
    pub next: Option<String>,
    /// How many objects follow, where the API server says so.
    pub remaining: u64,
    /// The revision of the list.
    pub revision: Option<u64>,
}

/// What an empty patch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The object was stored anew.
    Anew,
    /// It was stored as it should be.
    Unchanged,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Partial>,
}

impl Connection {
    /// A page of at most `limit` objects of all namespaces, from `next` of the page before.
    ///
    /// # Errors
    /// There is no good answer. [`CallError::TooLarge`]: ask for fewer.
    pub(crate) async fn page(
        &self,
        resource: &Resource,
        limit: usize,
        next: Option<&str>,
    ) -> Result<Page, CallError> {
        let next = next.map(|next| format!("&continue={}", encoded(next))).unwrap_or_default();
        let path = format!("{}?limit={limit}{next}", resource.path("", ""));
        let list: List = self.json(Call::get(path, LIST, MAX_PAGE)).await?;
        let object = |item: Partial| Object {
            namespace: item.metadata.namespace,
            name: item.metadata.name,
            resource_version: item.metadata.resource_version,
        };
        Ok(Page {
            objects: list.items.into_iter().map(object).collect(),
            next: Some(list.metadata.next).filter(|next| !next.is_empty()),
            remaining: list.metadata.remaining_item_count.unwrap_or_default(),
            revision: list.metadata.resource_version.parse().ok(),
        })
    }

    /// Writes an object without changing it, unless somebody has written it since it was listed.
    ///
    /// # Errors
    /// There is no good answer. 409: somebody wrote it meanwhile. 404: it was deleted.
    pub(crate) async fn write_unchanged(
        &self,
        resource: &Resource,
        object: &Object,
    ) -> Result<Written, CallError> {
        let patch = serde_json::json!({ "metadata": { "resourceVersion": object.resource_version } });
        let call = Call {
            method: Method::PATCH,
            path: format!("{}?fieldManager={MANAGER}", resource.path(&object.namespace, &object.name)),
            accept: OBJECT,
            body: Some(("application/merge-patch+json", patch.to_string())),
            limit: MAX_OBJECT,
        };
        let after: Partial = self.json(call).await?;
        let same = after.metadata.resource_version == object.resource_version;
        Ok(if same { Written::Unchanged } else { Written::Anew })
    }
}
