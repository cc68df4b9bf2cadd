//! Translates the flags and variables of two other Transit plugins, so that their static pods and sidecars run this
//! binary without a change.
//!
//! Their flags (one or two dashes, `-flag=value` or `-flag value`) and variables become values of our own keys; the
//! other arguments are for our own command line. Must not know what the keys are for.

use std::ffi::OsString;
use std::path::Path;

use super::error::CompatError;
use super::flag_table::{self, Meaning, Of, PREFIXES};
use super::given::{Given, Login};
use super::secret_file;
use crate::config::schema;
use crate::untrusted;

/// The flags and variables of another plugin, as values of our keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompatFlags {
    /// The other plugin's defaults, by key path.
    pub defaults: Vec<(String, String)>,
    /// Values by key path; a later one overrides an earlier one.
    pub values: Vec<(String, String)>,
    /// Messages for the administrator.
    pub warnings: Vec<String>,
}

/// A command line after the translation.
pub(crate) struct Translated {
    /// The arguments for our own command line.
    pub arguments: Vec<OsString>,
    pub flags: CompatFlags,
}

/// Translates the other plugins' flags on a command line of `serve`, and their variables.
///
/// # Errors
/// A flag without its value, a value of the wrong type, or a secret that cannot be kept in memory.
pub(crate) fn translate(
    arguments: Vec<OsString>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Translated, CompatError> {
    let serves = match arguments.get(1).and_then(|first| first.to_str()) {
        None => arguments.len() == 1,
        Some(first) => first == "serve" || first.starts_with('-'),
    };
    if !serves {
        return Ok(Translated { arguments, flags: CompatFlags::default() });
    }
    // Variables of other programs may hold anything. One that is not text is not for this plugin.
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let variables: Vec<(String, String)> = variables.filter_map(text).collect();
    let known = |(name, value): &(String, String)| of_variable(name.clone(), value.clone());
    let mut given: Vec<Given> = variables.iter().filter_map(known).collect();
    let (mut rest, mut arguments) = (Vec::new(), arguments.into_iter().peekable());
    while let Some(argument) = arguments.next() {
        let next = arguments.peek().and_then(|next| next.to_str());
        let Some((spelling, meaning, value)) = argument.to_str().and_then(|text| of_flag(text, next)) else {
            rest.push(two_dashes(argument));
            continue;
        };
        let value = match value {
            Some(value) => value,
            None if meaning.is_switch() => "true".to_owned(),
            None => arguments
                .next()
                .and_then(|next| next.into_string().ok())
                .ok_or_else(|| CompatError::NoValue(spelling.clone()))?,
        };
        given.push(Given { spelling, meaning, value });
    }
    // The other plugins ignore a flag with an empty value. OpenShift's operator passes every flag, with or without a
    // value.
    given.retain(|one| !one.value.is_empty());
    if !given.is_empty() {
        rest.retain(|argument| !is_empty_and_shared(argument));
    }
    let mut flags = flags(with_client(given, &variables))?;
    flags.warnings.extend(variables.iter().filter_map(|(name, _)| unknown_variable(name)));
    Ok(Translated { arguments: rest, flags })
}

/// Adds the variables of the client libraries before all others, so that those override them. The other plugins read
/// them; for kms-plugin alone, they have no meaning.
fn with_client(given: Vec<Given>, variables: &[(String, String)]) -> Vec<Given> {
    if !given.iter().any(|one| one.meaning == Meaning::Key("vault.addresses", Of::Any)) {
        return given;
    }
    let client = variables.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
        let meaning = flag_table::of_client(name)?;
        Some(Given { spelling: name.clone(), meaning, value: value.clone() })
    });
    client.chain(given).collect()
}

/// A warning about a variable with the prefix of another plugin that has no meaning. Kubernetes makes some with such
/// names for a Service called vault-kms.
fn unknown_variable(name: &str) -> Option<String> {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let of_service =
        rest.contains("SERVICE_HOST") || rest.contains("SERVICE_PORT") || rest.starts_with("PORT");
    let known = of_service || of_variable(name.to_owned(), String::new()).is_some();
    (!known).then(|| {
        let near = flag_table::nearest(&rest.to_lowercase().replace('_', "-"));
        let near = near
            .map(|near| format!("; is it {}?", near.replace('-', "_").to_uppercase()))
            .unwrap_or_default();
        let name = untrusted::visible(name);
        format!("{name} has no effect: neither plugin has such a variable{near}")
    })
}

