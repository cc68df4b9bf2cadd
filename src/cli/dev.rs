//! `dev`: runs the plugin with keys in a local file, to try it out and to develop against.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::block_on;
use super::exit::{Exit, Failure};
use super::report::{self, Output};
use super::serve::failure;
use crate::agent::{Agent, AgentError, Signals, passed};
use crate::config::{Settings, defaults};
use crate::diagnose::probe::first_round_trip;
use crate::embedded::Keyring;
use crate::kms::client;
use crate::kubernetes::encryption_configuration_template::{self as template, Identity, KmsProvider};
use crate::proto::StatusRequest;
use crate::systemd::activation::Passed;
use crate::telemetry;

/// Time for a call to the agent's socket.
const CALL: Duration = Duration::from_secs(3);
/// How long `--rotate` waits until Status shows the new key_id.
const ROTATION: Duration = Duration::from_secs(10);

/// Try it out with keys in a local file: for development only
#[derive(Debug, clap::Args)]
#[command(after_help = "DEVELOPMENT ONLY: anyone who can read the keyring file has the keys.")]
pub(super) struct DevArgs {
    /// Add a key version to the keyring of a running `dev`, and wait until Status shows it
    #[arg(long)]
    rotate: bool,
    /// Directory of the keyring and the socket [default: kms-plugin in the user's state directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Address of the admin API [default: 127.0.0.1:8690, or a free port when that port is in use]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(args: &DevArgs) -> Result<(), Failure> {
    let directory = match &args.directory {
        Some(directory) => {
            std::path::absolute(directory).map_err(|error| Failure::new(Exit::Usage, error))?
        }
        None => state_directory()?,
    };
    make_private(&directory)?;
    let keyring = directory.join("dev-keyring.json");
    if args.rotate {
        return block_on(rotate(&directory.join("kms.sock"), &keyring, args.output))?;
    }
    let default = defaults::text("server.admin");
    let free_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let wanted = args.admin.or_else(|| default.parse().ok()).unwrap_or(free_port);
    if !wanted.ip().is_loopback() {
        let message =
            format!("other machines can reach --admin {wanted}; name a loopback address, such as {default}");
        return Err(Failure::message(Exit::Usage, message));
    }
    let mut settings = Settings::development(&directory, keyring.clone(), wanted);
    telemetry::init(&settings.log);
    block_on(async {
        let mut signals = Signals::new().map_err(failure)?;
        // `dev` reads no configuration, so nobody receives reload requests.
        let reload = tokio::sync::mpsc::channel(1).0;
        let passed = passed(&settings.server.socket).map_err(failure)?;
        let agent = match Agent::start(&settings, passed, reload.clone()).await {
            // The default port is in use. A port that the user named is not replaced.
            Err(AgentError::Admin { .. }) if args.admin.is_none() => {
                settings.server.admin = Some(free_port);
                Agent::start(&settings, Passed::default(), reload.clone()).await
            }
            started => started,
        };
        let agent = agent.map_err(failure)?;
        show(&agent, &settings, &keyring, args.output).await?;
        signals.run(agent).await.map_err(failure)
    })?
}

