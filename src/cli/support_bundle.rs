//! `support-bundle`: all that somebody elsewhere needs to find a fault, in one file, without secrets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::check::{self, CheckArgs, Report};
use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use super::{config, external, report, runtime};
use crate::admin::types::Status;
use crate::admin::{Client, ClientError};
use crate::config::secret::RoleId;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::{Method, Vault};
use crate::config::{DEFAULT_RUNTIME_DIR, Merged, Settings};
use crate::diagnose::bundle::archive::{self, Archive};
use crate::diagnose::bundle::redaction::Redaction;
use crate::diagnose::status_text::status_text;

/// Time for an answer of the agent.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest private key that is read in order to be redacted, in bytes.
const MAX_KEY: u64 = 64 * 1024;
/// Settings that name a file with a secret.
const SECRET_FILES: [&str; 6] = [
    "vault.auth.token_file",
    "vault.auth.role_id_file",
    "vault.auth.secret_id_file",
    "vault.auth.password_file",
    "vault.auth.jwt_file",
    "vault.client_key_file",
];
/// Our units.
const UNITS: [&str; 4] =
    ["kms-plugin.service", "kms-plugin.socket", "kms-plugin-rebind.path", "kms-plugin-rebind.service"];

/// Collect what somebody else needs to find a fault, in one file, without secrets
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it as root. In the file: the merged configuration, the agent's status, health and metrics, \
                        the last journal lines, the units, the result of `kms-plugin check`, what is known of the key, \
                        the policy and the network, and the system's version.\n\
                        \n\
                        Credentials, tokens, passwords and private keys are taken out, wherever they stand, also \
                        in base64 and in addresses. Host names, addresses, and names of keys and policies stay: \
                        look at it before you give it to anybody. It is written with mode 0600."
)]
pub(super) struct BundleArgs {
    /// Where to write it [default: kms-plugin-support-HOST-TIME.tar.gz in this directory]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Lines of the journal
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lines: u32,
    /// Do not log in to Vault during the check
    #[arg(long)]
    no_login: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(super) fn run(args: &BundleArgs) -> Result<(), Failure> {
    let (directory, default) = archive::name();
    let file = args.file.clone().unwrap_or(default);
    if file.exists() {
        let message = format!("{} is there already; name another file with --file", file.display());
        return Err(Failure::message(Exit::Usage, message));
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK).map_err(|error| {
        Failure::new(Exit::Unavailable, error).context(format!("{} cannot be written to", parent.display()))
    })?;
    let merged = args.flags.merge();
    let settings = merged.as_ref().ok().and_then(|merged| Settings::from_merged(merged).ok());
    let bug = |message: String| Failure::message(Exit::Internal, message);
    let runtime = runtime()?;
    let mut files = runtime.block_on(check::passed_credentials());
    if settings.is_none() {
        files.extend(merged.iter().flat_map(named));
    }
    let redaction = Redaction::new(&secrets(settings.as_ref(), files)).map_err(bug)?;
    let parts = runtime.block_on(collect(args, &merged, settings.as_ref()));
    let mut archive = Archive::new(&directory);
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Unavailable, error).context(format!("{} cannot be written", file.display()))
    };
    for (name, text) in &parts {
        let clean = redaction.apply(text);
        if !redaction.is_clean(&clean) {
            return Err(bug(format!(
                "a secret is left in {name}: nothing was written; report this as a bug"
            )));
        }
        archive.add(name, &clean).map_err(cannot)?;
    }
    let size = archive.write(&file).map_err(cannot)?;
    let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    report::line(&format!(
        "{} ({} KiB): {}\nCredentials, tokens and keys were taken out; names and addresses are in it: look before you give it away.",
        file.display(),
        size.div_ceil(1024),
        names.join(", ")
    ))
}

/// The texts of the bundle, each with its name.
async fn collect(
    args: &BundleArgs,
    merged: &Result<Merged, Failure>,
    settings: Option<&Settings>,
) -> Vec<(String, String)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, text: String| parts.push((name.to_owned(), text));
    let told = |what: &str| report::error_line(&format!("collecting {what}…"));
    told("the configuration");
    // The merged configuration with origins: what is valid and what is not.
    add("config.json", merged.as_ref().map_or_else(|failure| format!("{failure}\n"), config::json));
    told("the agent's state");
    let runtime_dir =
        settings.map_or(PathBuf::from(DEFAULT_RUNTIME_DIR), |settings| settings.server.runtime_dir.clone());
    let agent = Client::new(&runtime_dir, TIMEOUT);
    let missing = |error: ClientError| pretty(&json!({ "error": error.to_string() }));
    let status = agent.status_json().await;
    let state = status.as_ref().ok().and_then(|status| Status::deserialize(status).ok());
    add("status.json", status.map_or_else(missing, |status| pretty(&status)));
    add("healthz.txt", agent.healthz().await.unwrap_or_else(missing));
    add("metrics.txt", agent.metrics().await.unwrap_or_else(missing));
    if let Some(state) = &state {
        add("status.txt", anstream::adapter::strip_str(&status_text(state)).to_string());
    }
    let key = state.and_then(|state| state.primary.key);
    told("the result of kms-plugin check");
    let mut checked = Report::new(false);
    check::fill(&CheckArgs::plain(args.flags.clone(), args.no_login), &mut checked).await;
    let findings = checked.json();
    add("check.txt", checked.plain());
    add(
        "network.json",
        pretty(&only(&findings, &["dns", "tcp", "tls", "server", "cluster", "round-trip", "quota"])),
    );
    add("policy.json", pretty(&only(&findings, &["login", "token", "policy"])));
    add("key.json", pretty(&json!({ "agent": key, "check": only(&findings, &["key"]) })));
    add("check.json", pretty(&findings));
    told("the journal and the units");
    let lines = args.lines.to_string();
    let mut journal = vec!["--no-pager", "--output=short-iso-precise", "--lines", &lines];
    UNITS.iter().for_each(|unit| journal.extend(["--unit", *unit]));
    add("journal.txt", output("journalctl", &journal).await);
    let mut units = String::new();
    for verb in ["status", "cat", "show"] {
        let mut arguments = vec!["--no-pager", "--full", verb];
        arguments.extend(UNITS);
        units.push_str(&format!("== systemctl {verb}\n{}\n", output("systemctl", &arguments).await));
    }
    add("units.txt", units);
    told("the system");
    add("system.txt", system(settings).await);
    parts
}

