//! `[server]`: the socket, the admin API and their limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;
use serde::Deserialize;

use super::defaults;
use super::name::is_host_name;
use super::raw::Merged;
use super::validate::Validator;

#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Path of the KMS socket: absolute, at most 100 bytes.
    pub socket: PathBuf,
    /// Address of the admin API; `None` turns it off.
    pub admin: Option<SocketAddr>,
    /// Names under which the admin API answers, beside `localhost` and IP addresses.
    pub admin_hosts: Vec<String>,
    /// Directory of the admin socket and of the saved identity.
    pub runtime_dir: PathBuf,
    /// Beside the socket: the agent uses it when nobody set `runtime_dir` and the agent cannot create the default
    /// one.
    pub runtime_dir_fallback: Option<PathBuf>,
    /// Directory of the list of wrapped local KEKs. When it does not exist, the agent saves no list.
    pub state_dir: PathBuf,
    /// User ids that may call the socket.
    pub allowed_uids: Vec<u32>,
    /// Most Encrypt and Decrypt calls at the same time.
    pub max_in_flight: usize,
    pub call_timeout: Duration,
    /// How long a stopping agent waits for unfinished calls.
    pub drain_timeout: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawServer {
    socket: Option<String>,
    admin: Option<String>,
    insecure_admin_beyond_loopback: bool,
    admin_hosts: Vec<String>,
    runtime_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    allowed_uids: Option<Vec<i64>>,
    max_in_flight: Option<i64>,
    call_timeout: Option<String>,
    drain_timeout: Option<String>,
}

impl RawServer {
    /// Where to listen, from a configuration that may have problems elsewhere.
    pub(super) fn readable(merged: &Merged) -> Self {
        let text = |key: &str| merged.value(key).and_then(Value::into_string);
        let flag = |key: &str| merged.value(key).and_then(|value| value.to_bool());
        Self {
            socket: text("server.socket"),
            admin: text("server.admin"),
            insecure_admin_beyond_loopback: flag("server.insecure_admin_beyond_loopback").unwrap_or_default(),
            runtime_dir: text("server.runtime_dir").map(PathBuf::from),
            state_dir: text("server.state_dir").map(PathBuf::from),
            ..Self::default()
        }
    }
}

pub(super) fn own_uids() -> Vec<u32> {
    let mut uids = vec![0, nix::unistd::geteuid().as_raw()];
    uids.dedup();
    uids
}

pub(super) fn server(raw: RawServer, check: &mut Validator<'_>) -> Server {
    let admin = match raw.admin.as_deref().unwrap_or(defaults::text("server.admin")) {
        "" => None,
        text => match text.parse::<SocketAddr>() {
            Ok(address) => {
                if !address.ip().is_loopback() && !raw.insecure_admin_beyond_loopback {
                    check.problem(
                        "server.admin",
                        format!("other machines can reach {address}, and the admin API has no TLS; use 127.0.0.1, or set server.insecure_admin_beyond_loopback = true"),
                    );
                }
                Some(address)
            }
            Err(_) => {
                check.problem(
                    "server.admin",
                    format!("{text:?} is not an address with a port, such as 127.0.0.1:8690"),
                );
                None
            }
        },
    };
    for name in raw.admin_hosts.iter().filter(|name| !is_host_name(name)) {
        check.problem("server.admin_hosts", format!("{name:?} is not a host name; leave out the port"));
    }
    if raw.allowed_uids.as_ref().is_some_and(Vec::is_empty) {
        check.problem("server.allowed_uids", "is empty, so nobody could call the socket");
    }
    let uids = raw.allowed_uids.map(|uids| {
        uids.into_iter()
            .filter_map(|uid| match u32::try_from(uid) {
                Ok(uid) => Some(uid),
                Err(_) => {
                    check.problem("server.allowed_uids", format!("{uid} is not a user id"));
                    None
                }
            })
            .collect()
    });
    let socket = check.socket_path(raw.socket.as_deref().unwrap_or(defaults::text("server.socket")));
    let chosen = raw.runtime_dir.or_else(|| of_systemd("RUNTIME_DIRECTORY"));
    let state_dir = raw.state_dir.or_else(|| of_systemd("STATE_DIRECTORY"));
    // Named after the socket: during a change of the key, two agents share a pod's volume.
    let beside = socket.file_name().map(|name| format!(".{}.run", name.to_string_lossy()));
    let runtime_dir_fallback = beside.filter(|_| chosen.is_none()).map(|name| socket.with_file_name(name));
    Server {
        socket,
        admin,
        admin_hosts: raw.admin_hosts,
        runtime_dir: chosen.unwrap_or_else(|| PathBuf::from(defaults::text("server.runtime_dir"))),
        runtime_dir_fallback,
        state_dir: state_dir.unwrap_or_else(|| PathBuf::from(defaults::text("server.state_dir"))),
        allowed_uids: uids.unwrap_or_else(own_uids),
        max_in_flight: check.count("server.max_in_flight", raw.max_in_flight, 1..=4096),
        call_timeout: check.duration("server.call_timeout", raw.call_timeout.as_deref(), "100ms", "5m"),
        drain_timeout: check.duration("server.drain_timeout", raw.drain_timeout.as_deref(), "0s", "5m"),
    }
}

/// The directory that systemd made for the service and named in `variable`. systemd joins several with colons
/// (systemd.exec(5)); the first one counts.
fn of_systemd(variable: &str) -> Option<PathBuf> {
    let directories = std::env::var(variable).ok()?;
    directories.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
}
