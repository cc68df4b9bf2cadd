//! The groups in which objects are counted: by resource, by state relative to the current key, and by wrapping.

use super::value::{Mode, Transformer};

/// The state of an object relative to the current key, best first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Under the current key_id.
    Current,
    /// Under KMS v2, when the current key_id is not known.
    KmsV2,
    /// As the EncryptionConfiguration says, and not under KMS. Holds how, for people.
    AsConfigured(String),
    /// Otherwise than the EncryptionConfiguration says. Holds both, for people.
    NotAsConfigured(String),
    /// Under an earlier version of the key, or under a decrypt_only key. Holds the name of that key for people.
    Older(String),
    /// Under KMS v2 with a key_id that is not known.
    OtherKeyId,
    /// Under KMS v2, by a provider with another name.
    OtherProvider,
    /// Under a transformer other than KMS v2.
    Other(Transformer),
    /// Not encrypted.
    Plain,
    /// Neither plain nor encrypted in a known way. Holds the reason.
    Unrecognised(&'static str),
}

impl State {
    /// For people.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Current => "current".into(),
            Self::KmsV2 => "kms v2".into(),
            Self::AsConfigured(how) => format!("{how}, as configured"),
            Self::NotAsConfigured(how) => how.clone(),
            Self::Older(name) => name.clone(),
            Self::OtherKeyId => "other key_id".into(),
            Self::OtherProvider => "other KMS provider".into(),
            Self::Other(transformer) => transformer.name().into(),
            Self::Plain => "plain".into(),
            Self::Unrecognised(why) => format!("unrecognised ({why})"),
        }
    }

    /// The stable name, for programs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::KmsV2 => "kms_v2",
            Self::AsConfigured(_) => "as_configured",
            Self::NotAsConfigured(_) => "not_as_configured",
            Self::Older(_) => "older",
            Self::OtherKeyId => "other_key_id",
            Self::OtherProvider => "other_provider",
            Self::Other(Transformer::KmsV1) => "kms_v1",
            Self::Other(Transformer::AesCbc) => "aescbc",
            Self::Other(Transformer::AesGcm) => "aesgcm",
            Self::Other(Transformer::Secretbox) => "secretbox",
            Self::Plain => "plain",
            Self::Unrecognised(_) => "unrecognised",
        }
    }

    /// Whether the object needs no rewrite, as far as that is known.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Self::Current | Self::KmsV2 | Self::AsConfigured(_))
    }
}

/// Whose key an object under KMS v2 is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The agent's key, or a key_id that is not known.
    Ours,
    /// A `decrypt_only` key in another place.
    Elsewhere,
}

/// The objects that have all of this in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    /// As kubectl names it.
    pub resource: String,
    pub state: State,
    /// The name of the provider in EncryptionConfiguration, or of the key of another transformer; may be empty.
    pub provider: String,
    /// May be empty.
    pub key_id: String,
    /// Whether the object is under KMS v2, and whose key that is.
    pub kms: Option<Owner>,
    /// What wrapped the DEK seed, under KMS v2.
    pub mode: Option<Mode>,
    /// The version of the Transit key, where a Transit key wrapped it.
    pub transit_version: Option<u32>,
    /// Whether an API server that is restarted while the key service is unreachable can read them. `None` where that
    /// is not known.
    pub readable_offline: Option<bool>,
}

impl Group {
    /// A group with a state and nothing else.
    pub(super) fn of(state: State) -> Self {
        Self {
            resource: String::new(),
            state,
            provider: String::new(),
            key_id: String::new(),
            kms: None,
            mode: None,
            transit_version: None,
            readable_offline: None,
        }
    }
}
