//! The real binary as a child process, with a configuration in a directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::kms::Kms;
use super::{PATIENCE, eventually, tools};

/// Turns local KEKs on.
pub const LOCAL_KEK: &str = "[local_kek]\nenabled = true\n";
/// Short intervals, for quick tests.
pub const QUICK: &str = "[health]\nkey_check_interval = \"200ms\"\nprobe_interval = \"300ms\"\n";
/// Intervals so long that the agent does nothing by itself.
pub const QUIET: &str = "[health]\nkey_check_interval = \"1h\"\nprobe_interval = \"1h\"\n";

/// A running agent.
pub struct Agent {
    child: Child,
    pub directory: TempDir,
}

impl Agent {
    /// Starts `serve` with this configuration; `[server]` is added.
    pub fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config, &[])
    }

    /// Starts with variables and in the directory of an earlier run.
    pub fn start_in(directory: TempDir, config: &str, variables: &[(&str, &str)]) -> Self {
        let child = spawn(directory.path(), config, variables);
        Self { child, directory }
    }

    /// Starts through another command, made from the usual one.
    pub fn start_with(directory: TempDir, config: &str, wrap: impl FnOnce(Command) -> Command) -> Self {
        let command = prepared(directory.path(), config, &[]);
        let log = log_file(directory.path());
        let child = wrap(command).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, directory }
    }

    /// Starts and waits until it is ready.
    pub async fn ready(config: &str) -> Self {
        let agent = Self::start(config);
        agent.wait_for_phase("ready").await;
        agent
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("kms.sock")
    }

    pub async fn kms(&self) -> Kms {
        let socket = self.socket();
        eventually("the socket", async || {
            UnixStream::connect(&socket).map(drop).map_err(|error| error.to_string())
        })
        .await;
        Kms::connect(&socket).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// One request to the admin socket: the status code and the body.
    pub fn admin(&self, method: &str, path: &str) -> Result<(u16, String), String> {
        let told = |error: std::io::Error| error.to_string();
        let mut stream = UnixStream::connect(self.directory.path().join("run/admin.sock")).map_err(told)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .map_err(told)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(told)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
        Ok((status, body.to_owned()))
    }

    /// `/status` as JSON.
    pub fn status(&self) -> Result<Value, String> {
        let (_, body) = self.admin("GET", "/status")?;
        serde_json::from_str(&body).map_err(|error| error.to_string())
    }

    pub async fn wait_for_phase(&self, phase: &str) -> Value {
        eventually(&format!("phase {phase} of {}", self.directory.path().display()), async || {
            let status = self.status().map_err(|error| format!("{error}\n{}", self.log()))?;
            if status["phase"] == phase { Ok(status) } else { Err(format!("{status}\n{}", self.log())) }
        })
        .await
    }

    /// Waits for a phase with this kind of reason.
    pub async fn wait_for_reason(&self, phase: &str, kind: &str) -> Value {
        eventually(&format!("phase {phase} because of {kind}"), async || {
            let status = self.status().map_err(|error| format!("{error}\n{}", self.log()))?;
            let right = status["phase"] == phase && status["reason"]["kind"] == kind;
            if right { Ok(status) } else { Err(format!("{status}\n{}", self.log())) }
        })
        .await
    }

    pub async fn wait_for_log(&self, words: &str) {
        eventually(&format!("{words:?} in the log"), async || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Waits until an Encrypt or Decrypt call is under way.
    pub async fn wait_for_call(&self) {
        eventually("a call under way", async || {
            let (_, metrics) = self.admin("GET", "/metrics")?;
            if metrics.contains("\nkms_plugin_in_flight 0\n") { Err(metrics) } else { Ok(()) }
        })
        .await;
    }

    /// Writes another configuration, which the agent reads at a reload.
    pub fn write_config(&self, config: &str) {
        write_config(self.directory.path(), config);
    }

    /// Runs an administrator's command beside the agent: its exit code, and all that it wrote.
    pub fn command(&self, name: &str) -> (i32, String) {
        self.command_with(&[name])
    }

    /// The same with arguments.
    pub fn command_with(&self, arguments: &[&str]) -> (i32, String) {
        let run = self.directory.path().join("run");
        let command = command().args(arguments).arg("--runtime-dir").arg(run).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (command.status.code().unwrap(), text(&command.stdout) + &text(&command.stderr))
    }

    /// Writes another configuration and sends SIGHUP.
    pub fn reload(&self, config: &str) {
        self.write_config(config);
        self.signal(Signal::SIGHUP);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let log = self.directory.path().join("log");
        eventually("the agent's end", async || {
            self.child.try_wait().unwrap().ok_or_else(|| fs::read_to_string(&log).unwrap())
        })
        .await
    }

    /// SIGTERM, and the exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// kill -9; returns the directory for a next run.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn spawn(directory: &Path, config: &str, variables: &[(&str, &str)]) -> Child {
    prepared(directory, config, variables).stderr(log_file(directory)).spawn().unwrap()
}

/// The configuration's file, with `[server]` of this directory.
pub fn write_config(directory: &Path, config: &str) -> PathBuf {
    let file = directory.join("config.toml");
    let server = format!(
        "[server]\nsocket = {:?}\nadmin = \"\"\nruntime_dir = {:?}\nstate_dir = {:?}\n",
        directory.join("kms.sock"),
        directory.join("run"),
        directory.join("state")
    );
    fs::write(&file, format!("{server}{config}")).unwrap();
    file
}

fn log_file(directory: &Path) -> fs::File {
    fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap()
}

fn prepared(directory: &Path, config: &str, variables: &[(&str, &str)]) -> Command {
    let file = write_config(directory, config);
    let mut command = command();
    command.arg("--config").arg(file).envs(variables.iter().copied());
    command
}

/// The binary, with none of our variables from outside.
pub fn command() -> Command {
    let mut command = Command::new(tools::plugin());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KMS_PLUGIN_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).env_remove("RUNTIME_DIRECTORY").env_remove("CREDENTIALS_DIRECTORY");
    command
}

/// What systemd does between fork and exec for a socket unit: see [`passing_all`].
pub fn passing(listener: &UnixListener, command: &Command) -> Command {
    passing_all(&[("kms", listener.as_fd())], command.get_program(), command)
}

/// What systemd does between fork and exec: the descriptors get the numbers from 3 on, and variables hold their names
/// and the process's own id. `program` is started with the arguments and variables of `command`.
pub fn passing_all(passed: &[(&str, BorrowedFd<'_>)], program: &OsStr, command: &Command) -> Command {
    for (_, fd) in passed {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let numbers: Vec<_> = passed.iter().map(|(_, fd)| fd.as_raw_fd().to_string()).collect();
    let names: Vec<_> = passed.iter().map(|(name, _)| *name).collect();
    // First to high numbers: a number from 3 on may be in use by one of those that are passed.
    let script = format!(
        "import fcntl, os, sys\n\
         given = [{}]\n\
         copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 512) for fd in given]\n\
         for fd in given: os.close(fd)\n\
         for number, fd in enumerate(copies): os.dup2(fd, 3 + number)\n\
         os.environ.update(LISTEN_FDS=str(len(given)), LISTEN_FDNAMES='{}', LISTEN_PID=str(os.getpid()))\n\
         os.execv(sys.argv[1], sys.argv[1:])",
        numbers.join(", "),
        names.join(":")
    );
    let mut shim = Command::new("python3");
    shim.arg("-c").arg(script).arg(program).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shim.env(name, value),
            None => shim.env_remove(name),
        };
    }
    shim
}
