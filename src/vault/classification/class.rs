//! The classes of answers, and the causes that each of them has. tests/corpus/README.md defines the classes.
//!
//! A cause is finer than a class: causes of one class have the same consequences, and other words and remedies.

use crate::key_service::ErrorKind;

/// What an answer means for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::vault) enum Class {
    Ok,
    Outage,
    Sealed,
    Standby,
    DrSecondary,
    Throttled,
    NotVault,
    OwnFault,
    Denied,
    TokenDead,
    CredentialsRefused,
    /// The server has locked the login after wrong credentials. No answer alone says so: [`super::login_reason`] does.
    LockedOut,
    /// The credentials are right, and the server refuses the login or its token. No answer alone says so.
    LoginDenied,
    WrongSetting,
    KeyMissing,
    KeySoftDeleted,
    KeyUnusable,
    VersionAhead,
    VersionGone,
    BadCiphertext,
}

impl Class {
    /// The kind of the error that callers get. `Ok` has none.
    pub(in crate::vault) fn kind(self) -> Option<ErrorKind> {
        Some(match self {
            Self::Ok => return None,
            Self::Outage => ErrorKind::Unreachable,
            Self::Sealed => ErrorKind::Sealed,
            Self::Standby | Self::DrSecondary => ErrorKind::Standby,
            Self::Throttled => ErrorKind::Throttled,
            Self::NotVault => ErrorKind::NotVault,
            Self::OwnFault => ErrorKind::Internal,
            // A dead token is a refusal once a new token gets the same answer.
            Self::Denied | Self::TokenDead => ErrorKind::Denied,
            Self::CredentialsRefused => ErrorKind::CredentialsRefused,
            Self::LockedOut => ErrorKind::LockedOut,
            Self::LoginDenied => ErrorKind::LoginDenied,
            Self::WrongSetting => ErrorKind::WrongSetting,
            Self::KeyMissing => ErrorKind::NotFound,
            Self::KeySoftDeleted => ErrorKind::SoftDeleted,
            Self::KeyUnusable => ErrorKind::KeyUnusable,
            Self::VersionAhead => ErrorKind::VersionAhead,
            Self::VersionGone => ErrorKind::VersionGone,
            Self::BadCiphertext => ErrorKind::BadCiphertext,
        })
    }
}

/// Why an answer is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vault) enum Cause {
    /// The server did what was asked, or says that it can.
    Done,

    /// The server failed (5xx).
    ServerFailed,
    /// A proxy or a balancer has no server that answers.
    GatewayFailed,
    /// A server has not replicated the agent's login yet (Vault Enterprise, and OpenBao from 2.7).
    NotReplicated,
    /// A proxy on the way drops the token.
    TokenDropped,
    /// A proxy that is to add its own token has none.
    ProxyWithoutToken,

    ServerSealed,
    NotInitialised,

    /// A standby that knows no active node.
    NoActiveNode,
    /// The node was removed from its cluster, and still runs.
    RemovedNode,
    /// A standby that does not forward sends to the active node.
    SendsToActiveNode,
    DrSecondary,

    QuotaExceeded,
    Overloaded,

    OtherServer,
    /// A login is answered without a token that could be sent: it is empty, or has characters that no header may have.
    NoToken,
    /// A plain HTTP request reached a port that accepts only HTTPS.
    HttpsOnly,
    /// The answer sends to the same host and path, with HTTPS.
    SendsToHttps,
    /// The answer sends to another place than a standby would.
    SendsElsewhere,

    /// The request is wrong in itself.
    BadRequest,

    /// The token's policies do not allow it, or there is no such key.
    PermissionDenied,
    /// The server does not accept the token, without a word on policies: it is dead, or of another network.
    TokenDenied,
    /// A policy allows the path and limits its parameters.
    ParametersDenied,
    /// The token of a login a moment ago is not accepted.
    FreshTokenDenied,
    /// The server does not say why: a locked role, a disabled mount, a rule.
    LoginDenied,
    /// The mount answers logins, and this one is denied: not because of the credentials.
    LoginForbidden,
    LockedOut,
    /// The login may be locked: another try shows it.
    PerhapsLockedOut,
    NamespaceLocked,
    NotRenewable,
    TokenUnknown,
    CredentialsRefused,

    NamespaceMissing,
    MountMissing,
    /// Another secrets engine, or another login method, is mounted there.
    OtherEngine,
    /// The login path is not one.
    NoLoginPath,
    /// Nothing answers logins at the mount.
    NoLoginMount,
    RoleMissing,
    /// The server knows no role with this role-id.
    RoleIdUnknown,
    /// The token may use nothing at the mount.
    MountNotGranted,
    /// The token may use the mount in the namespace of its login, and nothing in that of the key.
    NamespaceNotGranted,
    /// The role or the secret-id is bound to other networks.
    WrongNetwork,
    NoClientCertificate,
    /// The server sees no TLS.
    NoTls,
    SecondFactor,
    /// A control group asks for the approval of others (Vault Enterprise).
    ControlGroup,

    KeyMissing,
    /// No key is there, since another secrets engine is.
    OtherEngineAtKey,
    KeySoftDeleted,
    KeyUnusable,
    VersionAhead,
    /// Below `min_encryption_version`.
    BelowMinEncryption,
    /// Below `min_decryption_version`.
    BelowMinDecryption,
    BadCiphertext,
}

