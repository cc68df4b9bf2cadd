//! `check`: looks at everything that must be right on this node, in order, and names the remedy of what is not.

use std::path::PathBuf;
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use super::report::Output;
use super::runtime;
use crate::config::{DEFAULT_RUNTIME_DIR, Settings};
use crate::health::identity::saved_versions;
use crate::key_service::key_id;

use crate::diagnose::check::agent::AgentView;
use crate::diagnose::check::finding::Outcome;
use crate::diagnose::check::key::Learnt;
use crate::diagnose::check::key_services::KeyServices;
use crate::diagnose::check::refusals::Refusals;
pub(crate) use crate::diagnose::check::report::Report;
use crate::diagnose::check::unit::Units;
use crate::diagnose::check::web::Web;
use crate::diagnose::check::{
    admin, configuration, encryption_config, identity, offline, peer, service_user, socket,
};

/// The key service that wraps, as the agent calls it.
pub(crate) const PRIMARY: &str = "primary";

/// Look at everything that must be right on this node, and name the remedy of what is not
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it as root, before the agent is started or beside a running one: it reads the same \
                        configuration, and needs no right in Vault that the agent does not have. In order: the \
                        configuration, the secret files, then for each address DNS, TCP, TLS and sys/health, then one \
                        login, the token, the policy, the key and 20 round trips; last the socket, the units, the \
                        admin address, the running agent, and with local KEKs whether it is ready for an outage.\n\
                        \n\
                        Credentials that were refused are not sent again for 15 minutes, so that running it again and \
                        again does not lock the role for every node. Each run is one login; with secret-ids that may \
                        be used only so often, use --no-login.\n\
                        \n\
                        Exit codes: 0 all is well, 1 the worst is a warning, 2 something fails, 64 usage.\n\
                        \n\
                        Other nodes:  ssh node-2 kms-plugin status --output json > node-2.json\n              \
                                      kms-plugin check --peer node-2.json"
)]
pub(crate) struct CheckArgs {
    /// Compare the key_id with another node's: its admin address (http://HOST:PORT), or a file with what
    /// `kms-plugin status --output json` wrote there; may be repeated
    #[arg(long, value_name = "URL|FILE")]
    pub(crate) peer: Vec<String>,
    /// Also look at this EncryptionConfiguration of kube-apiserver
    #[arg(long, value_name = "FILE")]
    encryption_config: Option<PathBuf>,
    /// Do not log in: what needs a token is not tested
    #[arg(long)]
    pub(crate) no_login: bool,
    /// Longest time for each step
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// How to write the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    pub(crate) flags: ConfigFlags,
}

impl CheckArgs {
    /// The usual check of this configuration, for the support bundle.
    pub(crate) fn plain(flags: ConfigFlags, no_login: bool) -> Self {
        Self {
            peer: Vec::new(),
            encryption_config: None,
            no_login,
            timeout: Duration::from_secs(5),
            output: Output::Json,
            flags,
        }
    }
}

pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    if args.timeout.is_zero() {
        return Err(Failure::message(Exit::Usage, "--timeout must be longer than zero"));
    }
    let mut report = Report::new(args.output == Output::Text);
    let runtime = runtime()?;
    runtime.block_on(fill(args, &mut report));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    report.show(args.output)?;
    Ok(match report.worst() {
        Outcome::Ok | Outcome::Skipped => Exit::Ok,
        Outcome::Warn => Exit::Warned,
        Outcome::Fail => Exit::Failed,
    })
}

/// The files of every credential that systemd passes to the service, wherever they can be read from here.
pub(crate) async fn passed_credentials() -> Vec<PathBuf> {
    Units::read().await.passed_credentials()
}

/// Every check, in order.
pub(crate) async fn fill(args: &CheckArgs, report: &mut Report) {
    let units = Units::read().await;
    service_user::check(report);
    let settings = configuration::check(&args.flags, &units, report);
    let runtime_dir = settings.as_ref().map(|settings| settings.server.runtime_dir.clone());
    let runtime_dir = runtime_dir
        .or_else(|| args.flags.runtime_dir())
        .unwrap_or_else(|| PathBuf::from(DEFAULT_RUNTIME_DIR));
    let agent = AgentView::read(&runtime_dir, args.timeout).await;
    let Some(settings) = settings else {
        units.judge(agent.runs(), report);
        agent.judge(report);
        return;
    };
    let mut key_services = KeyServices { args, units: &units, agent: &agent, report };
    let learnt = key_services.check(&settings, Refusals::load(&runtime_dir)).await;
    let own = own_key(&settings, &learnt);
    let (version, expected) = own.as_ref().map(|(version, id)| (*version, id.as_str())).unzip();
    if let Some((scope, key)) = &learnt.key {
        // A running agent knows best; what one has saved counts when none runs.
        let known = agent.versions(scope).or_else(|| saved_versions(&runtime_dir, scope));
        identity::compare(scope, &key.versions, &known.unwrap_or_default(), report);
    }
    let web = Web::new();
    let wanted = units.is_wanted();
    socket::check(&settings.server.socket, &agent, wanted, expected, args.timeout, report).await;
    units.judge(agent.runs(), report);
    admin::check(settings.server.admin, &agent, &web, args.timeout, report).await;
    agent.judge(report);
    agent.judge_data(learnt.key.as_ref().map(|(_, key)| key), report);
    if settings.local_kek.is_some() {
        offline::check(&settings.server.state_dir, &units, &agent, report);
    }
    // Both from one source: a rotation may lie between them.
    let announced = agent.key_id().zip(agent.version()).or(expected.zip(version));
    peer::check(&args.peer, announced, &web, args.timeout, report).await;
    if let Some(file) = &args.encryption_config {
        encryption_config::check(file, &settings.server.socket, learnt.slowest, report);
    }
}

/// The version and the id that this configuration leads to.
fn own_key(settings: &Settings, learnt: &Learnt) -> Option<(u32, String)> {
    let (scope, key) = learnt.key.as_ref()?;
    let known = key_id::known_key(scope, key, &key.versions, settings.primary.key_id_epoch())?;
    Some((known.version, known.key_id.to_string()))
}
