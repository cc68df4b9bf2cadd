//! One login, and what the token is like. Credentials that were refused are not sent again: a server locks a
//! role after a few failures, for every node.

use std::time::Duration;

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::refusals::Refusals;
use super::report::Report;
use crate::clock::{Deadline, unix_seconds};
use crate::config::vault::{Method, Vault};
use crate::display::ago;
use crate::key_service::ErrorKind;
use crate::vault::{Inspector, Lookup};

const WHY: &str = "without a login the agent can neither wrap nor unwrap";
/// A token that ends sooner should be looked after by somebody, in seconds.
const SHORT: u64 = 60;
const DAY: u64 = 86_400;

/// Logs in at one key service; whether there is a token to go on with.
pub(crate) async fn check(
    name: &str,
    vault: &Vault,
    inspector: &Inspector,
    agent: &AgentView,
    refusals: &mut Refusals,
    time: Duration,
    report: &mut Report,
) -> bool {
    let subject = subject(name, vault);
    if let Method::AppRole { wrapped: true, .. } = vault.auth.method {
        report.add(Finding::skipped(
            Check::Login,
            subject,
            "the file holds a wrapping token, which opens once: it is left for the agent",
        ));
        return false;
    }
    let fail = |seen: String, remedy: &str| Finding::fail(Check::Login, &subject, seen, WHY, remedy);
    let login_id = inspector.login_id().await;
    if let Ok(id) = login_id.as_deref() {
        if let Some(seen) = agent.refused_login(name, id) {
            let seen = format!("the running agent was refused, and the same is not sent again: {seen}");
            report.add(fail(seen, &inspector.login_remedy()));
            return false;
        }
        if let Some(refused) = refusals.find(id) {
            let seen =
                format!("refused {} ago, and not sent again so soon: {}", ago(refused.age()), refused.seen);
            report.add(fail(seen, &refused.remedy));
            return false;
        }
    }
    match inspector.log_in(Deadline::after(time)).await {
        Ok(()) => {
            report.add(Finding::ok(Check::Login, &subject, "succeeded"));
            true
        }
        Err(error) => {
            let mut seen = error.to_string();
            if error.kind() == ErrorKind::CredentialsRefused
                && let Ok(id) = login_id
                && let Err(cause) = refusals.remember(id, &error)
            {
                seen.push_str(&format!(" (not noted: {cause}; every further run is one more failed login)"));
            }
            report.add(fail(seen, error.remedy()));
            false
        }
    }
}

/// The token of a login that succeeded; whether it may be used many times.
pub(crate) async fn token(
    name: &str,
    vault: &Vault,
    inspector: &Inspector,
    time: Duration,
    report: &mut Report,
) -> bool {
    let subject = subject(name, vault);
    match inspector.token(Deadline::after(time)).await {
        Ok(Some(token)) => {
            report.add(judge(&subject, vault, &token));
            token.num_uses == 0
        }
        Ok(None) => {
            report.add(Finding::warn(
                Check::Token,
                subject,
                "auth/token/lookup-self is refused",
                "after a 403 the agent could not tell a dead token from a missing permission, and would log in again",
                "grant read on auth/token/lookup-self: kms-plugin render policy shows the whole policy",
            ));
            true
        }
        Err(error) => {
            report.add(Finding::fail(
                Check::Token,
                subject,
                error.to_string(),
                WHY,
                error.remedy().to_owned(),
            ));
            false
        }
    }
}

fn judge(subject: &str, vault: &Vault, token: &Lookup) -> Finding {
    let by_login = !matches!(vault.auth.method, Method::Token(_));
    let lives = |seconds: u64| if seconds == 0 { "no end".into() } else { ago(Duration::from_secs(seconds)) };
    let renewable = if token.renewable { "renewable" } else { "not renewable" };
    let seen = format!("ends in {}, {renewable}, policies {}", lives(token.ttl), token.policies.join(", "));
    let warn = |why: &str, remedy: String| Finding::warn(Check::Token, subject, seen.clone(), why, remedy);
    if token.policies.iter().any(|policy| policy == "root") {
        let why = "a root token may do anything in Vault: whoever reads it on this node owns the key service";
        return warn(why, "log in by AppRole with a policy of its own: kms-plugin render policy".into());
    }
    let age = u64::try_from(unix_seconds() - token.creation_time).unwrap_or_default();
    let left = token.explicit_max_ttl.saturating_sub(age);
    if !by_login && token.explicit_max_ttl > 0 && left < DAY {
        let why = format!("its maximum lifetime is over in {}; no renewal helps then", lives(left.max(1)));
        return warn(&why, "write a new token into the token file, or use a method that logs in".into());
    }
    if !by_login && token.ttl > 0 && token.period == 0 && token.ttl < 7 * DAY {
        let why = "renewals end at a maximum, and nobody makes a new one: when it ends, so does all access to the key";
        let remedy = "write a new token into the token file, a periodic one (vault token create -period=24h -policy=…), or use a method that logs in";
        return warn(why, remedy.into());
    }
    if token.num_uses > 0 {
        let why = format!("it serves {} requests only", token.num_uses);
        return warn(&why, "make tokens without a limit of uses (token_num_uses=0)".into());
    }
    if token.ttl > 0 && token.ttl < SHORT {
        let why = "a token this short is made anew all the time: logins, leases and audit lines";
        return warn(why, "set token_ttl of the role to an hour or so".into());
    }
    Finding::ok(Check::Token, subject, seen)
}

/// How this login is called in the report.
pub(crate) fn subject(name: &str, vault: &Vault) -> String {
    let mount = format!("auth/{}", vault.auth.mount);
    let place =
        if vault.auth_namespace.is_empty() { mount } else { format!("{}/{mount}", vault.auth_namespace) };
    if name == crate::cli::check::PRIMARY { place } else { format!("{name}: {place}") }
}
