//! `support-bundle`: what it holds, and that it holds no secret, wherever a test planted one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::support::agent::{Agent, QUIET, command, write_config};
use crate::support::jwt::Signer;
use crate::support::pki::Pki;
use crate::support::vault::{KEY, Vault, write_secret};

/// Writes a bundle of the node in this directory, and unpacks it: the files by name.
fn bundle(directory: &Path, programs: &Path, more: &[&str]) -> BTreeMap<String, String> {
    let file = directory.join("bundle.tar.gz");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = command()
        .env("PATH", path)
        .args(["support-bundle", "--file"])
        .arg(&file)
        .arg("--config")
        .arg(directory.join("config.toml"))
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("bundle.tar.gz") && said.contains("collecting the journal"), "{said}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let unpacked = directory.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(&unpacked).status().unwrap();
    assert!(tar.success());
    let inner = fs::read_dir(&unpacked).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(inner).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
    });
    let files = files.collect();
    fs::remove_file(file).unwrap();
    fs::remove_dir_all(unpacked).unwrap();
    files
}

/// Stand-ins for programs of the system, which print `says`: this machine may have no journal to plant secrets in.
fn programs(directory: &Path, says: &str) {
    fs::create_dir(directory).unwrap();
    fs::write(directory.join("says"), says).unwrap();
    for name in ["journalctl", "systemctl", "ss", "ip", "timedatectl"] {
        let program = directory.join(name);
        fs::write(&program, format!("#!/bin/sh\ncat {}/says\n", directory.display())).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// `%2F` as `%2f`.
fn lower_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| format!("{text}%{}{}", part[..2].to_lowercase(), &part[2..]))
}

/// A secret in each encoding that people and programs use.
fn forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let json = serde_json::to_string(secret).unwrap();
    vec![
        secret.to_owned(),
        STANDARD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
        percent(secret),
        lower_escapes(&percent(secret)),
        json.trim_matches('"').to_owned(),
        hex,
    ]
}

