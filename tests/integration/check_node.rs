//! `check` on the node itself: configuration, files, the socket, the admin address, peers, the API server's file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use crate::check::node;
use crate::support::agent::{Agent, QUICK, QUIET, command, write_config};
use crate::support::checked::{SILENT, check, green_soon};
use crate::support::fake::{Flaw, Plugin};
use crate::support::freeze;
use crate::support::jwt::Signer;
use crate::support::vault::{KEY, Vault, write_secret};

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_incomplete_or_missing_configuration_is_found() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    let good = fs::read_to_string(node.path().join("config.toml")).unwrap();
    let without_key = good.replace(&format!("key = {KEY:?}\n"), "");
    for (text, words) in [
        (without_key.as_str(), ["vault.transit.key", "is missing"]),
        (&good.replace("addresses", "adresses"), ["did you mean", "vault.addresses"]),
        ("= nonsense", ["config.toml:1", "not valid TOML"]),
    ] {
        fs::write(node.path().join("config.toml"), text).unwrap();
        let found = check(node.path(), &[]);
        found.fails(&["configuration"], &words);
        found.fails(&["configuration"], &["kms-plugin config"]);
    }
    fs::remove_file(node.path().join("config.toml")).unwrap();
    check(node.path(), &[]).fails(&["configuration"], &["cannot be read", "No such file"]);
    fs::write(node.path().join("config.toml"), &good).unwrap();
    check(node.path(), &[]).is_green();
    // Valid, but a setting has no effect.
    fs::write(node.path().join("config.toml"), good + "password_file = \"/etc/kms-plugin/password\"\n")
        .unwrap();
    check(node.path(), &[])
        .warns(&["configuration", "socket"], &["password_file", "no effect with method approle"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_secret_files_are_found() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    let secret = vault.file("secret-id");
    let good = fs::read_to_string(&secret).unwrap();
    let mode = |mode| fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    check(node.path(), &[]).fails(&["credentials"], &["0644", "chmod 0640"]);
    mode(0o600);
    for (text, words) in [("", "is empty"), ("one\ntwo\n", "more than one line")] {
        write_secret(&secret, text);
        let found = check(node.path(), &[]);
        found.fails(&["credentials"], &[words]);
        assert_eq!(found.outcomes("login"), ["skipped"]);
    }
    fs::remove_file(&secret).unwrap();
    check(node.path(), &[]).fails(&["credentials"], &["No such file", "secret-id"]);
    fs::create_dir(&secret).unwrap();
    check(node.path(), &[]).fails(&["credentials"], &["is a directory"]);
    fs::remove_dir(&secret).unwrap();
    write_secret(&secret, &good);
    check(node.path(), &[]).is_green();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(400 * 86_400);
    fs::File::options().write(true).open(&secret).unwrap().set_modified(old).unwrap();
    check(node.path(), &[]).warns(&["credentials", "socket"], &["400d", "make a new one"]);
    let signer = Signer::new();
    write_secret(&vault.file("jwt"), &signer.sign_for("node", "vault", -7200));
    let auth = format!("method = \"jwt\"\njwt_file = {:?}\n", vault.file("jwt"));
    let (head, _) =
        vault.vault_config().split_once("method").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    check(self::node(&(head + &auth)).path(), &[]).fails(&["credentials"], &["the JWT expired", "kubelet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_deleted_replaced_or_open_socket_is_found() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let socket = agent.socket();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    check(agent.directory.path(), &[]).fails(&["socket"], &["0666", "chmod 0600"]);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    check(agent.directory.path(), &[]).is_green();
    // Deleted while the agent is frozen and does not notice.
    freeze(agent.pid());
    fs::remove_file(&socket).unwrap();
    check(agent.directory.path(), &SILENT)
        .fails(&["socket", "agent"], &["still listens", "systemctl restart kms-plugin.socket"]);
    agent.signal(nix::sys::signal::Signal::SIGCONT);
    crate::support::eventually("the socket is back", async || {
        if socket.exists() { Ok(()) } else { Err("no socket".to_owned()) }
    })
    .await;
    green_soon(agent.directory.path()).await;
    // The agent hangs.
    freeze(agent.pid());
    check(agent.directory.path(), &SILENT)
        .fails(&["socket", "agent"], &["no answer to Status", "restart kms-plugin"]);
    agent.signal(nix::sys::signal::Signal::SIGCONT);
    // Killed: the file stays, and no process listens.
    let directory = agent.kill();
    check(directory.path(), &[]).fails(&["socket"], &["Connection refused", "no process listens"]);
    let agent = Agent::start_in(directory, &(vault.vault_config() + QUICK), &[]);
    agent.wait_for_phase("ready").await;
    check(agent.directory.path(), &[]).is_green();
    // A directory in its place.
    fs::remove_file(&socket).unwrap();
    freeze(agent.pid());
    let _gone = fs::remove_file(&socket);
    fs::create_dir(&socket).unwrap();
    check(agent.directory.path(), &SILENT)
        .fails(&["socket", "agent"], &["a directory is at this path", "rmdir"]);
    fs::remove_dir(&socket).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_plugin_on_the_socket_is_found() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let other = agent.directory.path().join("other.sock");
    Plugin(Flaw::Nothing).serve(&other);
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    let path = other.display().to_string();
    let directory = agent.directory.path().to_path_buf();
    let found = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || check(&directory, &["--server-socket", &path])
    });
    found.await.unwrap().fails(&["socket"], &["another plugin uses this socket", "stop the other plugin"]);
    let nowhere = directory.join("nowhere.sock").display().to_string();
    check(&directory, &["--server-socket", &nowhere]).fails(&["socket"], &["another server.socket"]);
    check(&directory, &[]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_address_in_use_is_found() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    check(node.path(), &["--server-admin", &address, SILENT[0], SILENT[1]])
        .fails(&["admin"], &["another program listens", "ss -ltnp"]);
    drop(listener);
    for body in ["{}", "{\"error\": \"not found\"}"] {
        let other = crate::support::fake::always(200, "application/json", body).await;
        let taken = other.trim_start_matches("http://");
        check(node.path(), &["--server-admin", taken]).fails(&["admin"], &["another program listens"]);
    }
    let green = check(node.path(), &["--server-admin", &address]);
    green.is_green();
    assert_eq!(green.outcomes("admin"), ["ok"]);
    let own = [("KMS_PLUGIN_SERVER_ADMIN", address.as_str())];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &(vault.vault_config() + QUIET), &own);
    agent.wait_for_phase("ready").await;
    let beside = check(agent.directory.path(), &["--server-admin", &address]);
    beside.is_green();
    // Another node's file names the same address.
    check(node.path(), &["--server-admin", &address]).warns(&["socket", "admin"], &["private socket"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_different_keys_are_found() {
    let vault = Vault::start().await;
    let other = Vault::start().await;
    // Two keys of one name that were made in the same second have the same key_id.
    other.replace_key().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let admin = port.to_string();
    let second = Agent::start_in(
        tempfile::tempdir().unwrap(),
        &(vault.vault_config() + QUIET),
        &[("KMS_PLUGIN_SERVER_ADMIN", &admin)],
    );
    second.wait_for_phase("ready").await;
    let url = format!("http://{admin}");
    let beside = check(agent.directory.path(), &["--peer", &url]);
    beside.is_green();
    assert_eq!(beside.outcomes("peer"), ["ok"]);
    let stranger = Agent::ready(&(other.vault_config() + QUIET)).await;
    let file = stranger.directory.path().join("node.json");
    let (code, text) = stranger.command_with(&["status", "--output", "json"]);
    assert_eq!(code, 0, "{text}");
    fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    check(agent.directory.path(), &["--peer", &url, "--peer", &file])
        .fails(&["peer"], &["key_id v1.", "compare namespace, mount, key"]);
    // A rotation that one of them has not seen yet is only a warning.
    vault.rotate().await;
    agent.reload(&(vault.vault_config() + QUIET));
    crate::support::eventually("the new version", async || {
        let status = agent.status()?;
        if status["primary"]["key"]["version"] == 2 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    check(agent.directory.path(), &["--peer", &url]).warns(&["peer"], &["wait two minutes"]);
    check(agent.directory.path(), &["--peer", "http://127.0.0.1:9"])
        .fails(&["peer"], &["refused", "on loopback"]);
    check(agent.directory.path(), &["--peer", "/nonexistent"]).fails(&["peer"], &["No such file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_api_servers_configuration_are_found() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let file = agent.directory.path().join("encryption.yaml");
    let rendered = command()
        .args(["render", "encryption-config", "--config"])
        .arg(agent.directory.path().join("config.toml"))
        .output()
        .unwrap();
    let good = String::from_utf8(rendered.stdout).unwrap();
    let shown = file.display().to_string();
    let look = |text: &str| {
        fs::write(&file, text).unwrap();
        check(agent.directory.path(), &["--encryption-config", &shown])
    };
    let green = look(&good);
    green.is_green();
    assert_eq!(green.outcomes("encryption-config"), ["ok"]);
    look(&good.replace("kms.sock", "other.sock"))
        .fails(&["encryption-config"], &["other.sock", "set endpoint"]);
    look(&good.replace("apiVersion: v2", "apiVersion: v1"))
        .fails(&["encryption-config"], &["apiVersion is v1", "v2"]);
    look(&good.replace("timeout: 3s", "timeout: 100ms"))
        .warns(&["encryption-config"], &["100ms", "3s is the default"]);
    look(&good.replace("timeout: 3s", "timeout: soon"))
        .fails(&["encryption-config"], &["providers[0].kms.timeout", "3s or 500ms"]);
    let twice = good.replace("resources:\n  - secrets", "resources:\n  - secrets\n  - secrets");
    look(&twice).fails(&["encryption-config"], &["names a resource twice"]);
    look(&good.replace("identity: {}", "identity:")).fails(&["encryption-config"], &["with the braces"]);
    // Accepted by the API server, and a mistake: the second rule never writes.
    let again = "- providers:\n  - identity: {}\n  resources:\n  - secrets\n";
    look(&(good.clone() + again)).warns(&["encryption-config"], &["masked by resources[0]"]);
    look("secret: [\n").fails(&["encryption-config"], &["not valid YAML", "render encryption-config"]);
    let bare = good.replace("endpoint: unix://", "endpoint: ");
    look(&bare).fails(&["encryption-config"], &["has no scheme", "write it as unix://"]);
    look("kind: Pod").fails(&["encryption-config"], &["kind"]);
    let first = command()
        .args(["render", "encryption-config", "--identity", "first", "--config"])
        .arg(agent.directory.path().join("config.toml"))
        .output()
        .unwrap();
    let reads = look(&String::from_utf8(first.stdout).unwrap());
    reads.warns(&["encryption-config"], &["without encryption", "put kms first"]);
    assert_eq!(reads.outcomes("encryption-config"), ["warn"], "it does not write");
    fs::remove_file(&file).unwrap();
    check(agent.directory.path(), &["--encryption-config", &shown])
        .fails(&["encryption-config"], &["cannot be read"]);
}

/// A process still listens on a socket whose directory was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_socket_directory_is_found() {
    let vault = Vault::start().await;
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("kmsplugin");
    fs::create_dir(&inner).unwrap();
    let socket = inner.join("kms.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::rename(&inner, directory.path().join("old")).unwrap();
    fs::create_dir(&inner).unwrap();
    write_config(directory.path(), &vault.vault_config());
    let path = socket.display().to_string();
    // Nothing accepts connections at the old directory.
    let arguments = ["--server-socket", &path, SILENT[0], SILENT[1]];
    check(directory.path(), &arguments).fails(&["socket"], &["its directory was replaced"]);
}
