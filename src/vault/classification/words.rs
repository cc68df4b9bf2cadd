//! The words for each cause: what happened, to which address, and one remedy.

use std::borrow::Cow;

use super::class::Cause;
use super::{Call, Judgement};
use crate::key_service::{ErrorKind, KeyServiceError};

type Text = Cow<'static, str>;

/// What to do when a forward proxy does not accept its user.
pub(super) const PROXY_LOGIN: &str =
    "check the user in vault.proxy and the password in vault.proxy_password_file or vault.proxy_credential";

/// The error of an answer that is not Vault's.
pub(in crate::vault) fn not_vault(address: &str) -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::NotVault,
        format!("{address} answered in a form that is not Vault's"),
        "check vault.addresses: another server or a proxy may answer there",
    )
}

/// The error of an answer that is longer than `limit` bytes.
pub(in crate::vault) fn too_large(address: &str, limit: usize) -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::NotVault,
        format!("{address} answered with more than {} MiB, which is not read", limit >> 20),
        "check vault.addresses: another server or a proxy may answer there; a key with very many versions needs a higher min_decryption_version",
    )
}

/// The error when a proxy is to add its own token, and has no valid one.
pub(in crate::vault) fn proxy_has_no_token(address: &str) -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::Unreachable,
        format!("the proxy at {address} has no valid token: it has not logged in"),
        "see the proxy's log; its configuration needs auto_auth, and api_proxy with use_auto_auth_token (docs/install.md)",
    )
}

/// The message and the remedy of an answer that is about the server, and not about the request.
pub(super) fn failure(judgement: &Judgement, address: &str) -> (String, Text) {
    let Judgement { status, text, .. } = judgement;
    let said = if text.is_empty() { String::new() } else { format!(": {text}") };
    let (message, remedy) = match judgement.cause {
        Cause::ServerSealed => (format!("{address} is sealed"), "unseal it: vault operator unseal"),
        Cause::NotInitialised => {
            (format!("{address} is not initialised"), "initialise and unseal it: vault operator init")
        }
        Cause::NoActiveNode => (
            format!("{address} is a standby that knows no active node"),
            "wait for the election of a leader; if this stays, check the cluster: vault operator raft list-peers",
        ),
        Cause::RemovedNode => (
            format!("{address} was removed from its cluster"),
            "remove it from vault.addresses or from the load balancer, or let it join the cluster again",
        ),
        Cause::SendsToActiveNode => {
            return (
                format!("{address} is a standby and redirects to {text}, which is not configured"),
                format!(
                    "if {address} is one server, add {text} to vault.addresses (the agent sends its token to no other address); if it is a load balancer, the member behind it cannot forward: check the cluster_addr of the members"
                )
                .into(),
            );
        }
        Cause::DrSecondary => (
            format!("{address} is a disaster-recovery secondary and serves no keys"),
            "set vault.addresses to the addresses of the primary cluster, or promote this one",
        ),
        Cause::QuotaExceeded if text.is_empty() => (
            format!(
                "{address} asks to slow down ({status}), but not in Vault's form: a proxy limits requests"
            ),
            "raise the limit of the proxy for this node, or find other clients that use it up",
        ),
        Cause::QuotaExceeded => (
            format!("{address} asks to slow down ({status}){said}"),
            if text.contains("lease count") {
                "raise the lease count quota, or find the clients that log in too often"
            } else {
                "raise the rate limit quota of this mount, or find other clients that use it up"
            },
        ),
        Cause::Overloaded => (
            format!("{address} is overloaded ({status}){said}"),
            "wait; if this stays, find the clients that load Vault, or give it more resources",
        ),
        Cause::NotReplicated => (
            format!("{address} has not replicated this agent's login yet ({status})"),
            "wait; if this stays, check the replication of the cluster",
        ),
        Cause::TokenDropped => (
            format!("{address} got no token from the agent ({status}{said}): a proxy on the way drops it"),
            "let the proxy pass the header X-Vault-Token on",
        ),
        Cause::ProxyWithoutToken => {
            let error = proxy_has_no_token(address);
            return (error.to_string(), error.remedy().to_owned().into());
        }
        Cause::OtherServer if *status == 407 => (
            format!("{address} was not asked: the forward proxy wants a user and a password (407)"),
            PROXY_LOGIN,
        ),
        Cause::GatewayFailed => (
            format!(
                "{address} answered {status}, but not in Vault's form: {}",
                match status {
                    502 => "a load balancer got no usable answer from its server",
                    503 => "a load balancer has no server to lead to",
                    504 => "a load balancer got no answer from its server in time",
                    _ => "a proxy has no server that answers",
                }
            ),
            "check that Vault runs, then the health checks of the proxy or load balancer",
        ),
        Cause::HttpsOnly => (
            format!("{address} answered {status}: this port accepts only HTTPS"),
            "check the scheme (https://) and the port in vault.addresses",
        ),
        Cause::SendsToHttps => (
            format!("{address} redirects to {text}: it accepts only HTTPS"),
            "write https:// in vault.addresses",
        ),
        Cause::SendsElsewhere => (
            format!(
                "{address} redirects to {text}, which is not configured: a proxy or another server answered"
            ),
            "check vault.addresses, and proxies or sign-in pages between this node and Vault",
        ),
        Cause::NoToken => (
            format!("{address} answered a login without a usable token: client_token is empty or damaged"),
            "check vault.addresses, and proxies between this node and Vault: one of them changes the answer",
        ),
        Cause::OtherServer if *status < 300 => {
            let error = not_vault(address);
            return (error.to_string(), error.remedy().to_owned().into());
        }
        Cause::OtherServer => (
            format!("{address} answered {status}, but not as Vault does: a proxy or another server answered"),
            "check vault.addresses, and proxies between this node and Vault",
        ),
        _ if *status == 500 => {
            (format!("{address} answered {status}{said}"), "see the server's log for this time")
        }
        _ => (format!("{address} answered {status}{said}"), "check the state of that server: vault status"),
    };
    (message, remedy.into())
}

