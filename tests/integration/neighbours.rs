//! What other users of the node, web pages, hung file systems and careless files can do to an agent: nothing.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::agent::{Agent, QUICK, command, write_config};
use crate::support::eventually;
use crate::support::hung;
use crate::support::pki::Pki;
use crate::support::vault::Vault;

/// How long the kubelet waits for a probe of the static pod (`timeoutSeconds`).
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// `server.drain_timeout`, and what a stop may take in addition (`STOP_MARGIN`, and a second for the machine).
const STOP: Duration = Duration::from_secs(2 + 3 + 2);

/// An agent whose server does not exist: everything here is about its neighbours.
fn config(token_file: &Path, more: &str) -> String {
    format!(
        "drain_timeout = \"2s\"\n[vault]\naddresses = [\"https://127.0.0.1:1\"]\n{more}[vault.transit]\nkey = \"kms-key\"\n\
         [vault.auth]\nmethod = \"token\"\ntoken_file = {token_file:?}\n"
    )
}

fn secret(directory: &Path) -> std::path::PathBuf {
    let file = directory.join("token");
    fs::write(&file, "hvs.CAESIJtheTokenOfThisTest0123456789").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    file
}

/// An agent with an admin address, and that address.
async fn with_admin_address(more: &[(&str, &str)]) -> (Agent, SocketAddr) {
    let directory = tempfile::tempdir().unwrap();
    let token = secret(directory.path());
    let variables = [&[("KMS_PLUGIN_SERVER_ADMIN", "127.0.0.1:0")], more].concat();
    let agent = Agent::start_in(directory, &config(&token, ""), &variables);
    let address = eventually("the admin address", async || {
        let log = agent.log();
        let address = log.split_once("health on http://").and_then(|(_, rest)| rest.lines().next());
        address.and_then(|address| address.trim().parse().ok()).ok_or(log)
    })
    .await;
    (agent, address)
}

fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(format!("{request}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Ends with the process, within `limit`.
async fn ends(agent: &mut Agent, limit: Duration) -> std::process::ExitStatus {
    let started = Instant::now();
    agent.signal(Signal::SIGTERM);
    let status = agent.ended().await;
    assert!(started.elapsed() < limit, "{:?}: {}", started.elapsed(), agent.log());
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_user_cannot_keep_the_probes_away() {
    let (agent, address) = with_admin_address(&[]).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut attackers = Vec::new();
    for half in ["", "GET /livez HTTP/1.1\r\nHost: "] {
        let stop = stop.clone();
        // 150 connections each, and a new one for each that the agent closes.
        attackers.push(std::thread::spawn(move || {
            let mut held = std::collections::VecDeque::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(address) {
                    let _sent = stream.write_all(half.as_bytes());
                    held.push_back(stream);
                }
                if held.len() > 150 {
                    held.pop_front();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }));
    }
    std::thread::sleep(Duration::from_millis(500));
    let mut slowest = Duration::ZERO;
    for number in 0..50 {
        let started = Instant::now();
        let answer = ask(address, "GET /livez HTTP/1.1\r\nHost: node")
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
        slowest = slowest.max(started.elapsed());
        let (code, said) = agent.command_with(&["probe", "--live", "--timeout", "30s"]);
        assert_eq!((code, said.as_str()), (0, "ok\n"), "{number}");
        if number == 4 {
            // The rest on the private socket says less: it is out of reach of other users.
            break;
        }
    }
    for number in 0..200 {
        let started = Instant::now();
        ask(address, "GET /livez HTTP/1.1\r\nHost: node").unwrap_or_else(|error| panic!("{number}: {error}"));
        slowest = slowest.max(started.elapsed());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    eprintln!("the slowest of 205 probes during the attack took {slowest:?}");
    // It is not ready, because its server does not exist; the probe says why.
    let (code, said) = agent.command_with(&["probe", "--ready"]);
    assert!(code == 69 && said.starts_with("error: ") && !said.contains("no agent"), "{code} {said}");
}

#[tokio::test]
async fn a_web_page_under_its_own_name_reads_no_state() {
    let (agent, address) = with_admin_address(&[("KMS_PLUGIN_SERVER_ADMIN_HOSTS", "node-1.example")]).await;
    let answer =
        |path: &str, host: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}")).unwrap();
    for host in
        ["rebound.example", "rebound.example:8690", "127.0.0.1.rebound.example", "localhost.rebound.example"]
    {
        let refused = answer("/status", host);
        assert!(refused.starts_with("HTTP/1.1 421") && !refused.contains("127.0.0.1:1"), "{host}: {refused}");
        let json =
            ask(address, &format!("GET /healthz HTTP/1.1\r\nAccept: application/json\r\nHost: {host}"))
                .unwrap();
        assert!(!json.contains("\"phase\""), "{host}: {json}");
        assert!(
            answer("/livez", host).starts_with("HTTP/1.1 200")
                && answer("/metrics", host).ends_with("# EOF\n")
        );
    }
    for host in ["127.0.0.1", "localhost:8690", "[::1]:8690", "node-1.example", &address.to_string()] {
        assert!(answer("/status", host).starts_with("HTTP/1.1 200"), "{host}");
    }
    drop(agent);
}

#[tokio::test]
async fn an_agent_ends_at_once_although_a_file_system_hangs() {
    if !hung::is_possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("mount");
    fs::create_dir(&mount).unwrap();
    // A credential that hangs: the agent serves, and says so.
    let vault = Vault::start().await;
    let secret_id = mount.join("secret-id");
    let good = format!("drain_timeout = \"2s\"\n{}{QUICK}", vault.vault_config());
    let text = good.replace(&format!("{:?}", vault.file("secret-id")), &format!("{secret_id:?}"));
    let mut agent = Agent::start_with(directory, &text, |command| hung::below(&mount, &command));
    eventually("the hung credential in the state", async || {
        let status = agent.status().map_err(|error| format!("{error}\n{}", agent.log()))?.to_string();
        if status.contains("cannot be read: the file system") { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(agent.command_with(&["probe", "--live"]).0, 0);
    // A reload reads a file of TLS there: it fails, and the old configuration stays in use.
    let ca_file = format!("[vault]\nca_file = {:?}\n", mount.join("ca.pem"));
    agent.write_config(&good.replace("[vault]\n", &ca_file));
    let (code, said) = agent.command("reload");
    assert!(code == 78 && said.contains("file system did not answer"), "{code} {said}");
    let status = ends(&mut agent, STOP).await;
    assert_eq!(status.code(), Some(0), "{}", agent.log());
}

#[tokio::test]
async fn an_agent_ends_when_it_cannot_even_start() {
    if !hung::is_possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let text = config(&secret(directory.path()), &format!("ca_file = {:?}\n", mount.join("ca.pem")));
    let mut agent = Agent::start_with(directory, &text, |command| hung::below(&mount, &command));
    std::thread::sleep(Duration::from_secs(1));
    let started = Instant::now();
    let status = agent.ended().await;
    assert_eq!(status.code(), Some(78), "{}", agent.log());
    assert!(
        agent.log().contains("the file system did not answer") && started.elapsed() < Duration::from_secs(20)
    );
}

#[tokio::test]
async fn a_check_ends_and_names_the_file_that_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let run = |wrap: &dyn Fn(Command) -> Command, token: &Path, name: &str| {
        let file = write_config(directory.path(), &config(token, ""));
        let mut check = command();
        check.args([name, "--config"]).arg(file);
        match name {
            "check" => check.args(["--timeout", "1s"]),
            _ => check.arg("--no-login").arg("--file").arg(directory.path().join("bundle.tar.gz")),
        };
        let started = Instant::now();
        let output = wrap(check).stdin(Stdio::null()).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}: {said}", started.elapsed());
        (output.status.code(), said.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (code, said) = run(&|command| command, &fifo, "check");
    assert!(code == Some(2) && said.contains("it is not a regular file"), "{code:?} {said}");
    if !hung::is_possible() {
        return;
    }
    let below = |command: Command| hung::below(&mount, &command);
    let (code, said) = run(&below, &mount.join("token"), "check");
    assert!(code == Some(2) && said.contains("its file system did not answer within 1s"), "{code:?} {said}");
    assert!(said.contains("mount/token") && said.contains("findmnt"), "{said}");
    let (code, said) = run(&below, &mount.join("token"), "support-bundle");
    assert!(code == Some(0) && directory.path().join("bundle.tar.gz").exists(), "{code:?} {said}");
}

#[tokio::test]
async fn a_key_that_others_can_read_and_a_directory_of_others_are_refused() {
    let pki = Pki::new(&["127.0.0.1"]);
    let directory = tempfile::tempdir().unwrap();
    let token = secret(directory.path());
    fs::set_permissions(&pki.client_key, Permissions::from_mode(0o644)).unwrap();
    let tls = format!("client_cert_file = {:?}\nclient_key_file = {:?}\n", pki.client_cert, pki.client_key);
    let mut agent = Agent::start_in(directory, &config(&token, &tls), &[]);
    assert_eq!(agent.ended().await.code(), Some(78));
    assert!(
        agent.log().contains("every user of this machine can read or change the private key"),
        "{}",
        agent.log()
    );
    assert!(agent.log().contains("chmod 0640"), "{}", agent.log());

    // The runtime directory and the state directory of another user, in which he may put links.
    let directory = tempfile::tempdir().unwrap();
    let token = secret(directory.path());
    let (run, precious) = (directory.path().join("run"), directory.path().join("precious"));
    fs::write(&precious, "precious").unwrap();
    fs::create_dir(&run).unwrap();
    for name in ["identity.tmp", "identity.json.tmp", "wrapped-keys.tmp"] {
        std::os::unix::fs::symlink(&precious, run.join(name)).unwrap();
    }
    fs::set_permissions(&run, Permissions::from_mode(0o777)).unwrap();
    let mut agent = Agent::start_in(directory, &config(&token, ""), &[]);
    assert_eq!(agent.ended().await.code(), Some(78));
    assert!(agent.log().contains("every user can replace files in"), "{}", agent.log());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn no_command_leaves_a_core_dump() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
    // `verify-etcd` stands for the tools: it waits for its input.
    let dev: &[&str] = &["dev", "--admin", "127.0.0.1:0", "--directory"];
    let tool: &[&str] = &["status", "--watch=1h", "--runtime-dir"];
    for arguments in [dev, tool] {
        let mut shell = Command::new("sh");
        let mut inner = command();
        inner.args(arguments).arg(directory.path());
        shell.args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$@\"", "sh"]).arg(inner.get_program());
        shell.args(inner.get_args()).current_dir(directory.path());
        let mut child = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let limits = format!("/proc/{}/limits", child.id());
        let started = Instant::now();
        loop {
            let limits = fs::read_to_string(&limits).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            if core.split_whitespace().rev().take(3).collect::<Vec<_>>() == ["bytes", "0", "0"] {
                break;
            }
            assert!(started.elapsed() < crate::support::PATIENCE, "{arguments:?}: {core}");
            std::thread::sleep(Duration::from_millis(20));
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGABRT)
            .unwrap();
        let status = child.wait().unwrap();
        assert!(!status.core_dumped() && status.signal() == Some(6), "{arguments:?}: {status}");
    }
}

#[test]
fn names_of_key_services_are_checked_and_their_number_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let token = secret(directory.path());
    let said = |more: &str| {
        let file = write_config(directory.path(), &(config(&token, "") + more));
        let started = Instant::now();
        let output = command().args(["config", "--config"]).arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said, started.elapsed())
    };
    let entry = |name: &str| {
        format!("[[decrypt_only]]\nname = {name}\n[decrypt_only.vault.transit]\nkey = \"old\"\n")
    };
    for (names, words) in [
        (&["\"primary\""][..], "\"primary\" is the name of [vault]"),
        (&["\"old\"", "\"old\""], "\"old\" is the name of an earlier entry"),
        (&["\"\\u001b[2J\""], "a name has letters, digits"),
        (&["\"a\\nSTOPPING=1\""], "a name has letters, digits"),
        (&["\"\""], "it needs a name"),
    ] {
        let (code, said, _) = said(&names.iter().map(|name| entry(name)).collect::<String>());
        assert!(code == Some(78) && said.contains(words), "{words}: {said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    assert_eq!(said(&(entry("\"old\"") + &entry("\"older.2\""))).0, Some(0));
    let many: String = (0..5000).map(|number| entry(&format!("\"old-{number}\""))).collect();
    let (code, text, took) = said(&many);
    assert!(code == Some(78) && text.contains("decrypt_only has 5000 entries; the limit is 32"), "{text}");
    // Unknown keys, each with a search for a similar one.
    let (_, text, long) =
        said(&(0..20_000).map(|number| format!("unknown_{number} = 1\n")).collect::<String>());
    assert!(text.contains("has more problems, which are not shown") && text.lines().count() < 60, "{text}");
    eprintln!("5,000 entries were refused in {took:?}, 20,000 unknown keys in {long:?}");
    assert!(took < Duration::from_secs(10) && long < Duration::from_secs(10), "{took:?} {long:?}");
}

#[test]
fn a_password_in_an_address_is_refused_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let token = secret(directory.path());
    for address in [
        "user:hunter2@vault.example:8200",
        "https://user:hunter2@vault.example:8200",
        "user:hun/ter2@v.example",
    ] {
        let text = config(&token, "").replace("https://127.0.0.1:1", address);
        for text in [text, config(&token, &format!("proxy = {address:?}\n"))] {
            let file = write_config(directory.path(), &text);
            for arguments in
                [&["config"][..], &["config", "--output", "json"], &["serve"], &["check", "--timeout", "1s"]]
            {
                let output = command().args(arguments).arg("--config").arg(&file).output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success(), "{arguments:?}: {said}");
                assert!(!said.contains("hunter2") && !said.contains("ter2"), "{arguments:?}: {said}");
                let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(
                    ["a user", "a password", "is not an address"].iter().any(|part| words.contains(part)),
                    "{said}"
                );
            }
        }
    }
}
