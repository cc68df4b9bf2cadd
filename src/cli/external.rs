//! Programs of the system that are asked for what only they know: systemctl, journalctl, stat.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// Largest output that is read, in bytes.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// Longest time for one of them.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a program wrote to stdout, and whether it succeeded.
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) text: String,
}

/// Runs `program` without input.
///
/// # Errors
/// When it is not there, or did not end in time; in words.
pub(super) async fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let told = |error: std::io::Error| format!("{program} cannot be run: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "cat")
        .kill_on_drop(true)
        .spawn()
        .map_err(told)?;
    let stdout = child.stdout.take();
    let ended = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
        }
        Ok::<_, std::io::Error>((bytes, child.wait().await?))
    };
    match tokio::time::timeout(TIMEOUT, ended).await {
        Ok(Ok((bytes, status))) => {
            Ok(Output { success: status.success(), text: String::from_utf8_lossy(&bytes).into_owned() })
        }
        Ok(Err(error)) => Err(told(error)),
        Err(_) => Err(format!("{program} did not end within {TIMEOUT:?}")),
    }
}

/// Whether systemd is this machine's init (sd_booted(3)).
pub(super) fn systemd_runs() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}