/// The message of a refused call. `what` says what was attempted.
pub(super) fn refusal(judgement: &Judgement, what: &str, address: &str) -> String {
    let Judgement { call, cause, status, text, .. } = judgement;
    match (cause, text.as_str()) {
        (Cause::KeyUnusable | Cause::KeySoftDeleted, text) if *status < 300 => format!("{what}: {text}"),
        (Cause::OtherEngine, "") => {
            format!("{what}: {address} answered {status} without data, as another engine does")
        }
        (Cause::LockedOut, _) => format!(
            "{what}: {address} answered {status}: it has locked this login after wrong credentials, which any node may have sent"
        ),
        (Cause::PerhapsLockedOut, text) => format!(
            "{what}: {address} answered {status}: {text}: it may have locked this login after wrong credentials, which any node may have sent"
        ),
        (Cause::LoginForbidden, text) => {
            format!("{what}: {address} answered {status}: {text}: it denies this login, and others not")
        }
        (Cause::NoLoginMount, _) => {
            format!("{what}: {address} answered {status}, as it does where no login method is mounted")
        }
        (Cause::RoleIdUnknown, text) => {
            format!("{what}: {address} answered {status}: {text}: it knows no role with this role-id")
        }
        (Cause::FreshTokenDenied, text) => format!(
            "{what}: {address} answered {status}: {text}: it does not accept the token of a login a moment ago"
        ),
        (Cause::ParametersDenied, text) => format!(
            "{what}: {address} answered {status}: {text}: the policy allows the path, and not the parameters that the agent sends"
        ),
        (
            Cause::MountNotGranted
            | Cause::NamespaceNotGranted
            | Cause::OtherEngine
            | Cause::OtherEngineAtKey,
            text,
        ) if text.contains("mount") => {
            format!("{what}: {text}")
        }
        (Cause::ControlGroup, _) => format!("{what}: {address} asks for the approval of others"),
        (Cause::SecondFactor, _) => format!("{what}: {address} asks for a second factor"),
        (Cause::KeyMissing, "") if *call == Call::ReadKey => {
            format!("{what}: {address} answered {status}: not found")
        }
        (_, "") => format!("{what}: {address} answered {status}: no reason given"),
        (_, text) => format!("{what}: {address} answered {status}: {text}"),
    }
}