/// What to add to the error about an unknown flag.
pub(crate) fn hint(unknown: &str) -> String {
    let near = flag_table::nearest(unknown.trim_start_matches('-').split('=').next().unwrap_or_default());
    let near = near.map(|near| format!(" One of them is -{near}.")).unwrap_or_default();
    format!(
        "kms-plugin also accepts the flags of vault-kubernetes-kms and vault-kube-kms (docs/flags.md).{near}"
    )
}

/// Gives a long flag with one dash, which Go accepts, a second one. Clap would read it as several short flags.
fn two_dashes(argument: OsString) -> OsString {
    let Some(name) = argument.to_str().and_then(|text| text.strip_prefix('-')) else { return argument };
    let letters = name.split('=').next().unwrap_or_default();
    let long = letters.len() > 1 && letters.starts_with(|c: char| c.is_ascii_alphabetic());
    if long { OsString::from(format!("--{name}")) } else { argument }
}

/// Whether it is a flag of ours and of another plugin, without a value: `--vault-auth-namespace=`.
fn is_empty_and_shared(argument: &OsString) -> bool {
    let name = argument.to_str().and_then(|text| text.strip_prefix("--")?.strip_suffix('='));
    name.is_some_and(|name| flag_table::find(name).is_some())
}

/// `next` is the argument after it.
fn of_flag(argument: &str, next: Option<&str>) -> Option<(String, Meaning, Option<String>)> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (name, None),
    };
    // Our own flag of the same name means the same, and clap has better messages.
    let meaning = flag_table::find(name)?;
    let level = value.as_deref().or(next);
    let theirs = meaning == Meaning::LogLevel && level.is_some_and(|level| !OUR_LEVELS.contains(&level));
    let ours = || schema::KEYS.iter().any(|key| key.flag() == name);
    if argument.starts_with("--") && ours() && !theirs {
        return None;
    }
    Some((format!("-{name}"), meaning, value))
}

fn of_variable(name: String, value: String) -> Option<Given> {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let by_name = || flag_table::find(&rest.to_lowercase().replace('_', "-"));
    let meaning = flag_table::of_its_own_name(&name).or_else(by_name)?;
    Some(Given { spelling: name, meaning, value })
}

/// Variables come first in `given`, so that flags override them.
fn flags(given: Vec<Given>) -> Result<CompatFlags, CompatError> {
    let mut flags = CompatFlags::default();
    if given.is_empty() {
        return Ok(flags);
    }
    // The defaults apply only to a whole command line of the other plugin. A single flag of it, beside our own file,
    // sets only its own key.
    if given.iter().any(|one| one.meaning == Meaning::Key("vault.addresses", Of::Any)) {
        let assumed = flag_table::defaults(given.iter().map(|one| one.spelling.as_str()));
        flags.defaults =
            assumed.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    }
    let login = Login::of(&given);
    if let Some(name) = login.method {
        flags.set("vault.auth.method", name);
    }
    for one in &given {
        flags.add(one, login)?;
    }
    flags.set_admin(&given)?;
    Ok(flags)
}

impl CompatFlags {
    fn set(&mut self, key: &str, value: &str) {
        self.values.push((key.to_owned(), value.to_owned()));
    }

