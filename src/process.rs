//! Processes: the limits of this one, and programs of the system that are run for their output.
//!
//! Must not know what an output means.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// An output larger than this loses its beginning, in bytes.
const MAX_OUTPUT: usize = 4 * 1024 * 1024;
/// Longest time for one program.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps memory out of core dumps and away from other processes of the user (prctl(2), PR_SET_DUMPABLE). Every command
/// begins with it, because most of them read secrets. If the system refuses, this is logged, and the process continues.
pub(crate) fn harden() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!("core dumps cannot be switched off: {error}; set LimitCORE=0 in the unit");
    }
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(
            "core dumps and access by other processes cannot be switched off (PR_SET_DUMPABLE): {error}"
        );
    }
}

/// Raises the limit of open files: the daemon may have thousands of connections.
pub(crate) fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!("the limit of open files cannot be raised: {error}");
    }
}

/// Gives memory that is free inside the process back to the system (malloc_trim(3)). glibc keeps what a burst of
/// connections or a long answer has used, for as long as something above it is in use. musl gives it back by itself.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)] // there is no safe interface to it
    // SAFETY: malloc_trim takes a number, touches only free memory, and may be called in any thread (MT-Safe).
    let _given = unsafe { libc::malloc_trim(0) };
}

/// A program gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It is not installed, or the system cannot start it.
    #[error("{program} cannot be run: {cause}")]
    NotRun { program: String, cause: io::Error },
    /// It was stopped after this time.
    #[error("{program} did not end within {timeout:?}")]
    TimedOut { program: String, timeout: Duration },
}

/// The result of a program that ended.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    /// The last part, where it is too long.
    pub(crate) stdout: String,
    /// The last part, where it is too long.
    pub(crate) stderr: String,
}

/// Runs `program` without input, for at most 10 s. The output is in English and has no colours.
///
/// # Errors
/// When it cannot be started, or does not end in time.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<Output, ProcessError> {
    let not_run = |cause| ProcessError::NotRun { program: program.to_owned(), cause };
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
        .map_err(not_run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async { tokio::try_join!(tail(stdout), tail(stderr), child.wait()) };
    match tokio::time::timeout(TIMEOUT, ended).await {
        Ok(Ok((stdout, stderr, status))) => Ok(Output { status, stdout, stderr }),
        Ok(Err(error)) => Err(not_run(error)),
        Err(_) => Err(ProcessError::TimedOut { program: program.to_owned(), timeout: TIMEOUT }),
    }
}

/// Reads to the end, and keeps the last part: in a log, it is the important one.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_fails_has_an_output_and_one_that_is_missing_has_none() {
        let failed = run("sh", &["-c", "echo out; echo err >&2; exit 3"]).await.unwrap();
        assert_eq!((failed.stdout.as_str(), failed.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(failed.status.code(), Some(3));
        let missing = run("kms-plugin-no-such-program", &[]).await;
        assert!(matches!(missing, Err(ProcessError::NotRun { .. })));
    }

    #[tokio::test]
    async fn the_end_of_a_long_output_is_kept() {
        let long = run("sh", &["-c", "head -c 20000000 /dev/zero | tr '\\0' x; echo end"]).await.unwrap();
        assert!(long.stdout.len() <= 2 * MAX_OUTPUT + 100 && long.stdout.ends_with("xend\n"));
        assert!(long.stdout.starts_with("(the beginning was cut)"));
    }
}