fn only(findings: &Value, checks: &[&str]) -> Value {
    let named = |finding: &&Value| {
        finding.get("check").and_then(Value::as_str).is_some_and(|check| checks.contains(&check))
    };
    let all = findings.get("findings").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    all.iter().filter(named).cloned().collect()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

async fn output(program: &str, arguments: &[&str]) -> String {
    match external::run(program, arguments).await {
        Ok(output) => output.text + &output.complaint,
        Err(why) => why + "\n",
    }
}

/// What surrounds the agent: versions, clock, sockets, names.
async fn system(settings: Option<&Settings>) -> String {
    let socket = settings.map_or("/run/kmsplugin".into(), |settings| {
        settings.server.socket.parent().map_or_else(String::new, |parent| parent.display().to_string())
    });
    let mut text = format!("kms-plugin {}\n", env!("CARGO_PKG_VERSION"));
    for (program, arguments) in [
        ("uname", vec!["-a"]),
        ("cat", vec!["/etc/os-release"]),
        ("systemctl", vec!["--version"]),
        ("date", vec!["--utc", "--iso-8601=seconds"]),
        ("timedatectl", vec!["show"]),
        ("cat", vec!["/etc/resolv.conf"]),
        ("ip", vec!["-brief", "address"]),
        ("ip", vec!["route"]),
        ("getenforce", vec![]),
        ("ls", vec!["-laZ", &*socket, DEFAULT_RUNTIME_DIR, "/etc/kms-plugin"]),
        ("ss", vec!["-xlp"]),
    ] {
        text.push_str(&format!(
            "\n== {program} {}\n{}",
            arguments.join(" "),
            output(program, &arguments).await
        ));
    }
    text
}

/// Every secret that the configuration leads to, in order to take it out.
fn secrets(settings: Option<&Settings>, files: Vec<PathBuf>) -> Vec<Zeroizing<String>> {
    let mut texts: Vec<_> = files.into_iter().filter_map(read).collect();
    texts.extend(settings.into_iter().flat_map(of_settings));
    let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
    // The frame of a PEM file is no secret.
    let secret = lines.filter(|line| !line.is_empty() && !line.starts_with("-----"));
    secret.map(|line| Zeroizing::new(line.to_owned())).collect()
}

/// The files that a configuration names as secrets, also when it is not valid.
fn named(merged: &Merged) -> Vec<PathBuf> {
    let file = |key: &&str| merged.value(key)?.into_string().map(PathBuf::from);
    SECRET_FILES.iter().filter_map(file).collect()
}

/// The whole file, whatever is wrong with it: a secret that cannot be used is one all the same.
fn read(path: PathBuf) -> Option<Zeroizing<String>> {
    let small =
        std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_KEY);
    let text = small.then(|| std::fs::read(&path).ok()).flatten().map(Zeroizing::new);
    text.map(|text| Zeroizing::new(String::from_utf8_lossy(&text).into_owned()))
}

fn of_settings(settings: &Settings) -> Vec<Zeroizing<String>> {
    let services =
        std::iter::once(&settings.primary).chain(settings.decrypt_only.iter().map(|(_, service)| service));
    let vaults = services.filter_map(|service| match service {
        KeyServiceSettings::Vault(vault) => Some(vault.as_ref()),
        KeyServiceSettings::Embedded(_) => None,
    });
    vaults.flat_map(of_login).collect()
}

fn of_login(vault: &Vault) -> Vec<Zeroizing<String>> {
    let role_id = match &vault.auth.method {
        Method::AppRole { role_id: RoleId::Literal(role_id), .. } => Some(Zeroizing::new(role_id.clone())),
        Method::AppRole { role_id: RoleId::File(path), .. } => read(path.clone()),
        _ => None,
    };
    let secret = vault.auth.method.secret().and_then(|(_, source)| source.path()).and_then(read);
    let key = vault.tls.client.iter().filter_map(|(_, key)| read(key.clone()));
    role_id.into_iter().chain(secret).chain(key).collect()
}