    fn add(&mut self, given: &Given, login: Login<'_>) -> Result<(), CompatError> {
        let Given { spelling, meaning, value } = given;
        match *meaning {
            Meaning::Key(key, of) if login.is_of(of) => {
                self.set(key, value);
                // By default, every process in a pod can read the pod's volumes.
                if matches!(key, "vault.auth.secret_id_file" | "vault.auth.jwt_file") {
                    self.set("vault.auth.allow_world_readable", "true");
                }
            }
            Meaning::Key(_, Of::JwtFile | Of::JwtSvid)
                if login.by_jwt() && flag_table::of_client(spelling).is_none() =>
            {
                self.warnings.push(format!("{spelling} has no effect: the JWT comes from another source"));
            }
            // A flag of another method: the other plugins ignore it, too.
            Meaning::Key(..) => {}
            Meaning::Switch(key) if is_true(spelling, value)? => self.set(key, "true"),
            Meaning::DebugLevel if is_true(spelling, value)? => self.set("log.level", "debug"),
            Meaning::Switch(_) | Meaning::DebugLevel => {}
            Meaning::Secret(key) => {
                let path = secret_file::create(value)
                    .map_err(|cause| CompatError::SecretFile { flag: spelling.clone(), cause })?;
                self.set(key, &path);
                self.warnings.push(format!(
                    "{spelling} is a secret that every user of this machine can read in the process list or its \
                     environment; use a file ({key}) or a systemd credential (vault.auth.credential)"
                ));
            }
            Meaning::KeyPath => {
                let split = value.trim_matches('/').rsplit_once("/keys/");
                let (mount, key) = split
                    .ok_or_else(|| CompatError::KeyPath { flag: spelling.clone(), value: value.clone() })?;
                self.set("vault.transit.mount", mount);
                self.set("vault.transit.key", key);
            }
            Meaning::LogLevel => {
                let level = level(value)
                    .ok_or_else(|| CompatError::Level { flag: spelling.clone(), value: value.clone() })?;
                self.set("log.level", level);
            }
            Meaning::CertAndKey => {
                self.set("vault.client_cert_file", value);
                self.set("vault.client_key_file", value);
            }
            Meaning::TokenSource if value == "spiffe" && login.method == Some("kubernetes") => {
                return Err(CompatError::KubernetesSvid(spelling.clone()));
            }
            Meaning::TokenSource if matches!(value.as_str(), "file" | "spiffe") => {}
            Meaning::TokenSource => {
                return Err(CompatError::TokenSource { flag: spelling.clone(), value: value.clone() });
            }
            Meaning::Obsolete(why) | Meaning::ObsoleteSwitch(why) => {
                self.warnings.push(format!("{spelling} has no effect: {why}"));
            }
            Meaning::HealthPort | Meaning::MetricsPort => {}
        }
        Ok(())
    }

    /// Sets one address for health and metrics. As in the other plugins, other machines can reach it: the kubelet
    /// probes the pod's address.
    fn set_admin(&mut self, given: &[Given]) -> Result<(), CompatError> {
        let port = |wanted: Meaning| {
            let Some(one) = given.iter().rev().find(|one| one.meaning == wanted) else { return Ok(None) };
            // `:8080` is an address in Go, and -1 turns the metrics of vault-kube-kms off.
            let text = one.value.strip_prefix(':').unwrap_or(&one.value);
            let text = if wanted == Meaning::MetricsPort && text == "-1" { "0" } else { text };
            text.parse::<u16>()
                .map(Some)
                .map_err(|_| CompatError::Port { flag: one.spelling.clone(), value: one.value.clone() })
        };
        let (health, metrics) = (port(Meaning::HealthPort)?, port(Meaning::MetricsPort)?);
        let port = match (health.filter(|port| *port > 0), metrics.filter(|port| *port > 0)) {
            (None, None) => {
                if health.or(metrics).is_some() {
                    self.set("server.admin", "");
                }
                return Ok(());
            }
            (None, Some(metrics)) => metrics,
            (Some(health), _) => {
                if metrics.is_some_and(|metrics| metrics != health) {
                    self.warnings.push(format!("/metrics is served on the health port, {health}"));
                }
                health
            }
        };
        // IPv4 and IPv6, as Go's `:port`; only IPv4 where the kernel has no IPv6.
        let any = if Path::new("/proc/net/if_inet6").exists() { "[::]" } else { "0.0.0.0" };
        self.set("server.admin", &format!("{any}:{port}"));
        self.set("server.insecure_admin_beyond_loopback", "true");
        self.warnings.push(format!(
            "health and metrics are served on every address of this machine, port {port}, without TLS, for the \
             kubelet's probes; --server-admin=127.0.0.1:{port} keeps them on loopback"
        ));
        Ok(())
    }
}

/// A switch as Go's package `flag` reads it.
fn is_true(spelling: &str, value: &str) -> Result<bool, CompatError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(CompatError::Switch { flag: spelling.to_owned(), value: value.to_owned() }),
    }
}

const OUR_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Our level of the log for another plugin's, by its name or by zap's number. Higher numbers are more detailed.
fn level(theirs: &str) -> Option<&str> {
    match theirs {
        "dpanic" | "panic" | "fatal" => Some("error"),
        "debug-extended" => Some("debug"),
        ours if OUR_LEVELS.contains(&ours) => Some(ours),
        number => number.parse::<u8>().ok().map(|number| if number > 0 { "debug" } else { "info" }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "translate_tests.rs"]
mod tests;
