//! EncryptionConfiguration for kube-apiserver.

use crate::config::Settings;
use crate::kubernetes::encryption_configuration_template::{self, Identity, KmsProvider};

pub(crate) struct EncryptionConfig<'a> {
    /// What to encrypt, as the API server names resources.
    pub resources: &'a [String],
    /// Without a colon ([`encryption_configuration_template::check_provider_name`]).
    pub provider_name: &'a str,
    /// Longest time for one call of the API server, as Kubernetes writes durations.
    pub timeout: &'a str,
    pub identity: Identity,
}

pub(crate) fn render(options: &EncryptionConfig<'_>, settings: &Settings) -> String {
    let provider = KmsProvider {
        name: options.provider_name,
        socket: &settings.server.socket,
        timeout: options.timeout,
    };
    let comment =
        "For kube-apiserver --encryption-provider-config. The first provider writes; all of them read.";
    super::comment_lines(comment)
        + &encryption_configuration_template::encryption_configuration(
            options.resources,
            &provider,
            options.identity,
        )
}
