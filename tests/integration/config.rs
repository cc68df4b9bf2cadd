//! The configuration as an administrator sees it: layers, typos, types, origins.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::agent::command;

const GOOD: &str = "[vault]\naddresses = [\"https://vault.example:8200\"]\n[vault.transit]\nkey = \"kms-key\"\n[vault.auth]\nmethod = \"approle\"\nrole_id = \"r\"\nsecret_id_file = \"/etc/kms-plugin/secret-id\"\n";

/// `kms-plugin config` on this file: the exit code, stdout and stderr.
fn run(text: &str, variables: &[(&str, &str)], more: &[&str]) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, text).unwrap();
    run_file(&file, variables, more)
}

fn run_file(file: &Path, variables: &[(&str, &str)], more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command();
    command.arg("config").arg("--config").arg(file).args(more).envs(variables.iter().copied());
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn layers_override_each_other_and_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(
        &file,
        format!("{GOOD}[health]\noutage_grace = \"1h\"\nready_timeout = \"1s\"\n[log]\nlevel = \"warn\"\n"),
    )
    .unwrap();
    fs::create_dir(directory.path().join("config.d")).unwrap();
    fs::write(directory.path().join("config.d/20-b.toml"), "[health]\noutage_grace = \"3h\"\n").unwrap();
    fs::write(
        directory.path().join("config.d/10-a.toml"),
        "[health]\noutage_grace = \"2h\"\nready_timeout = \"2s\"\n",
    )
    .unwrap();
    fs::write(directory.path().join("config.d/ignored.bak"), "rubbish").unwrap();
    let variables = [("KMS_PLUGIN_LOG_LEVEL", "debug"), ("KMS_PLUGIN_SERVER_MAX_IN_FLIGHT", "7")];
    let flags = ["--log-level", "trace", "--vault-addresses", "https://a:1,https://b:2", "--output", "json"];
    let (code, shown, errors) = run_file(&file, &variables, &flags);
    assert_eq!(code, Some(0), "{errors}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let entry = |key: &str| (shown[key]["value"].clone(), shown[key]["origin"].as_str().unwrap().to_owned());
    assert_eq!(entry("log.level"), ("trace".into(), "--log-level".into()));
    assert_eq!(entry("server.max_in_flight"), (7.into(), "KMS_PLUGIN_SERVER_MAX_IN_FLIGHT".into()));
    assert_eq!(entry("vault.addresses").0, serde_json::json!(["https://a:1", "https://b:2"]));
    let (grace, origin) = entry("health.outage_grace");
    assert!(grace == "3h" && origin.ends_with("config.d/20-b.toml"), "{grace} {origin}");
    assert!(entry("health.ready_timeout").1.ends_with("10-a.toml"));
    assert!(entry("vault.transit.key").1.ends_with("config.toml"));
    let (_, text, _) = run_file(&file, &variables, &[]);
    assert!(text.contains("level = \"debug\"  # KMS_PLUGIN_LOG_LEVEL"), "{text}");
    assert!(text.contains("# mount: by default transit"), "{text}");
}

#[test]
fn mistakes_are_reported_with_their_line_and_a_suggestion() {
    let typo = GOOD.replace("addresses", "adresses");
    let type_error = GOOD.replace("[\"https://vault.example:8200\"]", "\"https://vault.example:8200\"");
    for (text, words) in [
        (typo.as_str(), vec!["config.toml:2", "vault.adresses", "did you mean vault.addresses"]),
        (type_error.as_str(), vec!["config.toml:2", "vault.addresses must be a list of texts"]),
        ("[vault]\nnamespace = \"a\"\nnamespace = \"b\"\n", vec!["config.toml:3", "duplicate"]),
        ("[vault\n", vec!["config.toml:1", "not valid TOML"]),
        ("vault = 3\n", vec!["config.toml:1", "vault must be a table"]),
        ("[server]\nmax_in_flight = \"many\"\n", vec!["config.toml:2", "a whole number"]),
        ("[server]\nallowed_uids = [\"root\"]\n", vec!["config.toml:2", "a list of whole numbers"]),
        ("[[decrypt_only]]\nnam = \"x\"\n", vec!["config.toml:2", "decrypt_only.nam"]),
        (
            "[[decrypt_only]]\nname = \"x\"\n[decrypt_only.vault.transit]\nkye = \"k\"\n",
            vec!["config.toml:4", "decrypt_only.vault.transit.kye", "vault.transit.key"],
        ),
        ("", vec!["vault.addresses", "vault.transit.key", "vault.auth.method"]),
    ] {
        let (code, _, errors) = run(text, &[], &[]);
        assert_eq!(code, Some(78), "{text}: {errors}");
        for words in words {
            assert!(errors.contains(words), "{words:?} in {errors}");
        }
    }
}

#[test]
fn invalid_values_are_reported() {
    for (from, to, words) in [
        (
            "https://vault.example:8200",
            "vault.example:8200",
            "has no scheme; write https://vault.example:8200",
        ),
        ("https://vault.example:8200", "http://vault.example:8200", "plain HTTP beyond loopback"),
        ("https://vault.example:8200", "https://vault.example:8200/v1", "must end before /v1"),
        ("https://vault.example:8200", "https://me:pw@vault.example", "must not hold a user"),
        ("[vault.transit]", "server_name = \"10.0.0.1\"\n[vault.transit]", "is not a host name"),
        ("[vault.transit]", "namespace = \"a b\"\n[vault.transit]", "is not the path of a namespace"),
        ("[vault.auth]", "[server]\nallowed_uids = []\n[vault.auth]", "nobody could call"),
        ("https://vault.example:8200", "ftp://vault.example", "must begin with https://"),
        ("\"kms-key\"", "\"kms/key\"", "is not the name of a Transit key"),
        ("\"approle\"", "\"aprole\"", "is not one of token, approle"),
        ("role_id = \"r\"", "", "role_id or role_id_file"),
        ("secret_id_file = \"/etc/kms-plugin/secret-id\"", "secret_id_wrapped = true", "credential"),
        ("[vault.transit]", "client_cert_file = \"/c\"\n[vault.transit]", "set both or neither"),
        ("[vault.transit]", "[vault.transit]\nkey_id_epoch = 256", "between 0 and 255"),
        ("[vault.auth]", "[health]\noutage_grace = \"soon\"\n[vault.auth]", "a time with its unit"),
        ("[vault.auth]", "[health]\nprobe_interval = \"1ms\"\n[vault.auth]", "between 100ms and 1h"),
        ("[vault.auth]", "[local_kek]\nmax_offline = \"0s\"\n[vault.auth]", "between 1s and 30d"),
        ("[vault.auth]", "[local_kek]\nmax_uses = 0\n[vault.auth]", "between 1 and 1000000000"),
        (
            "[vault.auth]",
            "[local_kek]\nenabled = true\n[health]\noutage_grace = \"1h\"\n[vault.auth]",
            "local_kek.max_offline says how long",
        ),
        (
            "[vault.auth]",
            "[server]\nadmin = \"0.0.0.0:8690\"\n[vault.auth]",
            "insecure_admin_beyond_loopback",
        ),
        ("[vault.auth]", "[log]\nlevel = \"loud\"\n[vault.auth]", "is not one of error, warn"),
        ("\"approle\"", "\"none\"", "is another machine; use a method that logs in"),
        ("https://vault.example:8200", "unix://run/proxy.sock", "write unix:///run/NAME.sock"),
        ("[vault.transit]", "proxy = \"proxy:3128\"\n[vault.transit]", "has no scheme; write http://"),
        ("[vault.transit]", "proxy = \"http://me:pw@p:1\"\n[vault.transit]", "must not hold a password"),
        ("[vault.transit]", "proxy = \"http://me@p:1\"\n[vault.transit]", "a user needs a password"),
        ("[vault.transit]", "proxy_except = [\"a\"]\n[vault.transit]", "no effect without vault.proxy"),
        (
            "[vault.transit]",
            "proxy = \"http://p:1\"\nproxy_except = [\"10.0.0.0/8\"]\n[vault.transit]",
            "is neither a host",
        ),
        (
            "[vault.transit]",
            "proxy = \"http://p:1\"\nserver_name = \"v\"\n[vault.transit]",
            "cannot be used together with vault.proxy",
        ),
        (
            "[vault.auth]",
            "[[decrypt_only]]\nname = \"x\"\n[decrypt_only.vault]\naddresses = [\"https://o:1\"]\n[vault.auth]",
            "needs an auth table of its own",
        ),
    ] {
        let text = GOOD.replace(from, to);
        let (code, _, errors) = run(&text, &[], &[]);
        assert!(code == Some(78) && errors.contains(words), "{words:?} for {to:?}: {errors}");
        assert!(!errors.contains("me:pw"), "a password in an address is not repeated: {errors}");
    }
}

#[test]
fn variables_and_flags_are_checked_like_files() {
    let (code, _, errors) = run(GOOD, &[("KMS_PLUGIN_VAULT_ADDRESES", "x")], &[]);
    assert!(code == Some(78) && errors.contains("did you mean KMS_PLUGIN_VAULT_ADDRESSES"), "{errors}");
    let (code, _, errors) = run(GOOD, &[("KMS_PLUGIN_SERVER_MAX_IN_FLIGHT", "many")], &[]);
    assert!(code == Some(78) && errors.contains("KMS_PLUGIN_SERVER_MAX_IN_FLIGHT"), "{errors}");
    // The kubelet sets such variables for a Service called kms-plugin: they are ignored.
    let (code, _, errors) =
        run(GOOD, &[("KMS_PLUGIN_SERVICE_HOST", "10.0.0.1"), ("KMS_PLUGIN_METRICS_PORT_443_TCP", "x")], &[]);
    assert_eq!(code, Some(0), "{errors}");
    let (code, _, errors) = run(GOOD, &[], &["--vault-adresses", "x"]);
    assert!(code == Some(64) && errors.contains("--vault-addresses"), "{errors}");
    let (code, shown, _) = run(GOOD, &[], &["--vault-insecure-skip-verify"]);
    assert!(code == Some(0) && shown.contains("insecure_skip_verify = true"), "{shown}");
}

/// A template that was not filled in must not lead to another configuration than the one that was meant.
#[test]
fn empty_variables_are_named() {
    let names = ["KMS_PLUGIN_VAULT_NAMESPACE", "KMS_PLUGIN_VAULT_ADDRESSES", "KMS_PLUGIN_LOCAL_KEK_ENABLED"];
    let (code, _, errors) = run(GOOD, &names.map(|name| (name, " ")), &[]);
    assert_eq!(code, Some(78), "{errors}");
    for name in names {
        assert!(errors.contains(&format!("{name}: the variable is set, but empty")), "{name}: {errors}");
    }
    // It turns the admin address off.
    let (code, shown, errors) = run(GOOD, &[("KMS_PLUGIN_SERVER_ADMIN", "")], &[]);
    assert!(code == Some(0) && shown.contains("admin = \"\""), "{shown}{errors}");
    let output = command().arg("config").env("KMS_PLUGIN_CONFIG", "").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && errors.contains("KMS_PLUGIN_CONFIG"), "{errors}");
    // A command that talks to an agent reads no configuration.
    let output = command().arg("status").env("KMS_PLUGIN_SERVER_RUNTIME_DIR", "").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(64) && errors.contains("KMS_PLUGIN_SERVER_RUNTIME_DIR"), "{errors}");
}

#[test]
fn a_missing_named_file_is_an_error_and_a_missing_default_file_is_not() {
    let (code, _, errors) = run_file(Path::new("/nonexistent/config.toml"), &[], &[]);
    assert!(code == Some(78) && errors.contains("/nonexistent/config.toml"), "{errors}");
    let keys = command().args(["config", "--keys"]).output().unwrap();
    assert!(
        keys.status.success()
            && String::from_utf8_lossy(&keys.stdout).contains("KMS_PLUGIN_HEALTH_OUTAGE_GRACE")
    );
}

#[test]
fn the_shipped_example_is_valid_and_names_every_key() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.example.toml");
    let (code, _, errors) = run_file(&example, &[], &[]);
    assert_eq!(code, Some(0), "{errors}");
    // With the comment signs removed, every key is known, and none is missing.
    let text = fs::read_to_string(&example).unwrap();
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ") => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let (_, shown, errors) = run(&all, &[], &["--output", "json"]);
    assert!(!errors.contains("unknown key"), "{errors}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    for key in kms_plugin::schema::KEYS {
        assert!(!shown[key.path].is_null(), "the example lacks {}", key.path);
    }
}
