//! The command lines of two other Transit plugins, as they are: so that their static pods and sidecars run
//! with this binary unchanged.
//!
//! Their flags (one or two dashes, `-flag=value` or `-flag value`) and variables are taken out of what clap
//! sees and become values of our own keys. Must not know what those keys are used for.

mod secret_file;
mod socket_directory;
mod table;

use std::ffi::OsString;
use std::path::Path;

use crate::cli::exit::{Exit, Failure};
use crate::config::schema;
pub(crate) use socket_directory::close as close_directory;
use table::{Meaning, Of, PREFIXES};

/// What the foreign flags and variables say, in our words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Foreign {
    /// What those plugins assume, by key path.
    pub defaults: Vec<(String, String)>,
    /// Values by key path; a later one wins.
    pub values: Vec<(String, String)>,
    /// What is to be told about them.
    pub warnings: Vec<String>,
}

/// A flag or variable that was given.
struct Given {
    /// As it was written, for messages: `-token`, `VAULT_KMS_TOKEN`.
    spelling: String,
    meaning: Meaning,
    value: String,
}

/// Takes the foreign flags out of a command line that serves, and the foreign variables out of the
/// environment. The rest of the arguments is for clap.
///
/// # Errors
/// A flag without its value, or a value that means nothing.
pub(crate) fn take(
    arguments: Vec<OsString>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Vec<OsString>, Foreign), Failure> {
    let serves = match arguments.get(1).and_then(|first| first.to_str()) {
        None => arguments.len() == 1,
        Some(first) => first == "serve" || first.starts_with('-'),
    };
    if !serves {
        return Ok((arguments, Foreign::default()));
    }
    // What is not text is nobody's: other programs' variables may hold anything.
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
                .ok_or_else(|| Failure::message(Exit::Usage, format!("{spelling} needs a value")))?,
        };
        given.push(Given { spelling, meaning, value });
    }
    // To those plugins an empty value is none: an operator gives every flag, with or without a value.
    given.retain(|one| !one.value.is_empty());
    if !given.is_empty() {
        rest.retain(|argument| !is_empty_and_shared(argument));
    }
    Ok((rest, translate(given)?))
}

/// What to tell beside clap's words about a flag that nobody knows.
pub(crate) fn hint(unknown: &str) -> String {
    let near = table::nearest(unknown.trim_start_matches('-').split('=').next().unwrap_or_default());
    let near = near.map(|near| format!(" One of them is -{near}.")).unwrap_or_default();
    format!("The flags of vault-kubernetes-kms and vault-kube-kms are accepted, too (docs/flags.md).{near}")
}

/// A long flag with one dash, as Go takes it, is one of ours with two. Clap would read it as letters.
fn two_dashes(argument: OsString) -> OsString {
    let Some(name) = argument.to_str().and_then(|text| text.strip_prefix('-')) else { return argument };
    let letters = name.split('=').next().unwrap_or_default();
    let long = letters.len() > 1 && letters.starts_with(|c: char| c.is_ascii_alphabetic());
    if long { OsString::from(format!("--{name}")) } else { argument }
}

/// One of ours that is theirs, too, without a value: `--vault-auth-namespace=`.
fn is_empty_and_shared(argument: &OsString) -> bool {
    let name = argument.to_str().and_then(|text| text.strip_prefix("--")?.strip_suffix('='));
    name.is_some_and(|name| table::find(name).is_some())
}

fn of_flag(argument: &str) -> Option<(String, Meaning, Option<String>)> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (name, None),
    };
    // Ours with the same name means the same, and has clap's messages.
    if argument.starts_with("--") && schema::KEYS.iter().any(|key| key.flag() == name) {
        return None;
    }
    Some((format!("-{name}"), table::find(name)?, value))
}

fn of_variable(name: String, value: String) -> Option<Given> {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let by_name = || table::find(&rest.to_lowercase().replace('_', "-"));
    let meaning = table::of_its_own_name(&name).or_else(by_name)?;
    Some(Given { spelling: name, meaning, value })
}

