//! The socket that kube-apiserver connects to: it exists, is private, has a listener, and answers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use tonic::Code;

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::report::Report;
use crate::files;
use crate::kms::client::{self, ConnectError};
use crate::process;
use crate::proto::{StatusRequest, StatusResponse};
use crate::socket::occupant;
use crate::systemd::units::systemd_runs;

const RESTART_SOCKET: &str = "systemctl restart kms-plugin.socket";
const WHY: &str = "every call of the API server waits until its timeout";
/// Flag of a listening socket in /proc/net/unix (`__SO_ACCEPTCON`, proc(5)).
const LISTENING: u32 = 0x1_0000;
/// Largest /proc/net/unix that is read, in bytes.
const MAX_TABLE: u64 = 16 * 1024 * 1024;
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// Reports what is in place of the socket. Comes before the units: they cannot be started then.
pub(crate) fn occupied(path: &Path, report: &mut Report<'_>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let Some(kind) = occupant(metadata.file_type()) else { return };
    let shown = path.display().to_string();
    let (what, remedy) = match () {
        () if is_mount_point(path) => (
            "mount point",
            format!(
                "find out who mounted it (findmnt {shown}) and unmount it (umount {shown}), then run this check again"
            ),
        ),
        () if metadata.is_dir() && is_empty(path) => {
            ("directory", format!("remove it (rmdir {shown}), then: {RESTART_SOCKET}"))
        }
        () => (kind, format!("move it away (mv -T {shown} {shown}.old), then: {RESTART_SOCKET}")),
    };
    report.add(Finding::fail(Check::Socket, &shown, format!("a {what} is at this path"), WHY, remedy));
}

/// Whether something is mounted there: neither rmdir(1) nor mv(1) can remove it. An old kernel does not say it (before
/// Linux 5.8).
fn is_mount_point(path: &Path) -> bool {
    let found = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether a directory is seen to be empty: only then rmdir(1) can remove it.
fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// The process behind the socket, as the units have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// It should run.
    Wanted,
    /// Nobody has started it, or nothing is known.
    NotWanted,
    /// It does not stay up.
    Ends,
}

/// `expected` is the key_id that this configuration leads to.
pub(crate) async fn check(
    path: &Path,
    agent: &AgentView,
    process: Process,
    expected: Option<&str>,
    time: Duration,
    report: &mut Report<'_>,
) {
    let shown = path.display().to_string();
    let fail = |seen: &str, remedy: &str| Finding::fail(Check::Socket, &shown, seen, WHY, remedy);
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => metadata,
        // [`occupied`] has said it.
        Ok(_) => return,
        Err(cause) => {
            let deaf = "the file is gone, but a process still listens under this name: the file was deleted, or its directory was replaced";
            let directory = path.parent().unwrap_or(path);
            let start = match systemd_runs() {
                true => "start the agent: systemctl enable --now kms-plugin; in a pod, check that the directory is mounted".to_owned(),
                false if directory.is_dir() => "start the agent; in a pod, check that the directory is mounted".to_owned(),
                false => format!("mkdir -m 0700 {}, then start the agent", directory.display()),
            };
            report.add(match (listeners(path), agent.runs()) {
                _ if cause.kind() == ErrorKind::PermissionDenied => Finding::skipped(Check::Socket, &shown, format!("this user cannot see it: {cause}")),
                (1.., _) => fail(deaf, "systemctl restart kms-plugin.socket (without the unit, the agent binds it again within seconds; if it does not, restart the agent)"),
                (0, true) => fail(&format!("{cause}"), "the agent runs with another server.socket, or cannot bind this one: journalctl -u kms-plugin -n 50"),
                (0, false) if process != Process::NotWanted => fail(&format!("{cause}"), &start),
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
            "whoever may connect can have every DEK seed unwrapped",
            format!("chown root:root {shown} && chmod 0600 {shown}; with the unit: systemctl restart kms-plugin.socket"),
        ));
    }
    label(path, report).await;
    if process == Process::Ends {
        let because = "nobody can answer: the line `service` says why the agent does not stay up";
        report.add(Finding::skipped(Check::Socket, &shown, because));
        return;
    }
    answer(path, agent, expected, time, report).await;
}

