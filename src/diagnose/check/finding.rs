//! One finding: how bad it is, what was seen, why it matters, and what to do.

use serde::Serialize;

use crate::health::ReasonKind;
use crate::untrusted;

/// How bad it is; ordered by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// As it should be.
    Ok,
    /// Not tested; `seen` has the reason.
    Skipped,
    /// Works, but should be changed.
    Warn,
    /// Does not work.
    Fail,
}

impl Outcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skip",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What is checked, in the order of the report. The names are stable: programs read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Check {
    Configuration,
    Credentials,
    Dns,
    Tcp,
    Tls,
    Server,
    Cluster,
    Login,
    Token,
    Policy,
    Key,
    RoundTrip,
    Quota,
    Socket,
    Service,
    Admin,
    Agent,
    Offline,
    Peer,
    EncryptionConfig,
}

impl Check {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Server => "server",
            Self::Cluster => "cluster",
            Self::Login => "login",
            Self::Token => "token",
            Self::Policy => "policy",
            Self::Key => "key",
            Self::RoundTrip => "round-trip",
            Self::Quota => "quota",
            Self::Socket => "socket",
            Self::Service => "service",
            Self::Admin => "admin",
            Self::Agent => "agent",
            Self::Offline => "offline",
            Self::Peer => "peer",
            Self::EncryptionConfig => "encryption-config",
        }
    }

    /// The section of docs/troubleshooting.md about this check.
    pub(crate) fn section(self) -> &'static str {
        match self {
            Self::Configuration => "the-configuration-is-invalid",
            Self::Credentials => "a-secret-file-cannot-be-used",
            Self::Dns | Self::Tcp | Self::Tls | Self::Cluster => "no-way-to-vault",
            Self::Server => "vault-is-away",
            Self::Login | Self::Token => "credentials-are-wrong-or-expired",
            Self::Policy => "vault-refuses",
            Self::Key => "the-key-is-gone-or-cannot-be-used",
            Self::RoundTrip => "calls-are-slow",
            Self::Quota => "vault-asks-to-slow-down",
            Self::Socket => "the-socket-is-missing-or-does-not-answer",
            Self::Service | Self::Admin | Self::Agent => "the-agent-is-not-running",
            Self::Offline => "the-agent-is-not-ready-for-an-outage",
            Self::Peer => "nodes-disagree-about-the-key",
            Self::EncryptionConfig => "the-api-servers-configuration-does-not-fit",
        }
    }
}

/// The section of docs/troubleshooting.md about each reason of an agent.
pub(crate) fn section_of(kind: ReasonKind) -> &'static str {
    match kind {
        ReasonKind::Unreachable | ReasonKind::Sealed | ReasonKind::NoContact => "vault-is-away",
        ReasonKind::Denied | ReasonKind::WrongSetting | ReasonKind::KeyUnreadable => "vault-refuses",
        ReasonKind::LockedOut => "the-login-is-locked",
        ReasonKind::LoginDenied => "vault-denies-the-login",
        ReasonKind::CredentialsRefused => "credentials-are-wrong-or-expired",
        ReasonKind::CredentialsUnreadable => "a-secret-file-cannot-be-used",
        ReasonKind::KeyMissing | ReasonKind::KeyUnusable => "the-key-is-gone-or-cannot-be-used",
        ReasonKind::KeyReplaced | ReasonKind::KeyRolledBack => "the-key-was-replaced-or-rolled-back",
        ReasonKind::KeyNotApproved => "the-key-is-not-approved-by-fips-140-3",
        ReasonKind::Configuration => "the-configuration-is-invalid",
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub check: Check,
    /// What was checked: an address, a path, a unit; empty when there is only one.
    pub subject: String,
    pub outcome: Outcome,
    pub seen: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do, with the command if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The section of the documentation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub see: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: Check, subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(check, subject, Outcome::Ok, seen)
    }

    pub(crate) fn skipped(check: Check, subject: impl Into<String>, because: impl Into<String>) -> Self {
        Self::new(check, subject, Outcome::Skipped, because)
    }

    pub(crate) fn warn(
        check: Check,
        subject: impl Into<String>,
        seen: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, Outcome::Warn, seen).explained(why, remedy)
    }

    pub(crate) fn fail(
        check: Check,
        subject: impl Into<String>,
        seen: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, Outcome::Fail, seen).explained(why, remedy)
    }

    /// Names another section of docs/troubleshooting.md.
    pub(crate) fn at(self, section: &str) -> Self {
        Self { see: self.see.map(|_| format!("docs/troubleshooting.md#{section}")), ..self }
    }

    fn new(check: Check, subject: impl Into<String>, outcome: Outcome, seen: impl Into<String>) -> Self {
        // Names and texts of the node, of etcd and of certificates come together here.
        let (subject, seen) = (untrusted::visible(&subject.into()), untrusted::visible(&seen.into()));
        Self { check, subject, outcome, seen, why: None, remedy: None, see: None }
    }

    fn explained(self, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            why: Some(untrusted::visible(&why.into())),
            remedy: Some(untrusted::visible(&remedy.into())),
            see: Some(format!("docs/troubleshooting.md#{}", self.check.section())),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_finding_is_changed_by_what_others_wrote(text in crate::untrusted::tests::hostile()) {
            let finding = Finding::fail(Check::Key, text.clone(), text.clone(), text.clone(), text);
            let json = serde_json::to_value(&finding).unwrap();
            for shown in json.as_object().unwrap().values().filter_map(serde_json::Value::as_str) {
                proptest::prop_assert!(!shown.contains(crate::untrusted::is_hidden), "{shown:?}");
            }
        }
    }

    #[test]
    fn every_section_that_a_finding_names_is_in_the_documentation() {
        let text = include_str!("../../../docs/troubleshooting.md");
        let anchor = |heading: &str| {
            let plain = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
            plain.collect::<String>().to_lowercase().replace(' ', "-")
        };
        let anchors: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
        let checks = [
            Check::Configuration,
            Check::Credentials,
            Check::Dns,
            Check::Server,
            Check::Login,
            Check::Policy,
            Check::Key,
            Check::RoundTrip,
            Check::Quota,
            Check::Socket,
            Check::Service,
            Check::Offline,
            Check::Peer,
            Check::EncryptionConfig,
        ];
        let sections =
            checks.map(Check::section).into_iter().chain(ReasonKind::ALL.into_iter().map(section_of));
        let more = [
            super::super::offline::SWAPPED,
            super::super::network::NAMESPACE_SECTION,
            super::super::room::SECTION,
            super::super::unit::RESTARTS,
        ];
        let sections = sections.chain(more);
        for section in sections {
            assert!(anchors.iter().any(|anchor| anchor == section), "{section} in {anchors:?}");
        }
    }
}
