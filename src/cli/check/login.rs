//! One login, and what the token is like. Credentials that were refused are not sent again: a server locks a
//! role after a few failures, for every node.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::report::Report;
use crate::backend::{BackendError, ErrorKind};
use crate::clock::{Deadline, unix_seconds};
use crate::config::vault::{Method, Vault};
use crate::snapshot::ago;
use crate::vault::{Inspector, Lookup};

/// How long refused credentials are not sent again: as long as the agent lets them rest, in seconds.
const REST: i64 = 15 * 60;
/// Refused credentials that are remembered.
const MAX_REMEMBERED: usize = 16;
const FILE: &str = "check-refused.json";
const WHY: &str = "without a login the agent can neither wrap nor unwrap";
/// A token that ends sooner should be looked after by somebody, in seconds.
const SHORT: u64 = 60;
const DAY: u64 = 86_400;

/// Credentials that a server refused, so that a check run again and again does not lock the role.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    file: PathBuf,
    list: Vec<Refused>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Refused {
    /// A salted hash of the credentials.
    credentials: String,
    at: i64,
    seen: String,
    remedy: String,
}

impl Refusals {
    /// Those of earlier runs, from the agent's runtime directory.
    pub(super) fn load(runtime_dir: &Path) -> Self {
        let file = runtime_dir.join(FILE);
        let list: Vec<Refused> =
            fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let now = unix_seconds();
        // A time in the future is of another clock: it must not keep a check from working for ever.
        let fresh = |refused: &Refused| (now - REST..=now).contains(&refused.at);
        Self { file, list: list.into_iter().filter(fresh).collect() }
    }

    fn find(&self, credentials: &str) -> Option<&Refused> {
        self.list.iter().find(|refused| refused.credentials == credentials)
    }

    fn remember(&mut self, credentials: String, error: &BackendError) -> std::io::Result<()> {
        let (seen, remedy) = (error.to_string(), error.remedy().to_owned());
        self.list.push(Refused { credentials, at: unix_seconds(), seen, remedy });
        let surplus = self.list.len().saturating_sub(MAX_REMEMBERED);
        self.list.drain(..surplus);
        self.save()
    }

    fn save(&self) -> std::io::Result<()> {
        if let Some(directory) = self.file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.file)?;
        file.write_all(&serde_json::to_vec(&self.list)?)
    }
}

/// Logs in at one key service; whether there is a token to go on with.
pub(super) async fn check(
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
    if let Some((seen, remedy)) = agent.refused_login(name) {
        let seen = format!("the running agent was refused, and these credentials are not sent again: {seen}");
        report.add(Finding::fail(Check::Login, subject, seen, WHY, remedy));
        return false;
    }
    let salted = inspector.fingerprint().map(|fingerprint| fingerprint.salted(FILE.as_bytes()));
    if let Ok(known) = salted.as_deref()
        && let Some(refused) = refusals.find(known)
    {
        let since = Duration::from_secs(u64::try_from(unix_seconds() - refused.at).unwrap_or_default());
        let seen = format!("refused {} ago, and not sent again so soon: {}", ago(since), refused.seen);
        report.add(Finding::fail(Check::Login, subject, seen, WHY, refused.remedy.clone()));
        return false;
    }
    match inspector.log_in(Deadline::after(time)).await {
        Ok(()) => {
            report.add(Finding::ok(Check::Login, subject, "succeeded"));
            true
        }
        Err(error) => {
            let mut seen = error.to_string();
            if error.kind() == ErrorKind::CredentialsRefused
                && let Ok(salted) = salted
                && let Err(cause) = refusals.remember(salted, &error)
            {
                seen.push_str(&format!(
                    " (this could not be noted in {}: {cause}; every further run is one more failed login)",
                    refusals.file.display()
                ));
            }
            report.add(Finding::fail(Check::Login, subject, seen, WHY, error.remedy().to_owned()));
            false
        }
    }
}

/// The token of a login that succeeded; whether it may be used many times.
pub(super) async fn token(
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
    if !by_login && token.ttl > 0 && !token.renewable && token.ttl < 7 * DAY {
        let why = "nobody renews it: when it ends, so does all access to the key";
        return warn(why, "write a new token into the token file, or use a method that logs in".into());
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
pub(super) fn subject(name: &str, vault: &Vault) -> String {
    let mount = format!("auth/{}", vault.auth.mount);
    let place =
        if vault.auth_namespace.is_empty() { mount } else { format!("{}/{mount}", vault.auth_namespace) };
    if name == super::PRIMARY { place } else { format!("{name}: {place}") }
}
