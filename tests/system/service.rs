//! The service under systemd: readiness, watchdog, crashes, boots without a Vault, reloads.

use std::time::{Duration, Instant};

use crate::node::{Node, QUICK, is_newer};
use crate::support::load::Load;
use crate::support::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_active_after_a_round_trip_or_a_bounded_wait() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, &QUICK.replace("5s", "3s"));
    vault.freeze();
    node.ok("systemctl start --no-block kms-plugin");
    let starting = node.wait_until("systemctl is-active kms-plugin", |said| said.text == "activating").await;
    assert_eq!(starting.text, "activating");
    node.wait_until("systemctl is-active kms-plugin", |said| said.text == "active").await;
    let status = node.show("kms-plugin", "StatusText");
    assert!(status.starts_with("starting"), "{status}");
    // The first attempt may take longer than the bounded wait: its reason follows.
    node.wait_until("systemctl show --value -p StatusText kms-plugin", |said| {
        said.text.starts_with("starting") && said.text.contains("answer")
    })
    .await;
    vault.thaw();
    node.wait_until("systemctl show --value -p StatusText kms-plugin", |said| said.text.starts_with("ready"))
        .await;
    assert_eq!(node.show("kms-plugin", "NRestarts"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_process_is_killed_by_the_watchdog_and_an_outage_is_not() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, QUICK);
    node.ok("mkdir -p /etc/systemd/system/kms-plugin.service.d && printf '[Service]\\nWatchdogSec=5s\\n' > /etc/systemd/system/kms-plugin.service.d/quick.conf && systemctl daemon-reload");
    node.ok("systemctl start kms-plugin");
    node.wait_for_phase("ready").await;
    let first = node.kms().await.round_trip().await;
    // Vault hangs for longer than the watchdog's time: no reason to restart.
    vault.freeze();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(node.show("kms-plugin", "NRestarts"), "0");
    vault.thaw();
    node.wait_for_phase("ready").await;
    let pid = node.pid();
    node.ok(&format!("kill -STOP {pid}"));
    node.wait_for_new_process(&pid).await;
    node.wait_for_phase("ready").await;
    assert_eq!(node.show("kms-plugin", "NRestarts"), "1");
    assert!(node.journal().contains("Watchdog timeout"), "{}", node.journal());
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), crate::support::kms::SEED);
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_under_load_refuse_no_connection_and_fifty_restarts_leave_it_alive() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, QUICK).await;
    let first = node.kms().await.round_trip().await;
    for _ in 0..3 {
        let load = Load::start(&node.socket(), &first);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let pid = node.pid();
        node.ok(&format!("kill -9 {pid}"));
        // Without an agent, connections wait.
        let waiting = std::os::unix::net::UnixStream::connect(node.socket()).unwrap();
        node.wait_for_new_process(&pid).await;
        node.wait_for_phase("ready").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(waiting);
        let calls = load.stop().await;
        // Each of the four callers may lose one call under way, and one by its broken connection.
        assert!(calls.failed().len() <= 8, "{:?}", calls.failed());
    }
    node.ok("for i in $(seq 50); do systemctl restart kms-plugin || exit 1; done");
    node.wait_for_phase("ready").await;
    // Crashes in a row, faster than any start limit of systemd's own.
    for _ in 0..8 {
        let pid = node.pid();
        node.run(&format!("kill -9 {pid}"));
        node.wait_for_new_process(&pid).await;
    }
    node.wait_for_phase("ready").await;
    assert_eq!(node.ok("systemctl is-active kms-plugin.socket kms-plugin.service"), "active\nactive");
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), crate::support::kms::SEED);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_vault_the_boot_continues_and_the_agent_recovers() {
    let mut vault = Vault::persistent().await;
    let mut node = Node::serving(&vault, QUICK).await;
    // A stand-in for the kubelet: ordered after us, wanted by the same target.
    node.ok("printf '[Unit]\\nDescription=kubelet\\n[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/kubelet.service && systemctl enable kubelet");
    vault.kill();
    node.reboot();
    node.wait_until("systemctl is-active kubelet", |said| said.text == "active").await;
    assert_eq!(node.ok("systemctl is-active kms-plugin"), "active");
    let (ours, kubelet) = (
        node.show("kms-plugin", "ActiveEnterTimestampMonotonic").parse::<u64>().unwrap(),
        node.show("kubelet", "ActiveEnterTimestampMonotonic").parse::<u64>().unwrap(),
    );
    assert!(kubelet >= ours, "the kubelet came first");
    let refused = node.kms().await.encrypt(&crate::support::kms::SEED).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    vault.restart().await;
    node.wait_for_phase("ready").await;
    node.kms().await.round_trip().await;
    assert_eq!(node.show("kms-plugin", "NRestarts"), "0", "it healed by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_waits_for_the_outcome_and_a_bad_one_changes_nothing() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install(if is_newer() { "254" } else { "1" });
    node.configure(&vault, QUICK);
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    let (pid, mut kms) = (node.pid(), node.kms().await);
    let first = kms.round_trip().await;
    // A new secret-id replaces the old one: a reload is enough.
    vault.new_secret_id("kms").await;
    node.configure(&vault, QUICK);
    node.ok("systemctl reload kms-plugin");
    let reloads =
        node.ok("journalctl -u kms-plugin -o cat --no-pager | grep -c 'configuration was reloaded'");
    assert_eq!(reloads, "1", "one request, one reload");
    assert_eq!(
        kms.decrypt(&first).await.unwrap(),
        crate::support::kms::SEED,
        "the connection is still there"
    );
    for (bad, said) in [("[vault", "wrong"), ("[vault.transit]\nkey = \"missing\"\n", "missing")] {
        node.write("/etc/kms-plugin/config.d/99-bad.toml", bad);
        let reload = node.run("systemctl reload kms-plugin");
        assert_ne!(reload.code, 0, "{said}: {}", node.journal());
        assert!(node.journal().contains("the old configuration stays in use"), "{}", node.journal());
        let status = node.show("kms-plugin", "StatusText");
        assert!(status.starts_with("ready; the configuration on disk is not in use: "), "{status}");
        assert_eq!(node.ok("systemctl is-active kms-plugin"), "active");
        kms.round_trip().await;
    }
    node.ok("rm /etc/kms-plugin/config.d/99-bad.toml && systemctl reload kms-plugin");
    assert_eq!(node.pid(), pid, "no reload was a restart");
    assert!(node.show("kms-plugin", "StatusText").starts_with("ready"));
}

/// Installed, enabled and not configured: the service stays up and says why, and a client that connects makes PID 1
/// neither busy nor start anything.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_the_service_waits_and_pid_1_is_idle() {
    let node = Node::boot();
    node.install("1");
    // READY comes after ready_timeout: the boot goes on.
    node.ok("systemctl enable --now kms-plugin");
    assert_eq!(node.ok("systemctl is-active kms-plugin"), "active");
    let status = node.show("kms-plugin", "StatusText");
    assert!(status.contains("the configuration does not load"), "{status}");
    let client = std::os::unix::net::UnixStream::connect(node.socket()).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ticks = || -> u64 {
        let stat = node.ok("cut -d')' -f2 /proc/1/stat");
        stat.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    };
    let restarts = || node.show("kms-plugin", "NRestarts").parse::<u64>().unwrap();
    let (before, count, started) = (ticks(), restarts(), Instant::now());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let seconds = started.elapsed().as_secs_f64();
    let (spent, tried) = ((ticks() - before) as f64 / 100.0, (restarts() - count) as f64);
    eprintln!(
        "MEASURED PID 1 spends {:.1} % of a core, {:.1} starts/s",
        spent / seconds * 100.0,
        tried / seconds
    );
    assert!(spent / seconds < 0.25, "PID 1 spins: {spent} s of {seconds} s");
    assert_eq!(restarts(), 0, "{tried} starts in {seconds} s");
    let errors = node.ok("journalctl -u kms-plugin -p err -o cat --no-pager");
    assert!(errors.contains("vault.addresses"), "the reason is told: {errors}");
    assert!(errors.lines().count() < 10, "each problem once: {errors}");
    assert_eq!(node.ok("systemctl is-active kms-plugin.socket"), "active", "the socket outlives it");
    drop(client);
    // A configuration is enough: nobody has to restart anything.
    let vault = Vault::start().await;
    node.configure(&vault, QUICK);
    node.wait_for_phase("ready").await;
    assert_eq!(restarts(), 0, "the same process serves");
}
