//! Which call of the agent a request is: the same answer means different things for different calls.
//!
//! Must not know answers.

/// A call of the agent to Vault's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Health,
    Login,
    Lookup,
    Renew,
    Revoke,
    Capabilities,
    WrappingLookup,
    Unwrap,
    Encrypt,
    Decrypt,
    ReadKey,
    /// What is mounted, as far as the token may use it.
    Mounts,
}

impl Call {
    /// The call to this path below `/v1/`. Asked several times for each request, so it goes through the bytes: on so
    /// short a text, that costs less than a search for a character.
    pub(crate) fn of(path: &str) -> Self {
        let end = path.bytes().position(|byte| byte == b'?').unwrap_or(path.len());
        match path.get(..end).unwrap_or_default() {
            "sys/health" => Self::Health,
            "sys/wrapping/lookup" => Self::WrappingLookup,
            "sys/wrapping/unwrap" => Self::Unwrap,
            "sys/capabilities-self" => Self::Capabilities,
            "auth/token/lookup-self" => Self::Lookup,
            "auth/token/renew-self" => Self::Renew,
            "auth/token/revoke-self" => Self::Revoke,
            path if path.starts_with("auth/") => Self::Login,
            path if path.starts_with("sys/internal/ui/mounts") => Self::Mounts,
            // A mount may have any name, `encrypt` too: the part before the name of the key decides.
            path => match last_but_one(path) {
                Some("encrypt") => Self::Encrypt,
                Some("decrypt") => Self::Decrypt,
                _ => Self::ReadKey,
            },
        }
    }

    /// The stable name: a label. Never the path itself: it holds names.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Login => "login",
            Self::Lookup => "lookup",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::Capabilities => "capabilities",
            Self::WrappingLookup | Self::Unwrap => "unwrap_secret",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::ReadKey => "read_key",
            Self::Mounts => "mounts",
        }
    }

    /// The setting that holds the namespace of the call.
    pub(super) fn namespace_setting(self) -> &'static str {
        match self {
            Self::Encrypt | Self::Decrypt | Self::ReadKey | Self::Capabilities | Self::Mounts => {
                "vault.namespace"
            }
            _ => "vault.auth_namespace",
        }
    }

    /// The setting that holds the mount of the call.
    pub(super) fn mount_setting(self) -> &'static str {
        match self {
            Self::Encrypt | Self::Decrypt | Self::ReadKey | Self::Mounts => "vault.transit.mount",
            _ => "vault.auth.mount",
        }
    }
}

/// The last but one part of a path.
fn last_but_one(path: &str) -> Option<&str> {
    let slash = |text: &str| text.bytes().rposition(|byte| byte == b'/');
    let head = path.get(..slash(path)?)?;
    head.get(slash(head).map_or(0, |slash| slash + 1)..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_decides_whatever_the_mount_is_called() {
        assert_eq!(Call::of("sys/health?standbyok=true"), Call::Health);
        assert_eq!(Call::of("auth/token/lookup-self"), Call::Lookup);
        assert_eq!(Call::of("auth/userpass/login/encrypt"), Call::Login);
        assert_eq!(Call::of("transit/encrypt/k"), Call::Encrypt);
        assert_eq!(Call::of("team/encrypt/decrypt/k"), Call::Decrypt);
        assert_eq!(Call::of("encrypt/keys/k"), Call::ReadKey);
        assert_eq!(Call::of("encrypt/k"), Call::Encrypt);
        assert_eq!(Call::of("encrypt"), Call::ReadKey);
    }
}
