//! What an API server reports about its key in its metrics.
//!
//! `apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds` is set when Status names a key_id, just
//! before the API server makes a new DEK seed. So its check of the providers is asked, too: that fails when the seed
//! could not be made. (`k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go`)

use std::collections::BTreeMap;

use super::connection::{Call, Connection, JSON};
use super::error::CallError;

const KEY_ID: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{";
const CONFIGURATION: &str = "apiserver_encryption_config_controller_last_config_info{";

/// What one API server reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reported {
    /// The key_id that Status named last, by the name of the provider: its hash (`sha256:…`), and when, in seconds since
    /// 1970.
    pub key_ids: BTreeMap<String, (String, f64)>,
    /// The hash of the EncryptionConfiguration that it uses (`sha256:…`).
    pub configuration: Option<String>,
}

impl Connection {
    /// What the API server at this address reports.
    ///
    /// # Errors
    /// There is no good answer.
    pub(crate) async fn reported(&self) -> Result<Reported, CallError> {
        let mut reported = Reported::default();
        self.lines("/metrics", |line| reported.read(line)).await?;
        Ok(reported)
    }

    /// The API server's own check of its KMS providers. It makes a DEK seed when the key_id has changed.
    ///
    /// # Errors
    /// The check fails, or there is no answer.
    pub(crate) async fn check_providers(&self) -> Result<(), CallError> {
        match self.call(Call::get("/readyz/kms-providers", JSON, 64 * 1024)).await {
            Ok(_) => Ok(()),
            // Without KMS providers there is no such check.
            Err(error) if error.code() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Reported {
    /// Reads one line of the metrics.
    fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix(CONFIGURATION) {
            self.configuration = label(rest, "hash");
        }
        let Some(rest) = line.strip_prefix(KEY_ID) else { return };
        let at = rest.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
        let (Some(provider), Some(hash), Some(at)) =
            (label(rest, "provider_name"), label(rest, "key_id_hash"), at)
        else {
            return;
        };
        match self.key_ids.get(&provider) {
            Some((_, newest)) if *newest >= at => {}
            _ => {
                self.key_ids.insert(provider, (hash, at));
            }
        }
    }
}

/// The value of a label. Hashes and the names of providers have no quotes.
fn label(labels: &str, name: &str) -> Option<String> {
    let start = format!("{name}=\"");
    let labels = labels.split_once('}').map_or(labels, |(labels, _)| labels);
    let value = labels.split(',').find_map(|part| part.strip_prefix(start.as_str()))?;
    Some(value.trim_end_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_key_id_of_each_provider_counts() {
        // Words of kube-apiserver 1.36.3.
        let text = "\
# TYPE apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds gauge
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash=\"sha256:73\",key_id_hash=\"sha256:4d\",provider_name=\"kms-plugin\"} 1.7956797984695446e+09
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash=\"sha256:73\",key_id_hash=\"sha256:be\",provider_name=\"kms-plugin\"} 1.7956798681270096e+09
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash=\"sha256:73\",key_id_hash=\"sha256:aa\",provider_name=\"other\"} 1e+09
apiserver_envelope_encryption_key_id_hash_total{apiserver_id_hash=\"sha256:73\",key_id_hash=\"sha256:cc\",provider_name=\"kms-plugin\",transformation_type=\"to_storage\"} 2
apiserver_encryption_config_controller_last_config_info{apiserver_id_hash=\"sha256:73\",hash=\"sha256:e0\"} 1";
        let mut reported = Reported::default();
        text.lines().for_each(|line| reported.read(line));
        assert_eq!(reported.key_ids["kms-plugin"].0, "sha256:be");
        assert_eq!((reported.key_ids["other"].0.as_str(), reported.key_ids.len()), ("sha256:aa", 2));
        assert_eq!(reported.configuration.as_deref(), Some("sha256:e0"));
    }
}