impl Cause {
    pub(super) fn class(self) -> Class {
        match self {
            Self::Done => Class::Ok,
            Self::ServerFailed
            | Self::GatewayFailed
            | Self::NotReplicated
            | Self::TokenDropped
            | Self::ProxyWithoutToken => Class::Outage,
            Self::ServerSealed | Self::NotInitialised => Class::Sealed,
            Self::NoActiveNode | Self::RemovedNode | Self::SendsToActiveNode => Class::Standby,
            Self::DrSecondary => Class::DrSecondary,
            Self::QuotaExceeded | Self::Overloaded => Class::Throttled,
            Self::OtherServer
            | Self::NoToken
            | Self::HttpsOnly
            | Self::SendsToHttps
            | Self::SendsElsewhere => Class::NotVault,
            Self::BadRequest => Class::OwnFault,
            Self::PermissionDenied
            | Self::TokenDenied
            | Self::ParametersDenied
            | Self::LoginDenied
            | Self::NamespaceLocked
            | Self::NotRenewable => Class::Denied,
            Self::TokenUnknown => Class::TokenDead,
            Self::CredentialsRefused | Self::RoleIdUnknown => Class::CredentialsRefused,
            Self::LockedOut | Self::PerhapsLockedOut => Class::LockedOut,
            Self::LoginForbidden | Self::FreshTokenDenied => Class::LoginDenied,
            Self::NamespaceMissing
            | Self::MountMissing
            | Self::OtherEngine
            | Self::NoLoginPath
            | Self::NoLoginMount
            | Self::MountNotGranted
            | Self::NamespaceNotGranted
            | Self::RoleMissing
            | Self::WrongNetwork
            | Self::NoClientCertificate
            | Self::NoTls
            | Self::SecondFactor
            | Self::ControlGroup => Class::WrongSetting,
            // It forbids to wrap, too: another engine would store what it gets.
            Self::KeyMissing | Self::OtherEngineAtKey => Class::KeyMissing,
            Self::KeySoftDeleted => Class::KeySoftDeleted,
            Self::KeyUnusable => Class::KeyUnusable,
            Self::VersionAhead => Class::VersionAhead,
            Self::BelowMinEncryption | Self::BelowMinDecryption => Class::VersionGone,
            Self::BadCiphertext => Class::BadCiphertext,
        }
    }

    /// What a refusal with this cause is to the callers. What no policy can mend is not called a lack of permission.
    pub(in crate::vault) fn kind(self) -> Option<ErrorKind> {
        match self {
            Self::NamespaceLocked | Self::TokenUnknown => Some(ErrorKind::LoginDenied),
            _ => self.class().kind(),
        }
    }

    /// Whether a login is denied for a reason that another try, later, may show to be over.
    pub(super) fn is_of_a_login(self) -> bool {
        matches!(
            self,
            Self::LoginDenied
                | Self::LoginForbidden
                | Self::LockedOut
                | Self::PerhapsLockedOut
                | Self::NoLoginMount
        )
    }

    /// Whether the reason may be that the token is not valid any more: a lookup of the token shows it.
    pub(super) fn may_be_the_token(self) -> bool {
        matches!(self, Self::PermissionDenied | Self::TokenDenied | Self::TokenUnknown)
    }
}
