//! The socket that kube-apiserver connects to: there, private, the one that its directory shows, and answering.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use tonic::Code;

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::report::Report;
use crate::cli::external;
use crate::kms::client::{self, ConnectError};
use crate::proto::{StatusRequest, StatusResponse};

const WHY: &str = "the API server waits for it until its timeout, with every call";
/// Flag of a listening socket in /proc/net/unix (`__SO_ACCEPTCON`, proc(5)).
const LISTENING: u32 = 0x1_0000;
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// `wanted` is whether an agent should be there; `expected` the key_id that this configuration leads to.
pub(crate) async fn check(
    path: &Path,
    agent: &AgentView,
    wanted: bool,
    expected: Option<&str>,
    time: Duration,
    report: &mut Report,
) {
    let shown = path.display().to_string();
    let fail = |seen: &str, remedy: &str| Finding::fail(Check::Socket, &shown, seen, WHY, remedy);
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => metadata,
        Ok(metadata) => {
            let kind = if metadata.is_dir() { "directory" } else { "file" };
            let remedy =
                format!("move it away ({}), then: systemctl restart kms-plugin.socket", mv(&shown, kind));
            report.add(fail(&format!("a {kind} is in its place"), &remedy));
            return;
        }
        Err(cause) => {
            let deaf = "the file is gone, while a process still listens under this name: it was deleted, or its directory was replaced";
            let directory = path.parent().unwrap_or(path);
            let start = match external::systemd_runs() {
                true => "start the agent: systemctl enable --now kms-plugin; in a pod, look whether the directory is mounted".to_owned(),
                false if directory.is_dir() => "start the agent; in a pod, look whether the directory is mounted".to_owned(),
                false => format!("mkdir -m 0700 {}, then start the agent", directory.display()),
            };
            report.add(match (listeners(path), agent.runs()) {
                _ if cause.kind() == ErrorKind::PermissionDenied => Finding::skipped(Check::Socket, &shown, format!("cannot be looked at by this user: {cause}")),
                (1.., _) => fail(deaf, "systemctl restart kms-plugin.socket (without the unit: restart the agent; it binds it again by itself within seconds)"),
                (0, true) => fail(&format!("{cause}"), "the agent runs with another server.socket, or cannot bind this one: journalctl -u kms-plugin -n 50"),
                (0, false) if wanted => fail(&format!("{cause}"), &start),
                (0, false) => Finding::warn(Check::Socket, &shown, format!("{cause}; no agent runs"), WHY, start),
            });
            return;
        }
    };
    let open = metadata.mode() & 0o022 != 0;
    if open || metadata.uid() != 0 && metadata.uid() != nix::unistd::geteuid().as_raw() {
        report.add(Finding::fail(
            Check::Socket,
            &shown,
            format!("owner {}, mode {:04o}", metadata.uid(), metadata.mode() & 0o7777),
            "whoever may connect may have every DEK seed unwrapped",
            format!("chown root:root {shown} && chmod 0600 {shown}; with the unit: systemctl restart kms-plugin.socket"),
        ));
    }
    label(path, report).await;
    answer(path, agent, expected, time, report).await;
}

fn mv(shown: &str, kind: &str) -> String {
    if kind == "directory" { format!("rmdir {shown}") } else { format!("mv {shown} {shown}.old") }
}

