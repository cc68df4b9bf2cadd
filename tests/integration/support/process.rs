//! A server's process: its program, its directory, its start and its end. It knows nothing of what the server does.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::freeze;

/// A running process.
pub struct Process {
    pub program: PathBuf,
    /// The network namespace that it runs in, where it is not the test's own.
    network: Option<PathBuf>,
    child: Child,
    /// With the configuration (`config.hcl`), the log, and what the server keeps.
    pub directory: TempDir,
}

impl Process {
    pub fn start(program: PathBuf, network: Option<PathBuf>, directory: TempDir) -> Self {
        let child = spawn(&program, network.as_ref(), &directory);
        Self { program, network, child, directory }
    }

    /// Starts it again after its end.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.program, self.network.as_ref(), &self.directory);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGSTOP: seen from outside, it hangs.
    pub fn freeze(&self) {
        freeze(self.child.id());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn spawn(program: &PathBuf, network: Option<&PathBuf>, directory: &TempDir) -> Child {
    let log = directory.path().join("log");
    let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = match network {
        // It enters the namespace and becomes the program: the process keeps its id.
        Some(network) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", network.display())).arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .arg("server")
        .arg("-config")
        .arg(directory.path().join("config.hcl"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
