//! What each spelling becomes.

use super::*;

fn taken(line: &str, variables: &[(&str, &str)]) -> Result<(Vec<OsString>, Foreign), Failure> {
    let arguments =
        std::iter::once("kms-plugin").chain(line.split_whitespace()).map(OsString::from).collect();
    take(arguments, variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
}

/// The last value of a key, as the configuration sees it.
fn value<'a>(foreign: &'a Foreign, key: &str) -> Option<&'a str> {
    foreign.values.iter().rev().find(|(path, _)| path == key).map(|(_, value)| value.as_str())
}

#[test]
fn one_dash_or_two_a_blank_or_an_equals_sign() {
    for line in [
        "-vault-address=https://v:8200 -transit-key=k",
        "--vault-address=https://v:8200 --transit-key=k",
        "-vault-address https://v:8200 -transit-key k",
        "serve --vault-address https://v:8200 --transit-key k",
    ] {
        let (rest, foreign) = taken(line, &[]).unwrap();
        assert_eq!(value(&foreign, "vault.addresses"), Some("https://v:8200"), "{line}");
        assert_eq!(value(&foreign, "vault.transit.key"), Some("k"), "{line}");
        assert_eq!(rest.len(), if line.starts_with("serve") { 2 } else { 1 }, "{line}");
    }
}

#[test]
fn our_own_flags_and_other_commands_are_left_alone() {
    let (rest, foreign) = taken("--vault-namespace=a -vault-address=x --log-level debug -h", &[]).unwrap();
    assert_eq!(rest, ["kms-plugin", "--vault-namespace=a", "--log-level", "debug", "-h"]);
    assert_eq!(foreign.values.len(), 1);
    let (rest, foreign) = taken("probe -socket x", &[("VAULT_KMS_DEBUG", "true")]).unwrap();
    assert_eq!((rest.len(), foreign.values.len()), (4, 0));
    let (rest, _) = taken("-no-such-flag=1", &[]).unwrap();
    assert_eq!(rest.len(), 2, "clap refuses it");
}

#[test]
fn flags_win_over_variables_of_either_prefix() {
    let variables =
        [("VAULT_KMS_TRANSIT_KEY", "one"), ("VAULT_KUBE_KMS_VAULT_NAMESPACE", "two"), ("VAULT_ADDR", "x")];
    let (_, foreign) = taken("-transit-key=three", &variables).unwrap();
    assert_eq!(value(&foreign, "vault.transit.key"), Some("three"));
    assert_eq!(value(&foreign, "vault.namespace"), Some("two"));
    assert_eq!(value(&foreign, "vault.addresses"), None);
}

#[test]
fn the_method_is_named_or_follows_from_the_credentials() {
    let (_, foreign) =
        taken("-approle-role-id=r -approle-secret-id-path=/s -approle-mount=m -jwt-mount=j", &[]).unwrap();
    assert_eq!(value(&foreign, "vault.auth.method"), Some("approle"));
    assert_eq!(value(&foreign, "vault.auth.mount"), Some("m"), "not that of another method");
    let (_, foreign) = taken("-auth-method=jwt -jwt-mount=j -approle-mount=m -jwt-role=r", &[]).unwrap();
    assert_eq!(value(&foreign, "vault.auth.method"), Some("jwt"));
    assert_eq!(
        (value(&foreign, "vault.auth.mount"), value(&foreign, "vault.auth.role")),
        (Some("j"), Some("r"))
    );
}

#[test]
fn a_secret_becomes_a_file_of_memory_and_a_warning() {
    let (_, foreign) = taken("-token=s3cr3t", &[]).unwrap();
    let path = value(&foreign, "vault.auth.token_file").unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "s3cr3t");
    assert!(!format!("{foreign:?}").contains("s3cr3t"));
    assert!(foreign.warnings.iter().any(|warning| warning.contains("-token is a secret")));
    assert_eq!(value(&foreign, "vault.auth.method"), Some("token"));
}

