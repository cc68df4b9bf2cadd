//! Which cluster this is: the UID of the namespace kube-system, which is made once and never changes.

use super::answer::Partial;
use super::connection::{Call, Connection};
use super::error::CallError;

/// The UID.
///
/// # Errors
/// There is no good answer.
pub(crate) async fn cluster_id(connection: &Connection) -> Result<String, CallError> {
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let namespace: Partial =
        connection.json(Call::get("/api/v1/namespaces/kube-system", accept, 1024 * 1024)).await?;
    Ok(namespace.metadata.uid)
}
