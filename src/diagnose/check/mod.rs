//! `check`: checks everything that must be right on this node, in order, and suggests a fix for each problem.
//!
//! Each file checks one subject and adds its findings to the [`Report`]. Must not know the command line, nor print.

mod access;
mod admin;
mod agent;
mod borrowed;
mod certificate;
mod configuration;
mod credentials;
mod encryption_configuration;
mod file_systems;
mod finding;
mod identity;
mod key;
mod key_services;
mod login;
mod network;
mod offline;
mod peer;
mod policy;
mod refusals;
mod report;
mod room;
mod round_trips;
mod sandbox;
mod service_end;
mod service_user;
mod socket;
mod spiffe;
mod text;
mod unit;
mod web;

use std::path::PathBuf;
use std::time::Duration;

use crate::config::DEFAULT_RUNTIME_DIR;
use crate::config::Settings;
use crate::health::identity::saved_versions;
use crate::key_service::key_id;
use crate::systemd::units::Units;

use agent::AgentView;
use key::KeyFacts;
use key_services::KeyServices;
use refusals::Refusals;
use service_user::ServiceUser;
use socket::Process;
use web::Web;

pub(crate) use configuration::Configuration;
pub(crate) use finding::Outcome;
pub(crate) use report::Report;
pub(crate) use text::{finding_text, report_text};

/// What to check.
pub(crate) struct CheckOptions {
    pub(crate) configuration: Configuration,
    /// Other nodes: the address of an admin API, or a file with the output of `kms-plugin status --output json`.
    pub(crate) peers: Vec<String>,
    /// The EncryptionConfiguration of kube-apiserver.
    pub(crate) encryption_config: Option<PathBuf>,
    /// Skip everything that needs a token.
    pub(crate) no_login: bool,
    /// Log in also where that may use something up.
    pub(crate) login: bool,
    /// Longest time for each step.
    pub(crate) timeout: Duration,
}

/// Runs every check, in order. `report` gets each finding at once.
pub(crate) async fn run(options: &CheckOptions, report: &mut Report<'_>) {
    let timeout = options.timeout;
    let (units, unknown) = match Units::read().await {
        Ok(units) => (units, None),
        Err(error) => (Units::default(), Some(error)),
    };
    service_user::check(report);
    let settings = configuration::check(&options.configuration, &units, report);
    let runtime_dir = settings.as_ref().map(|settings| settings.server.runtime_dir.clone());
    let runtime_dir = runtime_dir
        .or_else(|| options.configuration.runtime_dir.clone())
        .unwrap_or_else(|| PathBuf::from(DEFAULT_RUNTIME_DIR));
    let agent = AgentView::read(&runtime_dir, timeout).await;
    let settings = match settings {
        Some(settings) if file_systems::check(options, &settings, &units, report).await => Some(settings),
        _ => None,
    };
    // Before everything that the agent does: it may do it with other settings.
    agent.check_configuration(settings.as_ref().map(|settings| &*settings.digest), report);
    let Some(settings) = settings else {
        sandbox::check(&units, true, report);
        let _ends = unit::check(&units, unknown.as_ref(), agent.runs(), None, report).await;
        agent.check(report);
        return;
    };
    let mut key_services = KeyServices { options, units: &units, agent: &agent, report };
    let facts = key_services.check(&settings, Refusals::load(&runtime_dir)).await;
    let own = own_key(&settings, &facts);
    let (version, expected) = own.as_ref().map(|(version, id)| (*version, id.as_str())).unzip();
    if let Some((scope, key)) = &facts.key {
        // The saved identity counts only when no agent runs: a running one knows more.
        let known = agent.versions(scope).or_else(|| saved_versions(&runtime_dir, scope));
        identity::compare(scope, &key.versions, &known.unwrap_or_default(), report);
    }
    let web = Web::new();
    // What stops the process comes first: the socket, the admin address and the agent only show the effect.
    sandbox::check(&units, settings.uses_network(), report);
    let user = ServiceUser::of(&units);
    room::check(&runtime_dir, room::RUNTIME, &user, timeout, report).await;
    if settings.local_kek.is_some() {
        room::check(&settings.server.state_dir, room::STATE, &user, timeout, report).await;
    }
    let socket_path = &settings.server.socket;
    socket::occupied(socket_path, report);
    let ends = unit::check(&units, unknown.as_ref(), agent.runs(), Some(socket_path), report).await;
    let process = match () {
        () if ends && !agent.runs() => Process::Ends,
        () if units.is_wanted() => Process::Wanted,
        () => Process::NotWanted,
    };
    socket::check(socket_path, &agent, process, expected, timeout, report).await;
    admin::check(settings.server.admin, &agent, &web, timeout, report).await;
    agent.check(report);
    agent.check_data(facts.key.as_ref().map(|(_, key)| key), report);
    if settings.local_kek.is_some() {
        offline::check(&settings.server.state_dir, &units, &agent, report);
    }
    // Both values from one source: a rotation may lie between the two sources.
    let announced = agent.key_id().zip(agent.version()).or(expected.zip(version));
    peer::check(&options.peers, announced, &web, timeout, report).await;
    if let Some(file) = &options.encryption_config {
        encryption_configuration::check(file, socket_path, facts.slowest, report);
    }
}

/// The key version and the key_id that this configuration leads to.
fn own_key(settings: &Settings, facts: &KeyFacts) -> Option<(u32, String)> {
    let (scope, key) = facts.key.as_ref()?;
    let known = key_id::known_key(scope, key, &key.versions, settings.primary.key_id_epoch())?;
    Some((known.version, known.key_id.to_string()))
}
