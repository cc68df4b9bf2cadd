//! What real servers answered, word for word: recorded from HashiCorp Vault 1.21.2 and OpenBao 2.7.2 (`tests/corpus`);
//! the answers of a DR secondary are from Vault's source.

use serde_json::{Value, json};

pub(super) const SEALED: &str = "Vault is sealed";
pub(super) const DISASTER: &str = "path disabled in replication DR secondary mode";
pub(super) const INTERNAL: &str = "internal error";
pub(super) const RIGHT_MISSING: &str = "1 error occurred:\n\t* permission denied\n\n";
pub(super) const TOKEN_DEAD_VAULT: &str = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n";
/// OpenBao's text for a dead token, and the text of both for a locked role.
pub(super) const DENIED: &str = "permission denied";
pub(super) const WRONG_SECRET_ID: &str = "invalid role or secret ID";
pub(super) const MISSING_ROLE_ID: &str = "missing role_id";
pub(super) const MISSING_SECRET_ID: &str = "missing secret_id";
pub(super) const MISSING_PLAINTEXT: &str = "missing plaintext to encrypt";
pub(super) const NO_KEY: &str = "encryption key not found";
pub(super) const VERSION_AHEAD: &str =
    "requested version for encryption is higher than the latest key version";
pub(super) const BELOW_MIN_ENCRYPTION: &str =
    "requested version for encryption is less than the minimum encryption key version";
pub(super) const TOO_NEW: &str = "invalid ciphertext: version is too new";
pub(super) const TOO_OLD: &str = "ciphertext or signature version is disallowed by policy (too old)";
pub(super) const NOT_AUTHENTIC: &str = "cipher: message authentication failed";
/// The page of a load balancer.
pub(super) const PAGE: &str =
    "<html><body><h1>Service Unavailable</h1>\nNo server is available.\n</body></html>\n";

pub(super) fn quota(path: &str) -> String {
    format!("request path \"{path}\": rate limit quota exceeded")
}

/// The envelope of a good answer.
pub(super) fn data(data: Value) -> Value {
    json!({ "request_id": "00000000-0000-4000-8000-000000000000", "lease_id": "", "renewable": false,
        "lease_duration": 0, "data": data, "wrap_info": null, "warnings": null, "auth": null })
}

/// The envelope of a login and of a renewal.
pub(super) fn auth(token: &str, ttl: u64) -> Value {
    let auth = json!({ "client_token": token, "accessor": "A", "policies": ["kms"], "token_policies": ["kms"],
        "metadata": { "role_name": "kms" }, "lease_duration": ttl, "renewable": true, "entity_id": "",
        "token_type": "service", "orphan": true, "mfa_requirement": null, "num_uses": 0 });
    json!({ "request_id": "00000000-0000-4000-8000-000000000000", "lease_id": "", "renewable": false,
        "lease_duration": 0, "data": null, "wrap_info": null, "warnings": null, "auth": auth })
}

/// `sys/health`. A sealed server has no cluster id.
pub(super) fn health(sealed: bool, standby: bool, connected: bool, time: i64, cluster: &str) -> Value {
    let mut health = json!({ "initialized": true, "sealed": sealed, "standby": standby,
        "performance_standby": false, "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled", "server_time_utc": time, "version": "1.21.2", "enterprise": false });
    let fields = health.as_object_mut().unwrap();
    if !sealed {
        fields.insert("cluster_name".into(), "vault-cluster-00000000".into());
        fields.insert("cluster_id".into(), cluster.into());
    }
    if standby && !sealed {
        fields.insert("removed_from_cluster".into(), false.into());
        fields.insert("ha_connection_healthy".into(), connected.into());
    }
    health
}
