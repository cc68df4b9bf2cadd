//! The API server's EncryptionConfiguration.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// The provider's name in most tests; it is a part of what stands before each value in etcd.
pub const PROVIDER: &str = "kms-plugin";

/// A KMS v2 provider at this socket.
pub fn kms(socket: &Path) -> Value {
    json!({ "kms": {
        "apiVersion": "v2", "name": PROVIDER, "endpoint": format!("unix://{}", socket.display()), "timeout": "3s",
    } })
}

/// A key in the configuration itself.
pub fn aescbc() -> Value {
    json!({ "aescbc": { "keys": [{ "name": "key1", "secret": BASE64_STANDARD.encode([7; 32]) }] } })
}

/// No encryption.
pub fn identity() -> Value {
    json!({ "identity": {} })
}

/// The whole file, for Secrets and ConfigMaps: the first provider writes, all of them read. JSON is YAML.
pub fn of(providers: &[Value]) -> String {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{ "resources": ["secrets", "configmaps"], "providers": providers }],
    })
    .to_string()
}