/// Variables come first in `given`, so that flags win.
fn translate(given: Vec<Given>) -> Result<Foreign, Failure> {
    let mut foreign = Foreign::default();
    if given.is_empty() {
        return Ok(foreign);
    }
    // Only for a whole command line of theirs: one of their flags beside our own file changes nothing else.
    if given.iter().any(|one| one.meaning == Meaning::Key("vault.addresses", Of::Any)) {
        let assumed = table::defaults(given.iter().map(|one| one.spelling.as_str()));
        foreign.defaults =
            assumed.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    }
    let method = method(&given);
    if let Some(name) = method {
        foreign.set("vault.auth.method", name);
    }
    for one in &given {
        foreign.take(one, method)?;
    }
    foreign.admin(&given)?;
    Ok(foreign)
}

/// The login method that is named, or that the credentials are of.
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

impl Foreign {
    fn set(&mut self, key: &str, value: &str) {
        self.values.push((key.to_owned(), value.to_owned()));
    }

    fn take(&mut self, given: &Given, method: Option<&str>) -> Result<(), Failure> {
        let Given { spelling, meaning, value } = given;
        match *meaning {
            Meaning::Key(key, of) if is_of(of, method) => {
                self.set(key, value);
                // The volumes of pods are readable for all in the pod, unless somebody thinks of it.
                if matches!(key, "vault.auth.secret_id_file" | "vault.auth.jwt_file") {
                    self.set("vault.auth.allow_world_readable", "true");
                }
            }
            // Another method's: those plugins ignore it, too.
            Meaning::Key(..) => {}
            Meaning::Switch(key) if is_true(spelling, value)? => self.set(key, "true"),
            Meaning::DebugLevel if is_true(spelling, value)? => self.set("log.level", "debug"),
            Meaning::Switch(_) | Meaning::DebugLevel => {}
            Meaning::Secret(key) => {
                let path = secret_file::keep(value).map_err(|error| {
                    Failure::new(Exit::Internal, error)
                        .context(format!("{spelling} cannot be kept in memory"))
                })?;
                self.set(key, &path);
                self.warnings.push(format!(
                    "{spelling} is a secret that every user of this machine can read in the process list or its \
                     environment; use a file ({key}) or a systemd credential (vault.auth.credential)"
                ));
            }
            Meaning::KeyPath => {
                let split = value.trim_matches('/').rsplit_once("/keys/");
                let (mount, key) = split.ok_or_else(|| {
                    let message = format!("{spelling}={value} is not a path such as transit/keys/kms-key");
                    Failure::message(Exit::Usage, message)
                })?;
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

    /// One address for health and metrics, reached from outside of the pod as those plugins' are: the kubelet
    /// probes the pod's address.
    fn admin(&mut self, given: &[Given]) -> Result<(), Failure> {
        let port = |wanted: Meaning| {
            let Some(one) = given.iter().rev().find(|one| one.meaning == wanted) else { return Ok(None) };
            one.value.parse::<u16>().map(Some).map_err(|_| {
                Failure::message(Exit::Usage, format!("{}={} is not a port", one.spelling, one.value))
            })
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
                    let message =
                        format!("/metrics is served on the health port, {health}, like everything else");
                    self.warnings.push(message);
                }
                health
            }
        };
        // Both families, as Go's `:port`; where the kernel has no IPv6, the one that there is.
        let every = if Path::new("/proc/net/if_inet6").exists() { "[::]" } else { "0.0.0.0" };
        self.set("server.admin", &format!("{every}:{port}"));
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

/// A switch as Go's flag package reads it.
fn is_true(spelling: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Failure::message(Exit::Usage, format!("{spelling}={value} is neither true nor false"))),
    }
}

/// zap's level, by name or by number (its higher numbers are more detailed), as ours.
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
mod tests;
