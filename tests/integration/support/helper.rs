//! Another program that a test needs beside the servers: a proxy, a gateway. Its configuration and its log are in a
//! directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running program.
pub struct Helper {
    child: Child,
    pub directory: TempDir,
}

impl Helper {
    /// Writes `configuration` to `config` in `directory`, and starts the program in it.
    pub fn start(
        directory: TempDir,
        program: &Path,
        configuration: &str,
        arguments: &[impl AsRef<OsStr>],
    ) -> Self {
        fs::write(directory.path().join("config"), configuration).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .current_dir(directory.path())
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    /// Waits until something listens on this port of loopback.
    pub async fn listens(self, port: u16) -> Self {
        eventually("a port that listens", async || {
            let connected = std::net::TcpStream::connect(("127.0.0.1", port));
            connected.map(drop).map_err(|error| format!("{error}\n{}", self.log()))
        })
        .await;
        self
    }

    /// Waits until something listens on this socket.
    pub async fn listens_on(self, socket: &Path) -> Self {
        eventually("a socket that listens", async || {
            let connected = std::os::unix::net::UnixStream::connect(socket);
            connected.map(drop).map_err(|error| format!("{error}\n{}", self.log()))
        })
        .await;
        self
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