/// Waits until the agent is ready, tests it through its socket, and prints how to use it.
async fn show(agent: &Agent, settings: &Settings, keyring: &Path, output: Output) -> Result<(), Failure> {
    let mut view = agent.view();
    let ready = view.wait_for(|view| view.snapshot.verified);
    if tokio::time::timeout(settings.health.ready_timeout, ready).await.is_err() {
        let state = view.borrow().snapshot.details();
        return Err(Failure::message(Exit::Unavailable, format!("the agent is not ready: {state}")));
    }
    let socket = &settings.server.socket;
    let mut kms =
        client::connect(socket, CALL).await.map_err(|error| Failure::new(Exit::Unavailable, error))?;
    let trip = first_round_trip(&mut kms).await;
    let trip =
        trip.map_err(|error| Failure::message(Exit::Unavailable, format!("the self-test failed: {error}")))?;
    let admin = agent.admin().map(|address| address.to_string()).unwrap_or_default();
    let provider = KmsProvider { name: "kms-plugin", socket, timeout: "3s" };
    match output {
        Output::Json => {
            let result = serde_json::json!({
                "socket": socket, "admin": admin, "keyring": keyring, "key_id": trip.key_id, "self_test": "ok",
            });
            report::line(&result.to_string())
        }
        Output::Text => report::line(&format!(
            "DEVELOPMENT ONLY: the keys are in {keyring}. Anyone who can read this file has the keys.

self-test  ok: Status answered, Encrypt made {bytes} bytes of 32 random bytes, and Decrypt returned the 32 bytes
key_id     {key_id}
socket     {socket}
admin      http://{admin}/healthz

Try, in another terminal:
  {program} probe --socket {socket} --count 1000
  {program} dev --rotate --directory {directory}
  curl 'http://{admin}/healthz?verbose'

EncryptionConfiguration for kube-apiserver (--encryption-provider-config):

{config}
Ctrl-C stops the agent. The keyring file stays.",
            keyring = keyring.display(),
            program = std::env::args().next().unwrap_or_else(|| "kms-plugin".into()),
            directory = settings.server.runtime_dir.display(),
            bytes = trip.ciphertext,
            key_id = trip.key_id,
            socket = socket.display(),
            config = template::encryption_configuration(&["secrets"], &provider, Identity::Last),
        )),
    }
}

/// Adds a key version. When an agent runs, waits until its Status shows the new key_id.
async fn rotate(socket: &Path, keyring: &Path, output: Output) -> Result<(), Failure> {
    let key_id = async || -> Option<String> {
        let mut kms = client::connect(socket, CALL).await.ok()?;
        Some(kms.status(StatusRequest {}).await.ok()?.into_inner().key_id)
    };
    let before = key_id().await;
    let version = Keyring::rotate(keyring).map_err(|error| Failure::new(Exit::Unavailable, error))?;
    let started = Instant::now();
    let mut after = before.clone();
    while before.is_some() && after == before {
        if started.elapsed() > ROTATION {
            let message =
                format!("the keyring has version {version}, but Status did not show it within {ROTATION:?}");
            return Err(Failure::message(Exit::Unavailable, message));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = key_id().await.or(after);
    }
    match (output, after) {
        (Output::Json, after) => report::line(
            &serde_json::json!({ "version": version, "running": before.is_some(), "key_id": after })
                .to_string(),
        ),
        (Output::Text, Some(after)) => {
            let seconds = started.elapsed().as_secs_f64();
            report::line(&format!(
                "version {version} was added; Status shows key_id {after} after {seconds:.1} s"
            ))
        }
        (Output::Text, None) => {
            report::line(&format!("version {version} was added; no agent runs on {}", socket.display()))
        }
    }
}

/// `$XDG_STATE_HOME/kms-plugin`, by default `~/.local/state/kms-plugin`.
fn state_directory() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("kms-plugin")).ok_or_else(|| {
        Failure::message(
            Exit::Usage,
            "neither XDG_STATE_HOME nor HOME is set; name a directory with --directory",
        )
    })
}

/// Creates the directory for this user alone. An existing directory must be private already: this command does not
/// change the mode of a directory that others may use.
fn make_private(directory: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let metadata = made.and_then(|()| std::fs::metadata(directory)).map_err(|error| {
        let error = anyhow::Error::new(error)
            .context(format!("the directory {} cannot be used", directory.display()));
        Failure::new(Exit::Unavailable, error)
    })?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        let shown = directory.display();
        let message = format!(
            "the directory {shown} belongs to another user, or others can write to it; name one of your own with --directory"
        );
        return Err(Failure::message(Exit::Usage, message));
    }
    Ok(())
}