#[test]
fn paths_levels_ports_and_what_is_obsolete() {
    let (_, foreign) =
        taken("-vault-key-path=kms/transit/keys/k -zap-log-level=2 -metrics-port=0 -token-renewal 3600", &[])
            .unwrap();
    assert_eq!(value(&foreign, "vault.transit.mount"), Some("kms/transit"));
    assert_eq!(value(&foreign, "vault.transit.key"), Some("k"));
    assert_eq!((value(&foreign, "log.level"), value(&foreign, "server.admin")), (Some("debug"), Some("")));
    assert!(foreign.warnings.iter().any(|warning| warning.contains("-token-renewal has no effect")));
    let (_, foreign) = taken("-health-port=8080 -metrics-port=9090", &[]).unwrap();
    assert!(value(&foreign, "server.admin").is_some_and(|admin| admin.ends_with(":8080")));
    assert_eq!(value(&taken("-health-port=0", &[]).unwrap().1, "server.admin"), Some(""));
    assert_eq!(foreign.warnings.len(), 2);
}

#[test]
fn what_means_nothing_is_an_error_that_names_the_flag() {
    for (line, part) in [
        ("-vault-address", "-vault-address needs a value"),
        ("-vault-key-path=k", "transit/keys/kms-key"),
        ("-health-port=many", "is not a port"),
        ("-debug=perhaps", "neither true nor false"),
    ] {
        let Err(failure) = taken(line, &[]) else { panic!("{line}") };
        assert!(failure.to_string().contains(part), "{line}: {failure}");
    }
}

#[test]
fn an_empty_value_is_none_and_variables_have_their_documented_names() {
    let line = "-vault-address=https://v -tls-sni= -tls-ca-file= --vault-auth-namespace= --vault-namespace=a";
    let (rest, foreign) = taken(line, &[("VAULT_KMS_TOKEN", "")]).unwrap();
    assert_eq!(rest, ["kms-plugin", "--vault-namespace=a"], "an empty one would mean the root namespace");
    assert_eq!(foreign.values, [("vault.addresses".to_owned(), "https://v".to_owned())]);
    // Alone it is ours, and means what it says.
    assert_eq!(taken("--vault-auth-namespace=", &[]).unwrap().0, ["kms-plugin", "--vault-auth-namespace="]);
    let variables = [("VAULT_KMS_VAULT_ADDR", "https://v"), ("VAULT_KMS_SERVICE_HOST", "10.0.0.1")];
    let (_, foreign) = taken("", &variables).unwrap();
    assert_eq!(foreign.values, [("vault.addresses".to_owned(), "https://v".to_owned())]);
}

#[test]
fn a_long_flag_with_one_dash_is_one_of_ours_with_two() {
    let (rest, _) = taken("-vault-ca-file=/c -V -h -12", &[]).unwrap();
    assert_eq!(rest, ["kms-plugin", "--vault-ca-file=/c", "-V", "-h", "-12"]);
    assert!(hint("--vault-addres").contains("-vault-address"));
    assert!(!hint("--zzz").contains("One of them"));
}

#[test]
fn what_is_not_given_is_what_that_plugin_assumes() {
    let assumed = |line: &str, variables: &[(&str, &str)]| {
        let defaults = taken(line, variables).unwrap().1.defaults;
        defaults.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
    };
    assert_eq!(assumed("-vault-address=x", &[]), ["/opt/kms/vaultkms.socket", "kms"]);
    assert_eq!(assumed("-vault-address=x -tls-sni=v", &[]), ["/tmp/vault-kube-kms.socket"]);
    let variables = [("VAULT_KUBE_KMS_VAULT_ADDRESS", "x")];
    assert_eq!(assumed("", &variables), ["/tmp/vault-kube-kms.socket"]);
    assert!(assumed("-debug --vault-addresses=x", &[]).is_empty(), "ours, with one of their flags");
}