/// Whether it answers, which program answers, and with which key.
async fn answer(
    path: &Path,
    agent: &AgentView,
    expected: Option<&str>,
    time: Duration,
    report: &mut Report<'_>,
) {
    let shown = path.display().to_string();
    let fail = |seen: String, remedy: &str| Finding::fail(Check::Socket, &shown, seen, WHY, remedy);
    let status = match status(path, time).await {
        Ok(status) => status,
        Err(NoStatus::Hangs) => {
            let seen = format!("no answer to Status within {time:?}");
            report.add(fail(seen, "the process behind it hangs: systemctl restart kms-plugin"));
            return;
        }
        // The socket works. The problem of the agent has its own finding.
        Err(NoStatus::Failed(_)) if agent.reports_problem() => {
            report.add(Finding::ok(
                Check::Socket,
                &shown,
                "answers with the problem that the line `agent` shows",
            ));
            return;
        }
        Err(NoStatus::Failed(why)) => {
            report.add(fail(
                why,
                "follow the remedy in the message; journalctl -u kms-plugin -n 50 shows more",
            ));
            return;
        }
        Err(NoStatus::NotConnected(why)) => {
            let remedy = match () {
                () if why.is_permission_denied() => "run this check as root",
                () if agent.runs() => {
                    "the agent uses another path, or cannot bind this one: journalctl -u kms-plugin -n 50"
                }
                () => "no process listens: systemctl restart kms-plugin.socket kms-plugin.service",
            };
            report.add(fail(format!("{why}: {}", why.cause), remedy));
            return;
        }
    };
    let ours = !agent.runs() || status.healthz != "ok" || agent.announces(&status.key_id).await;
    report.add(if status.healthz != "ok" && agent.reports_problem() {
        Finding::ok(Check::Socket, &shown, "answers with the problem that the line `agent` shows")
    } else if status.healthz != "ok" {
        fail(
            format!("Status is not ok: {}", status.healthz),
            "follow the remedy in the message; the lines above show more",
        )
    } else if !ours {
        fail(
            format!("another plugin uses this socket: its key_id is {}", status.key_id),
            "stop the other plugin (fuser PATH names it), then: systemctl restart kms-plugin.socket",
        )
    } else if expected.is_some_and(|expected| expected != status.key_id) {
        Finding::warn(
            Check::Socket,
            &shown,
            format!(
                "Status has key_id {}, but this configuration leads to {}",
                status.key_id,
                expected.unwrap_or_default()
            ),
            "the agent has other settings, or has not seen a rotation yet",
            "wait for health.key_check_interval (60 s); then: systemctl reload kms-plugin",
        )
    } else {
        Finding::ok(Check::Socket, &shown, format!("answers ok, key_id {}", status.key_id))
    });
}

/// Why there is no status.
enum NoStatus {
    /// No answer in time.
    Hangs,
    NotConnected(ConnectError),
    /// It answers with an error.
    Failed(String),
}

async fn status(path: &Path, time: Duration) -> Result<StatusResponse, NoStatus> {
    let call = async {
        let mut kms = client::connect(path, time).await.map_err(NoStatus::NotConnected)?;
        kms.status(StatusRequest {}).await.map(tonic::Response::into_inner).map_err(|status| {
            match status.code() {
                // The client's own codes for a timeout.
                Code::DeadlineExceeded | Code::Cancelled => NoStatus::Hangs,
                _ => NoStatus::Failed(format!("Status failed: {}", status.message())),
            }
        })
    };
    tokio::time::timeout(time, call).await.unwrap_or(Err(NoStatus::Hangs))
}

/// The number of listeners with this name, whether or not the file exists. The kernel shows the name that was bound.
/// Our own agent binds a temporary name, and renames the file: the path, a dot and six characters.
fn listeners(path: &Path) -> usize {
    let table = files::read(Path::new("/proc/net/unix"), MAX_TABLE).unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
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

/// The SELinux label, where SELinux is enforcing.
async fn label(path: &Path, report: &mut Report<'_>) {
    if files::read(Path::new(SELINUX), 16).is_ok_and(|enforce| enforce.trim_ascii() == b"1") {
        let shown = path.display().to_string();
        let Ok(verified) = process::run("matchpathcon", &["-V", &shown]).await else { return };
        report.add(match verified.status.success() {
            true => Finding::ok(Check::Socket, &shown, verified.stdout.trim()),
            false => Finding::warn(
                Check::Socket,
                &shown,
                verified.stdout.trim(),
                "SELinux may deny the API server the connection",
                "restorecon -Rv /run/kmsplugin; if that does not help, install kms-plugin-selinux (docs/selinux.md)",
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The remedy names a command that works on what is there.
    #[test]
    fn each_thing_in_place_of_the_socket_has_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kms.sock");
        let found = || {
            let mut report = Report::new(|_| ());
            occupied(&path, &mut report);
            let finding = report.findings().first()?;
            Some((finding.seen.clone(), finding.remedy.clone()?))
        };
        let shown = path.display();
        assert_eq!(found(), None);
        fs::create_dir(&path).unwrap();
        let (seen, remedy) = found().unwrap();
        assert_eq!(seen, "a directory is at this path");
        assert!(remedy.contains(&format!("(rmdir {shown})")), "{remedy}");
        fs::write(path.join("a"), "").unwrap();
        let (_, remedy) = found().unwrap();
        assert!(remedy.contains(&format!("(mv -T {shown} {shown}.old)")) && !remedy.contains("rmdir"));
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "").unwrap();
        let (seen, remedy) = found().unwrap();
        assert!(seen.contains("a file is") && remedy.contains("mv -T"), "{seen}: {remedy}");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        let (seen, remedy) = found().unwrap();
        assert!(seen.contains("a symbolic link is") && remedy.contains("mv -T"), "{seen}: {remedy}");
        fs::remove_file(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(found(), None);
        // A mount that every system has.
        assert!(is_mount_point(Path::new("/proc")) && !is_mount_point(directory.path()));
    }

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
