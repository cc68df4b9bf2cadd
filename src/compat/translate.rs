//! Translates the flags and variables of two other Transit plugins, so that their static pods and sidecars run this
//! binary without a change.
//!
//! Their flags (one or two dashes, `-flag=value` or `-flag value`) and variables become values of our own keys; the
//! other arguments are for our own command line. Must not know what the keys are for.

use std::ffi::OsString;
use std::path::Path;

use super::error::CompatError;
use super::flag_table::{self, Meaning, Of, PREFIXES};
use super::secret_file;
use crate::config::schema;

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

/// A flag or variable of another plugin that was given.
struct Given {
    /// As written, for messages: `-token`, `VAULT_KMS_TOKEN`.
    spelling: String,
    meaning: Meaning,
    value: String,
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
    let mut given: Vec<Given> =
        variables.filter_map(text).filter_map(|(name, value)| of_variable(name, value)).collect();
    let (mut rest, mut arguments) = (Vec::new(), arguments.into_iter());
    while let Some(argument) = arguments.next() {
        let Some((spelling, meaning, value)) = argument.to_str().and_then(of_flag) else {
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
    Ok(Translated { arguments: rest, flags: flags(given)? })
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

fn of_flag(argument: &str) -> Option<(String, Meaning, Option<String>)> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (name, None),
    };
    // Our own flag of the same name means the same, and clap has better messages.
    if argument.starts_with("--") && schema::KEYS.iter().any(|key| key.flag() == name) {
        return None;
    }
    Some((format!("-{name}"), flag_table::find(name)?, value))
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
    let method = method(&given);
    if let Some(name) = method {
        flags.set("vault.auth.method", name);
    }
    for one in &given {
        flags.add(one, method)?;
    }
    flags.set_admin(&given)?;
    Ok(flags)
}

/// The login method that is named, or the method of the given credentials.
fn method(given: &[Given]) -> Option<&str> {
    let named = given.iter().rev().find(|one| one.meaning == Meaning::Key("vault.auth.method", Of::Any));
    let of = |one: &Given| match one.meaning {
        Meaning::Key(_, Of::AppRole) | Meaning::Secret("vault.auth.secret_id_file") => Some("approle"),
        Meaning::Key(_, Of::Userpass) | Meaning::Secret("vault.auth.password_file") => Some("userpass"),
        Meaning::Secret(_) => Some("token"),
        Meaning::Key(_, Of::Cert) => Some("cert"),
        Meaning::Key(_, Of::Jwt) => Some("jwt"),
        _ => None,
    };
    named.map(|one| one.value.as_str()).or_else(|| given.iter().find_map(of))
}

impl CompatFlags {
    fn set(&mut self, key: &str, value: &str) {
        self.values.push((key.to_owned(), value.to_owned()));
    }

    fn add(&mut self, given: &Given, method: Option<&str>) -> Result<(), CompatError> {
        let Given { spelling, meaning, value } = given;
        match *meaning {
            Meaning::Key(key, of) if is_of(of, method) => {
                self.set(key, value);
                // By default, every process in a pod can read the pod's volumes.
                if matches!(key, "vault.auth.secret_id_file" | "vault.auth.jwt_file") {
                    self.set("vault.auth.allow_world_readable", "true");
                }
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
            Meaning::LogLevel => self.set("log.level", level(value)),
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
            one.value
                .parse::<u16>()
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

fn is_of(of: Of, method: Option<&str>) -> bool {
    match of {
        Of::Any => true,
        Of::AppRole => method == Some("approle"),
        Of::Userpass => method == Some("userpass"),
        Of::Cert => method == Some("cert"),
        Of::Jwt => matches!(method, Some("jwt" | "kubernetes")),
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

/// Our level of the log for zap's, by its name or by its number. Higher numbers are more detailed.
fn level(zap: &str) -> &str {
    match zap {
        "warn" => "warn",
        "error" | "dpanic" | "panic" | "fatal" => "error",
        "debug" => "debug",
        number if number.parse::<u8>().is_ok_and(|number| number > 0) => "debug",
        _ => "info",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "translate_tests.rs"]
mod tests;
