//! The translation of each kind of flag and variable.

use super::*;

fn translated(line: &str, variables: &[(&str, &str)]) -> Result<(Vec<OsString>, CompatFlags), CompatError> {
    let arguments =
        std::iter::once("kms-plugin").chain(line.split_whitespace()).map(OsString::from).collect();
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    translate(arguments, variables).map(|translated| (translated.arguments, translated.flags))
}

/// The last value of a key, as the configuration sees it.
fn value<'a>(flags: &'a CompatFlags, key: &str) -> Option<&'a str> {
    flags.values.iter().rev().find(|(path, _)| path == key).map(|(_, value)| value.as_str())
}

#[test]
fn one_dash_or_two_a_blank_or_an_equals_sign() {
    for line in [
        "-vault-address=https://v:8200 -transit-key=k",
        "--vault-address=https://v:8200 --transit-key=k",
        "-vault-address https://v:8200 -transit-key k",
        "serve --vault-address https://v:8200 --transit-key k",
    ] {
        let (rest, flags) = translated(line, &[]).unwrap();
        assert_eq!(value(&flags, "vault.addresses"), Some("https://v:8200"), "{line}");
        assert_eq!(value(&flags, "vault.transit.key"), Some("k"), "{line}");
        assert_eq!(rest.len(), if line.starts_with("serve") { 2 } else { 1 }, "{line}");
    }
}

#[test]
fn our_own_flags_and_other_commands_do_not_change() {
    let (rest, flags) = translated("--vault-namespace=a -vault-address=x --log-level debug -h", &[]).unwrap();
    assert_eq!(rest, ["kms-plugin", "--vault-namespace=a", "--log-level", "debug", "-h"]);
    assert_eq!(flags.values.len(), 1);
    let (rest, flags) = translated("probe -socket x", &[("VAULT_KMS_DEBUG", "true")]).unwrap();
    assert_eq!((rest.len(), flags.values.len()), (4, 0));
    let (rest, _) = translated("-no-such-flag=1", &[]).unwrap();
    assert_eq!(rest.len(), 2, "clap refuses it");
}

#[test]
fn flags_override_variables_of_either_prefix() {
    let variables =
        [("VAULT_KMS_TRANSIT_KEY", "one"), ("VAULT_KUBE_KMS_VAULT_NAMESPACE", "two"), ("VAULT_ADDR", "x")];
    let (_, flags) = translated("-transit-key=three", &variables).unwrap();
    assert_eq!(value(&flags, "vault.transit.key"), Some("three"));
    assert_eq!(value(&flags, "vault.namespace"), Some("two"));
    assert_eq!(value(&flags, "vault.addresses"), None);
}

#[test]
fn the_method_is_named_or_follows_from_the_credentials() {
    let (_, flags) =
        translated("-approle-role-id=r -approle-secret-id-path=/s -approle-mount=m -jwt-mount=j", &[])
            .unwrap();
    assert_eq!(value(&flags, "vault.auth.method"), Some("approle"));
    assert_eq!(value(&flags, "vault.auth.mount"), Some("m"), "not that of another method");
    let (_, flags) = translated("-auth-method=jwt -jwt-mount=j -approle-mount=m -jwt-role=r", &[]).unwrap();
    assert_eq!(value(&flags, "vault.auth.method"), Some("jwt"));
    assert_eq!((value(&flags, "vault.auth.mount"), value(&flags, "vault.auth.role")), (Some("j"), Some("r")));
}

#[test]
fn a_secret_becomes_a_file_in_memory_and_a_warning() {
    let (_, flags) = translated("-token=s3cr3t", &[]).unwrap();
    let path = value(&flags, "vault.auth.token_file").unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "s3cr3t");
    assert!(!format!("{flags:?}").contains("s3cr3t"));
    assert!(flags.warnings.iter().any(|warning| warning.contains("-token is a secret")));
    assert_eq!(value(&flags, "vault.auth.method"), Some("token"));
}

#[test]
fn paths_levels_ports_and_obsolete_flags() {
    let (_, flags) = translated(
        "-vault-key-path=kms/transit/keys/k -zap-log-level=2 -metrics-port=0 -token-renewal 3600",
        &[],
    )
    .unwrap();
    assert_eq!(value(&flags, "vault.transit.mount"), Some("kms/transit"));
    assert_eq!(value(&flags, "vault.transit.key"), Some("k"));
    assert_eq!((value(&flags, "log.level"), value(&flags, "server.admin")), (Some("debug"), Some("")));
    assert!(flags.warnings.iter().any(|warning| warning.contains("-token-renewal has no effect")));
    let (_, flags) = translated("-health-port=8080 -metrics-port=9090", &[]).unwrap();
    assert!(value(&flags, "server.admin").is_some_and(|admin| admin.ends_with(":8080")));
    assert_eq!(value(&translated("-health-port=0", &[]).unwrap().1, "server.admin"), Some(""));
    assert_eq!(flags.warnings.len(), 2);
}

