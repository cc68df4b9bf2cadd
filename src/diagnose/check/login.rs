//! One login, and the token's properties. Refused credentials are not sent again: after a few failed logins a server
//! locks the role, for every node.

use std::time::Duration;

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::refusals::Refusals;
use super::report::Report;
use crate::clock::{Deadline, unix_seconds};
use crate::config::endpoint::Endpoint;
use crate::config::vault::{Method, Vault};
use crate::display::ago;
use crate::key_service::ErrorKind;
use crate::vault::{Inspector, Lookup};

const WHY: &str = "without a login the agent can neither wrap nor unwrap";
/// With a lifetime shorter than this number of seconds, the agent logs in all the time.
const SHORT: u64 = 60;
const DAY: u64 = 86_400;
/// Requests of the check of a token and its key, with a reserve.
const NEEDED: u64 = 10;

/// How the key can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// With a token of this check.
    Token,
    /// By what the running agent knows: it is logged in with the same credentials.
    Agent,
    None,
}

/// What a login would use up, if anything: only the server knows whether it does.
fn uses_up(vault: &Vault) -> Option<&'static str> {
    match vault.auth.method {
        Method::AppRole { wrapped: true, .. } => {
            Some("a wrapping token can be used only once, and the agent needs it")
        }
        // The role-id alone is the login.
        Method::AppRole { secret_id: None, .. } => None,
        Method::AppRole { .. } => {
            Some("a login is one use of the secret-id, and these may be limited (secret_id_num_uses)")
        }
        Method::Token(_) => Some("each request is one use of the token, and these may be limited (num_uses)"),
        _ => None,
    }
}

/// Logs in at one key service, where that uses nothing up, or where it is `wanted`.
pub(crate) async fn check(
    name: &str,
    vault: &Vault,
    inspector: &Inspector,
    (agent, wanted): (&AgentView, bool),
    refusals: &mut Refusals,
    time: Duration,
    report: &mut Report<'_>,
) -> Access {
    let subject = subject(name, vault);
    if let Method::None = vault.auth.method {
        let because = "vault.auth.method is none: the proxy logs in, and the next line looks at its token";
        report.add(Finding::skipped(Check::Login, subject, because));
        // It sends nothing.
        let ready = inspector.log_in(Deadline::after(time)).await.is_ok();
        return if ready { Access::Token } else { Access::None };
    }
    let is_wrapped = matches!(vault.auth.method, Method::AppRole { wrapped: true, .. });
    let fail = |seen: String, remedy: &str| Finding::fail(Check::Login, &subject, seen, WHY, remedy);
    let login_id = inspector.login_id().await;
    if let Ok(id) = login_id.as_deref() {
        if let Some(seen) = agent.refused_login(name, id) {
            let seen = format!(
                "Vault refused these credentials of the running agent; they are not sent again: {seen}"
            );
            report.add(fail(seen, &inspector.login_remedy()));
            return Access::None;
        }
        if let Some(refused) = refusals.find(id) {
            let seen = format!(
                "Vault refused these credentials {} ago; they are not sent again for 15 minutes: {}",
                ago(refused.age()),
                refused.seen
            );
            report.add(fail(seen, &refused.remedy));
            return Access::None;
        }
    }
    if let Some(costs) = uses_up(vault).filter(|_| !wanted || is_wrapped) {
        if login_id.as_deref().is_ok_and(|id| agent.logged_in(name, id)) {
            let seen = format!("the running agent is logged in with these credentials; {costs}");
            report.add(Finding::ok(Check::Login, subject, seen));
            return Access::Agent;
        }
        report.add(without_use(&subject, &vault.auth.method, inspector, costs, time).await);
        return Access::None;
    }
    match inspector.log_in(Deadline::after(time)).await {
        Ok(()) => {
            report.add(Finding::ok(Check::Login, &subject, "succeeded"));
            Access::Token
        }
        Err(error) => {
            let mut seen = error.to_string();
            if error.kind() == ErrorKind::CredentialsRefused
                && let Ok(id) = login_id
                && let Err(cause) = refusals.remember(id, &error)
            {
                seen.push_str(&format!(
                    " (the refusal cannot be saved: {cause}; each further run is one more failed login)"
                ));
            }
            report.add(fail(seen, error.remedy()));
            Access::None
        }
    }
}

/// What can be seen of a login without using anything up.
async fn without_use(
    subject: &str,
    method: &Method,
    inspector: &Inspector,
    costs: &str,
    time: Duration,
) -> Finding {
    let deadline = Deadline::after(time);
    let seen = match method {
        // Even a lookup is one use.
        Method::Token(_) => Ok("to try the token: kms-plugin check --login".to_owned()),
        Method::AppRole { wrapped: true, .. } => {
            let path = inspector.look_up_wrapping(deadline).await;
            path.map(|path| format!("the wrapping token is good, and was not used: {path} made it"))
        }
        _ => match inspector.ask_for_login(deadline).await {
            Some(asked) => asked.map(|()| {
                "the role is there: it was asked without the secret-id; to try the secret-id: kms-plugin check --login"
                    .to_owned()
            }),
            None => Ok("nothing could be asked without it; to log in: kms-plugin check --login".to_owned()),
        },
    };
    match seen {
        Ok(seen) => Finding::skipped(Check::Login, subject, format!("not tried, since {costs}; {seen}")),
        Err(error) => Finding::fail(Check::Login, subject, error.to_string(), WHY, error.remedy().to_owned()),
    }
}