/// Lines of a log that hold these secrets.
fn planted(secrets: &[String]) -> String {
    let mut text = String::new();
    for secret in secrets {
        for form in forms(secret) {
            text.push_str(&format!("Nov 24 node kubelet[7]: somebody logged {form} in a line of its own\n"));
            text.push_str(&format!("{{\"message\": \"{form}\"}}\nhttps://vault:8200/?x={form}&y=1\n"));
        }
        text.push_str(&format!("basic {}\n", STANDARD.encode(format!("node:{secret}"))));
        text.push_str(&format!("double {}\n", STANDARD.encode(format!("xy{secret}z"))));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_holds_no_secret_of_any_login_method() {
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::start().await;
    let jwt = Signer::new().sign("node", "vault");
    let key = fs::read_to_string(&pki.client_key).unwrap();
    let secrets: BTreeMap<&str, String> = BTreeMap::from([
        ("secret-id", fs::read_to_string(vault.file("secret-id")).unwrap()),
        ("role-id", fs::read_to_string(vault.file("role-id")).unwrap()),
        ("token", "hvs.CAESIPlantedTokenPlantedTokenPlanted".to_owned()),
        ("password", "p@ss w\"ord/+é&=%".to_owned()),
        ("jwt", jwt),
        ("proxy-password", "Pr0xy/pass+w\\rd".to_owned()),
    ]);
    for (name, secret) in &secrets {
        write_secret(&vault.file(name), secret);
    }
    let file = |name: &str| format!("{:?}", vault.file(name));
    let (secret_id, role_id) = (file("secret-id"), format!("{:?}", secrets["role-id"]));
    for (used, auth) in [
        (
            vec!["secret-id", "role-id"],
            format!("method = \"approle\"\nrole_id = {role_id}\nsecret_id_file = {secret_id}\n"),
        ),
        (vec!["token"], format!("method = \"token\"\ntoken_file = {}\n", file("token"))),
        (
            vec!["password"],
            format!("method = \"userpass\"\nusername = \"node\"\npassword_file = {}\n", file("password")),
        ),
        (vec!["jwt"], format!("method = \"jwt\"\njwt_file = {}\n", file("jwt"))),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let client = format!(
            "client_cert_file = {:?}\nclient_key_file = {:?}\nproxy = \"http://node@127.0.0.1:9\"\nproxy_password_file = {}",
            pki.client_cert,
            pki.client_key,
            file("proxy-password"),
        );
        let config = format!(
            "[vault]\naddresses = [{:?}]\n{client}\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\n{auth}",
            vault.address
        );
        write_config(directory.path(), &config);
        let mut planted_secrets: Vec<String> = used.iter().map(|name| secrets[name].clone()).collect();
        let lines = key.lines().filter(|line| !line.starts_with("---") && line.len() > 16);
        planted_secrets.extend(lines.map(str::to_owned));
        planted_secrets.push(secrets["proxy-password"].clone());
        programs(&directory.path().join("bin"), &planted(&planted_secrets));
        let files = bundle(directory.path(), &directory.path().join("bin"), &["--no-login"]);
        for secret in &planted_secrets {
            for form in forms(secret) {
                for (name, text) in &files {
                    assert!(!text.contains(&form), "{form} of {secret} in {name}");
                }
            }
        }
        // Also base64 of a longer text must not hold a secret: it is decoded here.
        for word in files["journal.txt"].split_whitespace() {
            let decoded = STANDARD.decode(word).unwrap_or_default();
            let text = String::from_utf8_lossy(&decoded);
            assert!(planted_secrets.iter().all(|secret| !text.contains(secret.as_str())), "{word}: {text}");
        }
        assert!(files["journal.txt"].contains("somebody logged [redacted] in a line of its own"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_holds_nothing_that_looks_like_a_secret() {
    let vault = Vault::start().await;
    let directory = tempfile::tempdir().unwrap();
    write_config(directory.path(), &vault.vault_config());
    let key = fs::read_to_string(&Pki::new(&["x"]).client_key).unwrap();
    let jwt = Signer::new().sign("somebody", "else");
    let says = format!(
        "Environment=VAULT_TOKEN=stray-one KMS_PLUGIN_LOG_LEVEL=debug\n\
         SetCredential=secret-id:stray-two and more\n\
         argv[]=/usr/bin/vault-kubernetes-kms -token stray-three -approle-secret-id=stray-four -userpass-password 'stray-five' ;\n\
         curl -H 'X-Vault-Token: stray-six' https://admin:stray-seven@vault:8200\n\
         Authorization: Bearer stray-eight\n\
         {{\"secret_id\": \"stray-nine\", \"client_token\": \"stray-ten\"}}\n\
         s.strayelevenstrayelevenstray and hvb.straytwelvestraytwelve\n\
         {jwt}\n{key}\nDB_PASSWORD=stray-thirteen\n\
         LoadCredential=secret-id:/etc/kms-plugin/secret-id\nActiveState=active\n"
    );
    programs(&directory.path().join("bin"), &says);
    let files = bundle(directory.path(), &directory.path().join("bin"), &[]);
    let all: String = files.values().cloned().collect();
    assert!(!all.contains("stray"), "{}", files["units.txt"]);
    assert!(!all.contains(&jwt[..20]) && !all.contains(key.lines().nth(1).unwrap()));
    for kept in [
        "KMS_PLUGIN_LOG_LEVEL=debug",
        "LoadCredential=secret-id:/etc/kms-plugin/secret-id",
        "ActiveState=active",
        "VAULT_TOKEN=",
    ] {
        assert!(files["units.txt"].contains(kept), "{kept}: {}", files["units.txt"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_holds_what_a_diagnosis_needs() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    agent.kms().await.round_trip().await;
    let none = agent.directory.path().join("bin");
    let files = bundle(agent.directory.path(), &none, &[]);
    let json = |name: &str| {
        serde_json::from_str::<Value>(&files[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert_eq!(json("status.json")["phase"], "ready");
    assert_eq!(json("check.json")["failed"], 0);
    assert_eq!(json("config.json")["vault.transit.key"]["value"], KEY);
    assert_eq!(json("key.json")["agent"]["version"], 1);
    assert!(json("policy.json").as_array().unwrap().len() >= 3, "{}", files["policy.json"]);
    assert!(json("network.json").as_array().unwrap().len() >= 3, "{}", files["network.json"]);
    assert!(files["metrics.txt"].contains("kms_plugin_requests_total"));
    assert!(files["healthz.txt"].contains("[+]vault ok"));
    assert!(files["check.txt"].contains("0 failed"));
    assert!(files["system.txt"].contains("kms-plugin 0.") && files["system.txt"].contains("/etc/os-release"));
    for name in ["journal.txt", "units.txt", "status.txt"] {
        assert!(!files[name].is_empty(), "{name}");
    }
    // An existing file is never overwritten, and a path that cannot be written to is reported.
    let file = agent.directory.path().join("there");
    fs::write(&file, "precious").unwrap();
    for (target, code, words) in
        [(file.as_path(), 64, "exists already"), (Path::new("/proc/x"), 69, "cannot be written")]
    {
        let output = command()
            .args(["support-bundle", "--no-login", "--file"])
            .arg(target)
            .arg("--config")
            .arg(agent.directory.path().join("config.toml"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{said}");
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    // With nothing right, there is a bundle all the same.
    let broken = tempfile::tempdir().unwrap();
    fs::write(broken.path().join("config.toml"), "[vualt]\n").unwrap();
    let files = bundle(broken.path(), &none, &[]);
    assert!(files["config.json"].contains("did you mean vault"), "{}", files["config.json"]);
}