#[test]
fn a_wrong_value_is_an_error_that_names_the_flag() {
    for (line, part) in [
        ("-vault-address", "-vault-address needs a value"),
        ("-vault-key-path=k", "transit/keys/kms-key"),
        ("-health-port=many", "is not a port"),
        ("-debug=perhaps", "neither true nor false"),
        ("-log-level=loud", "is not a level of the log"),
        ("--log-level loud", "is not a level of the log"),
        ("-zap-log-level=loud", "is not a level of the log"),
        ("-health-port=-1", "is not a port"),
        ("-jwt-token-source=env", "neither file nor spiffe"),
    ] {
        let Err(error) = translated(line, &[]) else { panic!("{line}") };
        assert!(error.is_usage() && error.to_string().contains(part), "{line}: {error}");
    }
}

#[test]
fn an_empty_value_is_none_and_variables_have_their_documented_names() {
    let line = "-vault-address=https://v -tls-sni= -tls-ca-file= --vault-auth-namespace= --vault-namespace=a";
    let (rest, flags) = translated(line, &[("VAULT_KMS_TOKEN", "")]).unwrap();
    assert_eq!(rest, ["kms-plugin", "--vault-namespace=a"], "an empty one would mean the root namespace");
    assert_eq!(flags.values, [("vault.addresses".to_owned(), "https://v".to_owned())]);
    // Alone it is ours, and means what it says.
    assert_eq!(
        translated("--vault-auth-namespace=", &[]).unwrap().0,
        ["kms-plugin", "--vault-auth-namespace="]
    );
    let variables = [("VAULT_KMS_VAULT_ADDR", "https://v"), ("VAULT_KMS_SERVICE_HOST", "10.0.0.1")];
    let (_, flags) = translated("", &variables).unwrap();
    assert_eq!(flags.values, [("vault.addresses".to_owned(), "https://v".to_owned())]);
}

#[test]
fn a_long_flag_with_one_dash_is_one_of_ours_with_two() {
    let (rest, _) = translated("-vault-ca-file=/c -V -h -12", &[]).unwrap();
    assert_eq!(rest, ["kms-plugin", "--vault-ca-file=/c", "-V", "-h", "-12"]);
    assert!(hint("--vault-addres").contains("-vault-address"));
    assert!(!hint("--zzz").contains("One of them"));
}

#[test]
fn the_other_plugin_s_defaults_apply() {
    let assumed = |line: &str, variables: &[(&str, &str)]| {
        let defaults = translated(line, variables).unwrap().1.defaults;
        defaults.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
    };
    assert_eq!(assumed("-vault-address=x", &[]), ["/opt/kms/vaultkms.socket", "kms"]);
    assert_eq!(assumed("-vault-address=x -tls-sni=v", &[]), ["/tmp/vault-kube-kms.socket"]);
    let variables = [("VAULT_KUBE_KMS_VAULT_ADDRESS", "x")];
    assert_eq!(assumed("", &variables), ["/tmp/vault-kube-kms.socket"]);
    assert!(assumed("-debug --vault-addresses=x", &[]).is_empty(), "ours, with one of their flags");
}

#[test]
fn the_command_lines_of_the_field() {
    let line = "-vault-address=https://v -disable-runtime-metrics -metrics-port=-1 -log-level=debug-extended \
                -cert-pem=/var/lib/kubelet/pki/kubelet-client-current.pem -cert-role=r -jwt-token-source=file";
    let (rest, flags) = translated(line, &[]).unwrap();
    assert_eq!(rest, ["kms-plugin"]);
    assert_eq!((value(&flags, "server.admin"), value(&flags, "log.level")), (Some(""), Some("debug")));
    assert_eq!(value(&flags, "vault.auth.method"), Some("cert"));
    for key in ["vault.client_cert_file", "vault.client_key_file"] {
        assert_eq!(value(&flags, key), Some("/var/lib/kubelet/pki/kubelet-client-current.pem"));
    }
    assert!(flags.warnings.iter().any(|warning| warning.contains("-disable-runtime-metrics has no effect")));
    let (_, flags) = translated("-health-port=:8080", &[]).unwrap();
    assert!(value(&flags, "server.admin").is_some_and(|admin| admin.ends_with(":8080")));
}