/// Reports a token that allows few requests. Nothing else is tried with it: a refusal of a token that is used up looks
/// like one by the policy. Returns whether it is such a token.
pub(crate) fn few_uses(name: &str, vault: &Vault, inspector: &Inspector, report: &mut Report<'_>) -> bool {
    let uses = inspector.token_uses();
    if uses == 0 || uses >= NEEDED {
        return false;
    }
    let remedy = match vault.auth.method {
        Method::Token(_) => "make tokens without a limit of requests: the agent sends about 4,400 a day",
        _ => "set token_num_uses of the role to 0: the agent must log in again for every few calls",
    };
    report.add(Finding::warn(
        Check::Token,
        subject(name, vault),
        format!("it allows only {uses} requests; nothing else was tried with it"),
        "each call uses one up, and with none left the server refuses all",
        remedy,
    ));
    true
}

/// Checks the token after a login. Returns whether it allows an unlimited number of calls; `None` when it cannot be used.
pub(crate) async fn token(
    name: &str,
    vault: &Vault,
    inspector: &Inspector,
    time: Duration,
    report: &mut Report<'_>,
) -> Option<bool> {
    let subject = subject(name, vault);
    match inspector.token(Deadline::after(time)).await {
        Ok(Some(token)) => {
            report.add(token_finding(&subject, vault, &token));
            Some(token.num_uses == 0)
        }
        Ok(None) => {
            report.add(Finding::warn(
                Check::Token,
                subject,
                "Vault refuses auth/token/lookup-self",
                "after a 403 the agent cannot distinguish an expired token from a missing permission, and logs in again",
                "grant read on auth/token/lookup-self: kms-plugin render policy prints the whole policy",
            ));
            Some(true)
        }
        Err(error) if matches!(vault.auth.method, Method::None) && !error.is_outage() => {
            report.add(Finding::warn(
                Check::Token,
                subject,
                "no token of the proxy may look itself up (auth/token/lookup-self): it has not logged in, or its policy does not allow that",
                "the agent then takes each refusal for a proxy that has not logged in, and serves on for health.outage_grace",
                "see the proxy's log; grant read on auth/token/lookup-self: kms-plugin render policy prints the whole policy",
            ));
            Some(true)
        }
        Err(error) => {
            report.add(Finding::fail(
                Check::Token,
                subject,
                error.to_string(),
                WHY,
                error.remedy().to_owned(),
            ));
            None
        }
    }
}

fn token_finding(subject: &str, vault: &Vault, token: &Lookup) -> Finding {
    let by_login = !matches!(vault.auth.method, Method::Token(_));
    let expires = match token.ttl {
        0 => "does not expire".to_owned(),
        ttl => format!("expires in {}", ago(Duration::from_secs(ttl))),
    };
    let renewable = if token.renewable { "renewable" } else { "not renewable" };
    let seen = format!("{expires}, {renewable}, policies {}", token.policies.join(", "));
    let warn = |why: &str, remedy: String| Finding::warn(Check::Token, subject, seen.clone(), why, remedy);
    if token.policies.iter().any(|policy| policy == "root") {
        let why = "a root token may do anything in Vault: whoever reads it on this node controls Vault";
        return warn(why, "log in by AppRole with its own policy: kms-plugin render policy".into());
    }
    let age = u64::try_from(unix_seconds().saturating_sub(token.creation_time)).unwrap_or_default();
    let left = token.explicit_max_ttl.saturating_sub(age);
    if !by_login && token.explicit_max_ttl > 0 && left < DAY {
        let why = format!(
            "its maximum lifetime ends in {}; it cannot be renewed after that",
            ago(Duration::from_secs(left))
        );
        return warn(&why, "write a new token into the token file, or use a method that logs in".into());
    }
    if !by_login && token.ttl > 0 && token.period == 0 && token.ttl < 7 * DAY {
        let why = "renewals have a maximum, and nobody makes a new token: when it expires, the agent loses access to the key";
        let remedy = "write a periodic token into the token file (vault token create -period=24h -policy=…), or use a method that logs in";
        return warn(why, remedy.into());
    }
    if token.num_uses > 0 {
        let why = format!("it allows only {} requests", token.num_uses);
        return warn(&why, "make tokens without a limit of requests (token_num_uses=0)".into());
    }
    if token.ttl > 0 && token.ttl < SHORT {
        let why = "with this short lifetime the agent logs in all the time: each login is a lease and an audit line";
        return warn(why, "set token_ttl of the role to about one hour".into());
    }
    Finding::ok(Check::Token, subject, seen)
}

/// The name of this login in the report.
pub(crate) fn subject(name: &str, vault: &Vault) -> String {
    if let Method::None = vault.auth.method {
        let addresses: Vec<String> = vault.addresses.iter().map(Endpoint::name).collect();
        let proxy = format!("the proxy at {}", addresses.join(", "));
        return if name == crate::diagnose::PRIMARY { proxy } else { format!("{name}: {proxy}") };
    }
    let mount = format!("auth/{}", vault.auth.mount);
    let place =
        if vault.auth_namespace.is_empty() { mount } else { format!("{}/{mount}", vault.auth_namespace) };
    if name == crate::diagnose::PRIMARY { place } else { format!("{name}: {place}") }
}
