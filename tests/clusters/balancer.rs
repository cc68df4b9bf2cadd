//! HAProxy before a cluster: one address for all members, and one that leads to the leader alone.
//!
//! It tries no request a second time, so that each fault of a member is seen: where a member is dead, HAProxy itself
//! answers 502, 503 or 504, with a page of HTML.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cluster::{Cluster, PORT};
use crate::network::MEMBERS;
use crate::support::{eventually, tools};

/// How often all members are checked: that long a dead one is kept.
pub const CHECKED_EVERY: Duration = Duration::from_secs(10);
/// The port that leads to the leader.
const LEADER_PORT: u16 = 8300;

/// A running HAProxy.
pub struct Balancer {
    child: Child,
    directory: TempDir,
    /// Spreads over all members, one request after the other. A dead member is noticed after 10 s.
    pub spread: String,
    /// Leads to the leader. Another one is noticed after a second.
    pub leader: String,
}

impl Balancer {
    /// Drops a client's connection after 30 s without a request.
    pub async fn start(cluster: &Cluster) -> Self {
        Self::start_dropping(cluster, "30s").await
    }

    /// Drops a client's connection after this time without a request.
    pub async fn start_dropping(cluster: &Cluster, idle: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let pki = &cluster.pki;
        let chain = [&pki.server_cert, &pki.server_key].map(|path| fs::read_to_string(path).unwrap());
        fs::write(file("bind.pem"), chain.concat()).unwrap();
        let mut config = format!(
            "global\n stats socket {:?} mode 600 level admin\n log stdout format raw local0 info\n maxconn 500\n\
             defaults\n mode http\n log global\n log-format \"%s %ST %tsc %HM %HP\"\n balance roundrobin\n retries 0\n\
             timeout connect 1s\n timeout client 30s\n timeout server 2s\n timeout check 1s\n\
             timeout http-keep-alive {idle}\n",
            file("stats.sock")
        );
        let host = cluster.network.outside();
        let spread =
            ("spread", PORT, "/v1/sys/health?standbyok=true&perfstandbyok=true", "inter 10s fall 1 rise 1");
        let leader = ("leader", LEADER_PORT, "/v1/sys/health", "inter 1s fall 1 rise 1");
        for (name, port, check, interval) in [spread, leader] {
            write!(
                config,
                "frontend {name}\n bind {host}:{port} ssl crt {:?}\n default_backend {name}\n\
                 http-request deny deny_status 502 if {{ var(proc.answer) -m int 502 }}\n\
                 http-request deny deny_status 503 if {{ var(proc.answer) -m int 503 }}\n\
                 http-request deny deny_status 504 if {{ var(proc.answer) -m int 504 }}\n\
                 backend {name}\n option httpchk GET {check}\n http-check expect status 200\n\
                 default-server check {interval} ssl verify required ca-file {:?}\n",
                file("bind.pem"),
                pki.ca
            )
            .unwrap();
            for member in 0..MEMBERS {
                let address = cluster.network.address(member);
                writeln!(config, " server {} {address}:{PORT}", server(member)).unwrap();
            }
        }
        fs::write(file("haproxy.cfg"), config).unwrap();
        let log = fs::File::create(file("log")).unwrap();
        let program = tools::find("haproxy").expect("haproxy is missing: tests/clusters/run gets it");
        let child = Command::new(program)
            .arg("-db")
            .arg("-f")
            .arg(file("haproxy.cfg"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let address = |port: u16| format!("https://{host}:{port}");
        let balancer = Self { child, directory, spread: address(PORT), leader: address(LEADER_PORT) };
        eventually("HAProxy and its leader", async || {
            let asked = balancer.try_command("show stat");
            let state = asked.map_err(|error| format!("{error}: {}", balancer.log()))?;
            // The other members are up until the first check.
            let found = (0..MEMBERS).filter(|member| is_up(&state, "leader", *member)).count();
            if found == 1 { Ok(()) } else { Err(state) }
        })
        .await;
        balancer
    }

    /// Sends a member no more new requests (`drain`, `maint`), or again (`ready`).
    pub fn set_state(&self, member: usize, state: &str) {
        let answer =
            self.try_command(&format!("set server spread/{} state {state}", server(member))).unwrap();
        assert_eq!(answer.trim(), "", "HAProxy's answer");
    }

    /// What HAProxy shows of a member: `UP`, `DRAIN`, `MAINT`.
    pub fn status(&self, member: usize) -> String {
        self.shown(&server(member), "status")
    }

    /// How many requests it has led to a member, its own checks left out.
    pub fn led_to(&self, member: usize) -> usize {
        self.shown(&server(member), "stot").parse().unwrap()
    }

    /// How many connections clients have made.
    pub fn connections(&self) -> usize {
        self.shown("FRONTEND", "stot").parse().unwrap()
    }

    fn shown(&self, row: &str, name: &str) -> String {
        let stat = self.try_command("show stat").unwrap();
        field(&stat, "spread", row, name).unwrap_or_else(|| panic!("no {name} of {row}: {stat}")).to_owned()
    }

    /// Answers each request with a page of HTML of this status, which is 502, 503 or 504; not any more with 0.
    pub fn answer(&self, status: u16) {
        self.try_command(&format!("experimental-mode on; set var proc.answer int({status})")).unwrap();
    }

    /// Waits until HAProxy, just started, has checked this member for the first time; the next check is
    /// [`CHECKED_EVERY`] later.
    pub async fn checked(&self, member: usize) -> Instant {
        eventually("HAProxy's first check", async || {
            let state = self.try_command("show stat").map_err(|error| error.to_string())?;
            if field(&state, "spread", &server(member), "check_status") == Some("L7OK") {
                Ok(())
            } else {
                Err(state)
            }
        })
        .await;
        Instant::now()
    }

    /// Waits until HAProxy finds this member dead or well.
    pub async fn noticed(&self, member: usize, up: bool) {
        eventually("HAProxy's check", async || {
            let state = self.try_command("show stat").map_err(|error| error.to_string())?;
            if is_up(&state, "spread", member) == up { Ok(()) } else { Err(state) }
        })
        .await;
    }

    /// How many requests HAProxy has answered by itself with this status.
    pub fn own_answers(&self, status: u16) -> usize {
        // A termination state of two hyphens is a member's answer, and `C` is a client that went away.
        let own = |line: &&str| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(&status.to_string())
                && words.next().is_some_and(|state| !state.starts_with(['-', 'C']))
        };
        self.log().lines().filter(own).count()
    }

    fn try_command(&self, command: &str) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.directory.path().join("stats.sock"))?;
        writeln!(socket, "{command}")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A member's name in HAProxy's configuration.
fn server(member: usize) -> String {
    format!("member{}", member + 1)
}

/// Whether a member is up by the answer to `show stat`.
fn is_up(stat: &str, backend: &str, member: usize) -> bool {
    field(stat, backend, &server(member), "status").is_some_and(|status| status.starts_with("UP"))
}

/// A field of a member, or of `FRONTEND`, in the answer to `show stat`, whose first line names the fields.
fn field<'a>(stat: &'a str, backend: &str, row: &str, name: &str) -> Option<&'a str> {
    let index = stat.lines().next()?.split(',').position(|field| field == name)?;
    let line = format!("{backend},{row},");
    stat.lines().find(|all| all.starts_with(&line))?.split(',').nth(index)
}
