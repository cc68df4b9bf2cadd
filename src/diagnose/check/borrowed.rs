//! The token and the key, as the running agent knows them: where a login of the check would use something up.
//!
//! Must not ask Vault, and must not repeat what the line `agent` says.

use std::time::Duration;

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::key::KeyFacts;
use super::login::subject;
use super::report::Report;
use crate::clock::unix_seconds;
use crate::config::vault::Vault;
use crate::diagnose::PRIMARY;
use crate::display::ago;
use crate::key_service::{KeyDescription, KeyScope, KeyWarning};

const NOT_TRIED: &str = "not tried: it needs a login of its own (kms-plugin check --login)";
const OTHER_KEY: &str =
    "the running agent uses another key: a look at this one needs a login (kms-plugin check --login)";

/// Reports what the agent knows of the key service with this name.
pub(super) fn check(
    name: &str,
    vault: &Vault,
    scope: &KeyScope,
    agent: &AgentView,
    report: &mut Report<'_>,
) -> KeyFacts {
    let path = format!("{}/keys/{}", vault.transit.mount, vault.transit.key);
    let Some(service) = agent.service(name) else { return KeyFacts::default() };
    if let Some(token) = &service.token {
        let ends = token.expires.map_or("does not expire".to_owned(), |expires| {
            let left = u64::try_from(expires.saturating_sub(unix_seconds())).unwrap_or_default();
            format!("expires in {}", ago(Duration::from_secs(left)))
        });
        let renewable = if token.renewable { "renewable" } else { "not renewable" };
        report.add(Finding::ok(
            Check::Token,
            subject(name, vault),
            format!("the agent's token {ends}, {renewable}"),
        ));
    }
    report.add(Finding::skipped(Check::Policy, &path, NOT_TRIED));
    let Some(key) = service.key.as_ref().filter(|key| key.scope == *scope) else {
        report.add(Finding::skipped(Check::Key, &path, OTHER_KEY));
        return KeyFacts::default();
    };
    match &service.problem {
        // The line `agent` has the primary's.
        Some(problem) if name != PRIMARY => report.add(Finding::fail(
            Check::Key,
            &path,
            problem,
            "what this key wrapped cannot be read while it lasts",
            "kms-plugin check --login shows more; kms-plugin status shows when it is over",
        )),
        Some(_) => report.add(Finding::skipped(Check::Key, &path, "the line `agent` says what is wrong")),
        None if key.warnings.is_empty() => {
            report.add(Finding::ok(
                Check::Key,
                &path,
                format!("version {}, as the agent reads it", key.version),
            ));
        }
        None => {}
    }
    for warning in &key.warnings {
        let why = "whoever has the key can read all Secrets; without it nobody can";
        report.add(Finding::warn(Check::Key, &path, &warning.text, why, &warning.remedy));
    }
    if let Some(contact) = agent.last_contact().filter(|_| name == PRIMARY && service.problem.is_none()) {
        let seen = format!("the agent's last one was good, {} ago", ago(Duration::from_secs(contact)));
        report.add(Finding::ok(Check::RoundTrip, &path, seen));
    }
    let warning = |warning: &crate::admin::api_types::Warning| KeyWarning {
        text: warning.text.clone(),
        remedy: warning.remedy.clone(),
    };
    let description = KeyDescription {
        latest: key.version,
        min_encryption: key.min_encryption,
        min_decryption: key.min_decryption,
        versions: key.versions.clone(),
        key_type: "".into(), // the status does not tell it, and its warnings come with it
        warnings: key.warnings.iter().map(warning).collect(),
        cluster_id: key.cluster_id.clone(),
    };
    KeyFacts { key: Some((scope.clone(), description)), slowest: None }
}
