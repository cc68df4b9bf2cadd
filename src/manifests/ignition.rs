//! What Ignition writes on a node.

use serde_json::Value;

/// The unit that copies the binary out of an image.
pub(super) const FETCH: &str = "kms-plugin-fetch.service";
/// The unit that puts a changed configuration into use.
pub(super) const APPLY: &str = "kms-plugin-apply.service";

/// The files and units that Ignition writes.
#[derive(Default)]
pub(super) struct Ignition {
    pub(super) files: Vec<Value>,
    pub(super) units: Vec<Value>,
}