/// What to do about a refusal. `None` for wrong credentials: only the login method knows.
pub(super) fn remedy(call: Call, cause: Cause, path: &str) -> Option<Text> {
    let (namespace, mount) = (call.namespace_setting(), call.mount_setting());
    Some(match cause {
        Cause::CredentialsRefused | Cause::LoginForbidden => return None,
        Cause::PermissionDenied => format!("grant the capability on {path} in the token's policy, and check that the key exists: if the policy grants update without create, Vault also answers 403 for a missing key").into(),
        Cause::TokenDenied | Cause::FreshTokenDenied => "the policies are not the reason: allow this node's address in token_bound_cidrs of the role or token (behind a proxy, Vault must trust its X-Forwarded-For), and see whether the entity of this login is disabled".into(),
        Cause::ParametersDenied => format!("remove allowed_parameters, denied_parameters and required_parameters (and a min_wrapping_ttl) from {path} in the token's policy: the agent sends key_version and associated_data, too").into(),
        Cause::LockedOut | Cause::PerhapsLockedOut => "find out who sends wrong credentials for this login (the server's audit log), and correct them there; the server unlocks it by itself, 15 minutes after the last wrong login by default, or at once: vault write -f sys/locked-users/ACCESSOR/unlock/NAME. The agent tries again each minute".into(),
        Cause::NoLoginMount => format!("correct vault.auth.mount or {namespace}, or enable the method there: vault auth list shows what is mounted").into(),
        Cause::RoleIdUnknown => "the role was deleted, or made again: write the role-id of the right role (vault read -field=role_id auth/approle/role/ROLE/role-id) and a new secret-id of it into their files".into(),
        Cause::MountNotGranted => format!("correct {mount} or {namespace}: the token's policies are for another mount").into(),
        Cause::NamespaceNotGranted => format!("correct {namespace}, or log in there (vault.auth_namespace): the token's policies are those of the namespace of its login").into(),
        Cause::LoginDenied => "check vault.auth.mount, and what the role or the wrapping token is limited to".into(),
        Cause::NamespaceLocked => "unlock the namespace: vault namespace unlock".into(),
        Cause::NotRenewable => "use tokens that can be renewed, or a method that logs in".into(),
        Cause::TokenUnknown => "find out who revokes the agent's tokens, and whether all vault.addresses are of one cluster: a new token is not known either".into(),
        Cause::NamespaceMissing => format!("correct {namespace}: the server has no such namespace").into(),
        Cause::MountMissing => format!("correct {mount} or {namespace}: nothing is mounted there").into(),
        Cause::OtherEngine => {
            let wanted = if call == Call::Login { "login method" } else { "Transit mount" };
            format!("correct {mount}: {path} is not a path of the {wanted}").into()
        }
        Cause::NoLoginPath => format!("correct vault.auth.mount: {path} is not the path of a login").into(),
        Cause::RoleMissing => "correct vault.auth.role or vault.auth.mount: the role is not there".into(),
        Cause::WrongNetwork => "allow this node's address in the role's secret_id_bound_cidrs or token_bound_cidrs; behind a proxy, Vault must trust its X-Forwarded-For".into(),
        Cause::NoClientCertificate => "set vault.client_cert_file and vault.client_key_file; a load balancer in front must not end TLS".into(),
        Cause::NoTls => "write https:// in vault.addresses; a load balancer in front must not end TLS".into(),
        Cause::SecondFactor => "exempt this login from MFA: the agent has no second factor".into(),
        Cause::ControlGroup => format!("exempt {path} from the control group in the token's policy").into(),
        Cause::OtherEngineAtKey => format!("correct {mount} or {namespace}: nothing of Transit is there").into(),
        Cause::KeyMissing => format!("check vault.namespace, vault.transit.mount and vault.transit.key: nothing is at {path}; if the key was deleted, restore it from a backup").into(),
        Cause::KeySoftDeleted => {
            let key = path.replace("/encrypt/", "/keys/").replace("/decrypt/", "/keys/");
            format!("restore it: vault write -f {key}/soft-delete-restore").into()
        }
        Cause::KeyUnusable => "create a key of type aes256-gcm96 (vault write -f transit/keys/NAME type=aes256-gcm96)".into(),
        Cause::VersionAhead => "wait: a standby may be behind; if this stays, a member was removed from the cluster and still answers (vault operator raft list-peers), or the key was rolled back (see kms-plugin accept-key)".into(),
        Cause::BelowMinEncryption => "the key was rotated and its min_encryption_version raised; the next call uses the newer version".into(),
        Cause::BelowMinDecryption => "lower min_decryption_version of the Transit key until all data is rewritten under a newer version".into(),
        Cause::BadCiphertext => "the ciphertext is damaged, or was made by another key".into(),
        _ => "compare the versions of the agent and the server, and look for a proxy that changes requests; see the server's log for this time".into(),
    })
}
