//! Programs of the system that are asked for what only they know: systemctl, journalctl, stat.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Largest part of an output that is kept for sure, in bytes.
const MAX_OUTPUT: usize = 4 * 1024 * 1024;
/// Longest time for one of them.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a program wrote to stdout, at its end if it was too much, and whether it succeeded.
pub(crate) struct Output {
    pub(crate) success: bool,
    pub(crate) text: String,
    /// What it wrote to stderr when it failed.
    pub(crate) complaint: String,
}

/// Runs `program` without input.
///
/// # Errors
/// When it is not there, or did not end in time; in words.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let told = |error: std::io::Error| format!("{program} cannot be run: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "cat")
        .kill_on_drop(true)
        .spawn()
        .map_err(told)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (text, complaint, status) = tokio::try_join!(tail(stdout), tail(stderr), child.wait())?;
        Ok::<_, std::io::Error>((text, complaint, status))
    };
    match tokio::time::timeout(TIMEOUT, ended).await {
        Ok(Ok((text, complaint, status))) => {
            let complaint =
                if status.success() { String::new() } else { format!("{program}: {status}: {complaint}") };
            Ok(Output { success: status.success(), text, complaint })
        }
        Ok(Err(error)) => Err(told(error)),
        Err(_) => Err(format!("{program} did not end within {TIMEOUT:?}")),
    }
}

/// The last part of what comes: what matters in a log is at its end.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let Some(mut stream) = stream else { return Ok(String::new()) };
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut chunk).await?;
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else { break };
        kept.extend_from_slice(read);
        if kept.len() > 2 * MAX_OUTPUT {
            kept.drain(..kept.len() - MAX_OUTPUT);
            cut = true;
        }
    }
    let text = String::from_utf8_lossy(&kept).into_owned();
    Ok(if cut { format!("(the beginning was cut)\n{text}") } else { text })
}

/// Whether systemd is this machine's init (sd_booted(3)).
pub(crate) fn systemd_runs() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}