#[test]
fn a_jwt_comes_from_a_file_or_from_the_workload_api() {
    let line = "-vault-address=https://v -auth-method=jwt -jwt-role=r -jwt-token-path=/jwt -jwt-spiffe-audience=vault \
                -jwt-spiffe-id=spiffe://a/b";
    let socket = ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/agent.sock");
    let (_, by_file) = translated(line, &[socket]).unwrap();
    assert_eq!(value(&by_file, "vault.auth.jwt_file"), Some("/jwt"));
    assert!(!by_file.values.iter().any(|(key, _)| key.contains("spiffe")), "{:?}", by_file.values);
    let ignored = |flags: &CompatFlags| {
        let warnings = flags.warnings.iter().filter(|warning| warning.contains("comes from another source"));
        warnings.map(|warning| warning.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ignored(&by_file), ["-jwt-spiffe-audience", "-jwt-spiffe-id"]);

    let (_, svid) = translated(&format!("{line} -jwt-token-source=spiffe"), &[socket]).unwrap();
    assert_eq!(value(&svid, "vault.auth.method"), Some("jwt"));
    assert_eq!(value(&svid, "vault.auth.role"), Some("r"));
    assert_eq!(value(&svid, "vault.auth.jwt_file"), None);
    assert_eq!(ignored(&svid), ["-jwt-token-path"]);
    assert_eq!(value(&svid, "vault.spiffe.socket"), Some("unix:///run/agent.sock"));
    assert_eq!(value(&svid, "vault.spiffe.audience"), Some("vault"));
    assert_eq!(value(&svid, "vault.spiffe.id"), Some("spiffe://a/b"));
    let named = format!("{line} -jwt-token-source=spiffe -jwt-spiffe-endpoint=unix:///other.sock");
    let (_, named) = translated(&named, &[socket]).unwrap();
    let last = named.values.iter().rfind(|(key, _)| key == "vault.spiffe.socket").unwrap();
    assert_eq!(last.1, "unix:///other.sock", "a flag overrides the variable");
    let (_, implied) = translated("-vault-address=https://v -jwt-token-source=spiffe", &[]).unwrap();
    assert_eq!(value(&implied, "vault.auth.method"), Some("jwt"));
    let Err(error) = translated("-auth-method=kubernetes -jwt-token-source=spiffe", &[]) else { panic!() };
    assert!(error.to_string().contains("for the method jwt"), "{error}");
}

#[test]
fn variables_have_an_effect_or_a_warning() {
    let address = ("VAULT_KMS_VAULT_ADDR", "https://v");
    let variables = [
        address,
        ("VAULT_KMS_VAULT_CACERT", "/ca"),
        ("VAULT_KMS_VAULT_TOKEN", "s3cr3t"),
        ("VAULT_CACERT", "/other"),
        ("VAULT_NAMESPACE", "team"),
        ("VAULT_SKIP_VERIFY", "true"),
        ("VAULT_KMS_TRANSIT_KEYS", "k"),
        ("VAULT_KMS_SERVICE_HOST", "10.0.0.1"),
        ("VAULT_KMS_PORT_443_TCP", "tcp://10.0.0.1:443"),
    ];
    let (_, flags) = translated("", &variables).unwrap();
    assert_eq!(value(&flags, "vault.ca_file"), Some("/ca"), "theirs wins over the client library's");
    assert_eq!(value(&flags, "vault.namespace"), Some("team"));
    assert_eq!(value(&flags, "vault.auth.method"), Some("token"));
    let warned = |word: &str| flags.warnings.iter().filter(|warning| warning.starts_with(word)).count();
    assert_eq!(
        (warned("VAULT_SKIP_VERIFY"), warned("VAULT_KMS_TRANSIT_KEYS")),
        (1, 1),
        "{:?}",
        flags.warnings
    );
    assert_eq!((warned("VAULT_KMS_SERVICE_HOST"), warned("VAULT_KMS_PORT")), (0, 0));
    // Without the other plugin's address, the client library's variables mean nothing.
    let (_, flags) = translated("", &[("VAULT_CACERT", "/other")]).unwrap();
    assert!(flags.values.is_empty() && flags.warnings.is_empty());
}
