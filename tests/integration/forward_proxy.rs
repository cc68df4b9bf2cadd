//! A real forward proxy, Tinyproxy, between the agent and the server: `vault.proxy`.

use crate::check::node;
use crate::support::agent::{Agent, QUICK, QUIET, command};
use crate::support::checked::check;
use crate::support::eventually;
use crate::support::helper::{Helper, free_port};
use crate::support::pki::Pki;
use crate::support::tools;
use crate::support::vault::{Vault, write_secret};

const PASSWORD: &str = "pr0xy-pass";

/// A proxy that accepts one user, and CONNECT to this port.
async fn tinyproxy(connects_to: u16) -> (Helper, String) {
    let port = free_port();
    let configuration = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nLogLevel Info\n\
         BasicAuth node {PASSWORD}\nConnectPort {connects_to}\n"
    );
    let program = tools::find("tinyproxy").expect("tinyproxy is missing: `tests/run` gets it");
    let directory = tempfile::tempdir().unwrap();
    let helper = Helper::start(directory, &program, &configuration, &["-d", "-c", "config"]);
    (helper.listens(port).await, format!("127.0.0.1:{port}"))
}

/// `[vault]` for a server with TLS, as if it were on another machine: what is on loopback is never reached through
/// the proxy. The kernel connects 0.0.0.0 to loopback.
fn config(vault: &Vault, pki: &Pki, proxy: &str) -> String {
    let elsewhere = vault.address.replace("127.0.0.1", "0.0.0.0");
    let text = vault.vault_config().replace(&vault.address, &elsewhere);
    text.replace("[vault]\n", &format!("[vault]\nca_file = {:?}\n{proxy}", pki.ca))
}

fn port(vault: &Vault) -> u16 {
    vault.address.rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_through_the_proxy_that_the_configuration_names() {
    let pki = Pki::new(&["127.0.0.1", "0.0.0.0"]);
    let vault = Vault::with_tls(&pki).await;
    let (proxy, host) = tinyproxy(port(&vault)).await;
    let password = vault.file("proxy-password");
    write_secret(&password, &format!("{PASSWORD}\n"));
    let settings = format!("proxy = \"http://node@{host}\"\nproxy_password_file = {password:?}\n");
    let config_text = config(&vault, &pki, &settings);
    let agent = Agent::ready(&(config_text.clone() + QUICK)).await;
    agent.kms().await.round_trip().await;
    let connects = || proxy.log().matches("CONNECT 0.0.0.0:").count();
    assert!(connects() > 0, "{}", proxy.log());
    let found = check(node(&config_text).path(), &[]);
    found.is_green();
    found.says("tcp", "ok", &["vault.proxy"]);
    // The password is in no output.
    let shown = |arguments: &[&str]| {
        let output = command().args(arguments).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let file = agent.directory.path().join("config.toml").display().to_string();
    let run = agent.directory.path().join("run").display().to_string();
    let outputs = [
        shown(&["config", "--config", &file]),
        shown(&["status", "--runtime-dir", &run, "--output", "json"]),
        agent.admin("GET", "/metrics").unwrap().1,
        agent.log(),
    ];
    assert!(outputs.iter().all(|output| !output.contains(PASSWORD)), "{outputs:?}");
    assert!(outputs[0].contains(&host), "{}", outputs[0]);
    // A wrong password: an outage that names the proxy. A corrected file is used without a restart.
    write_secret(&password, "wrong");
    let status = agent.wait_for_reason("degraded", "unreachable").await;
    let reason = status["reason"].to_string();
    assert!(reason.contains(&host) && reason.contains("proxy_password_file"), "{reason}");
    check(node(&config_text).path(), &[]).fails(&["server"], &["makes no connection", "proxy_password_file"]);
    let nobody = config(&vault, &pki, &format!("proxy = \"http://{host}\"\n"));
    check(node(&nobody).path(), &[]).fails(&["server"], &["wants a user", "407", "vault.proxy"]);
    write_secret(&password, PASSWORD);
    agent.wait_for_phase("ready").await;
    // An exception, and the environment, which is not asked.
    let before = connects();
    let direct = config(&vault, &pki, &format!("{settings}proxy_except = [\"0.0.0.0\"]\n"));
    let closed = [("HTTPS_PROXY", "http://127.0.0.1:9"), ("ALL_PROXY", "http://127.0.0.1:9")];
    let direct = Agent::start_in(tempfile::tempdir().unwrap(), &(direct + QUIET), &closed);
    direct.wait_for_phase("ready").await;
    drop(agent);
    let after = connects();
    direct.kms().await.round_trip().await;
    assert!(connects() == after && after <= before + 4, "{before} {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_or_is_away_is_an_outage() {
    let pki = Pki::new(&["127.0.0.1", "0.0.0.0"]);
    let vault = Vault::with_tls(&pki).await;
    // It allows another port only: 403.
    let (proxy, host) = tinyproxy(1).await;
    let password = vault.file("proxy-password");
    write_secret(&password, PASSWORD);
    let settings = format!("proxy = \"http://node@{host}\"\nproxy_password_file = {password:?}\n");
    let config_text = config(&vault, &pki, &settings);
    let agent = Agent::start(&(config_text.clone() + QUICK));
    let status = agent.wait_for_reason("starting", "unreachable").await;
    let reason = status["reason"].to_string();
    assert!(reason.contains(&format!("the proxy http://{host} makes no connection")), "{reason}");
    assert!(reason.contains("CONNECT"), "{reason}");
    check(node(&config_text).path(), &[]).fails(&["server"], &["makes no connection", "proxy_except"]);
    drop(proxy);
    let away = format!("the proxy http://{host}, on the way to");
    eventually("the proxy is away", async || {
        let reason = agent.status()?["reason"].to_string();
        if reason.contains(&away) { Ok(()) } else { Err(reason) }
    })
    .await;
    check(node(&config_text).path(), &[]).fails(&["tcp"], &["refused", "vault.proxy"]);
}