/// Whether it answers, as what, and for the key that is meant.
async fn answer(path: &Path, agent: &AgentView, expected: Option<&str>, time: Duration, report: &mut Report) {
    let shown = path.display().to_string();
    let fail = |seen: String, remedy: &str| Finding::fail(Check::Socket, &shown, seen, WHY, remedy);
    let status = match ask(path, time).await {
        Ok(status) => status,
        Err(Silence::Hangs) => {
            let seen = format!("no answer to Status within {time:?}");
            report.add(fail(seen, "the process behind it hangs: systemctl restart kms-plugin"));
            return;
        }
        // The socket is as it should be: what it tells is the agent's trouble, which has a line of its own.
        Err(Silence::Says(_)) if agent.complains() => {
            report.add(Finding::ok(Check::Socket, &shown, "answers, with what the agent says below"));
            return;
        }
        Err(Silence::Says(why)) => {
            report.add(fail(why, "do what its own words say; journalctl -u kms-plugin -n 50 says more"));
            return;
        }
        Err(Silence::Refuses(why)) => {
            let remedy = match () {
                () if why.is_permission_denied() => "run this check as root",
                () if agent.runs() => {
                    "the agent serves another path, or cannot bind this one: journalctl -u kms-plugin -n 50"
                }
                () => "nobody serves it: systemctl restart kms-plugin.socket kms-plugin.service",
            };
            report.add(fail(format!("{why}: {}", why.cause), remedy));
            return;
        }
    };
    let ours = !agent.runs() || status.healthz != "ok" || agent.announces(&status.key_id).await;
    report.add(if status.healthz != "ok" && agent.complains() {
        Finding::ok(Check::Socket, &shown, "answers, with what the agent says below")
    } else if status.healthz != "ok" {
        fail(
            format!("it answers, and is not well: {}", status.healthz),
            "do what its own words say; the lines above say more",
        )
    } else if !ours {
        fail(
            format!("another plugin serves it: its key_id is {}", status.key_id),
            "stop the other plugin (fuser PATH names it), then: systemctl restart kms-plugin.socket",
        )
    } else if expected.is_some_and(|expected| expected != status.key_id) {
        Finding::warn(
            Check::Socket,
            &shown,
            format!(
                "it announces key_id {}, this configuration leads to {}",
                status.key_id,
                expected.unwrap_or_default()
            ),
            "the agent works with other settings than these, or has not seen a rotation yet",
            "wait for health.key_check_interval (60 s); then: systemctl reload kms-plugin",
        )
    } else {
        Finding::ok(Check::Socket, &shown, format!("answers ok, key_id {}", status.key_id))
    });
}

/// Why there is no status.
enum Silence {
    Hangs,
    /// Nobody takes the connection.
    Refuses(ConnectError),
    /// It answers, with an error.
    Says(String),
}

async fn ask(path: &Path, time: Duration) -> Result<StatusResponse, Silence> {
    let asked = async {
        let mut kms = client::connect(path, time).await.map_err(Silence::Refuses)?;
        kms.status(StatusRequest {}).await.map(tonic::Response::into_inner).map_err(|status| {
            match status.code() {
                // What the client says itself when the time is over.
                Code::DeadlineExceeded | Code::Cancelled => Silence::Hangs,
                _ => Silence::Says(format!("Status failed: {}", status.message())),
            }
        })
    };
    tokio::time::timeout(time, asked).await.unwrap_or(Err(Silence::Hangs))
}

/// How many listeners have this name, whether or not the file is there. One that was bound under a temporary
/// name and then renamed keeps the former, which begins with the latter.
fn listeners(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let wanted = path.display().to_string();
    let is_temporary = |rest: &str| rest.is_empty() || (rest.len() == 7 && rest.starts_with('.'));
    let listens = |line: &&str| {
        let mut fields = line.split_whitespace();
        let flags = fields.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or_default();
        flags & LISTENING != 0
            && fields.last().is_some_and(|name| name.strip_prefix(&wanted).is_some_and(is_temporary))
    };
    table.lines().filter(listens).count()
}

/// The SELinux label, where the policy is enforced.
async fn label(path: &Path, report: &mut Report) {
    if fs::read_to_string(SELINUX).is_ok_and(|enforce| enforce.trim() == "1") {
        let shown = path.display().to_string();
        let Ok(verified) = external::run("matchpathcon", &["-V", &shown]).await else { return };
        report.add(match verified.success {
            true => Finding::ok(Check::Socket, &shown, verified.text.trim()),
            false => Finding::warn(
                Check::Socket,
                &shown,
                verified.text.trim(),
                "SELinux may keep the API server from connecting",
                "restorecon -Rv /run/kmsplugin; is kms-plugin-selinux installed? (docs/selinux.md)",
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_name_also_when_the_file_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kms.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(listeners(&path), 1);
        fs::remove_file(&path).unwrap();
        assert_eq!(listeners(&path), 1);
        drop(listener);
        assert_eq!(listeners(&path), 0);
    }
}
