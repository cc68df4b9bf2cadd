//! The reader accepts what kube-apiserver's own loader accepts, and nothing else.
//!
//! `tests/corpus/encryption-configurations` has files, each with the loader's verdict in `verdicts.tsv`. With the
//! loaders themselves (`tests/tools` builds them from `tests/encryption-loader`), these and generated files are compared
//! again, for each Kubernetes version.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

/// The versions of Kubernetes whose loaders are compared.
const VERSIONS: [&str; 3] = ["1.34", "1.36", "1.37"];
const GENERATED: usize = 3000;

fn corpus() -> BTreeMap<String, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/encryption-configurations");
    let files = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn the_corpus_is_read_as_the_loader_reads_it() {
    let files = corpus();
    assert!(files.len() >= 150, "{}", files.len());
    let verdicts = include_str!("../../tests/corpus/encryption-configurations/verdicts.tsv");
    let verdicts: BTreeMap<&str, &str> = verdicts
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('\t'))
        .collect();
    assert_eq!(verdicts.keys().copied().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    let mut differences = Vec::new();
    for (name, text) in &files {
        let ours = parse(text);
        if ours.is_ok() != (verdicts[name.as_str()] == "ok") {
            differences.push(format!("{name}: the loader says {:?}, we {ours:?}", verdicts[name.as_str()]));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A loader that `tests/tools` has built, beside the other tools.
fn loader(version: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    target.join(format!("tools/bin/encryption-loader-{version}"))
}

fn verdicts(version: &str, documents: &[String]) -> Vec<String> {
    let mut child = Command::new(loader(version))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}: `tests/run` builds it", loader(version).display()));
    let mut input = child.stdin.take().unwrap();
    let lines: String = documents.iter().map(|text| STANDARD.encode(text) + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(said.len(), documents.len(), "{}", output.status);
    said
}

#[test]
fn the_loaders_of_each_version_agree_with_the_reader() {
    if std::env::var_os("KMS_PLUGIN_TESTS_WITHOUT_GO").is_some_and(|value| value == "1") {
        eprintln!("NOT TESTED: kube-apiserver's own loaders (KMS_PLUGIN_TESTS_WITHOUT_GO=1)");
        return;
    }
    let mut documents: Vec<String> = corpus().into_values().collect();
    documents.extend(generated());
    let ours: Vec<_> = documents.iter().map(|text| parse(text)).collect();
    let accepted = ours.iter().filter(|one| one.is_ok()).count();
    assert!(
        accepted > documents.len() / 10 && accepted < documents.len() * 9 / 10,
        "{accepted} of {}",
        documents.len()
    );
    for version in VERSIONS {
        let said = verdicts(version, &documents);
        let mut differences = Vec::new();
        for ((text, ours), theirs) in documents.iter().zip(&ours).zip(&said) {
            if ours.is_ok() != (theirs == "ok") {
                differences.push(format!("the loader of {version} says {theirs:?}, we {ours:?}:\n{text}"));
            }
        }
        let count = differences.len();
        assert!(differences.is_empty(), "{count} differences\n{}", differences.first().unwrap());
        eprintln!(
            "MEASURED {} files, {accepted} accepted: 0 differences from Kubernetes {version}",
            documents.len()
        );
    }
}

/// Files that are right in most parts. The seed is fixed: a difference can be found again.
fn generated() -> Vec<String> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let files = file();
    (0..GENERATED).map(|_| files.new_tree(&mut runner).unwrap().current()).collect()
}

/// One of these; the first more often than all others together.
fn mostly(good: &'static [&'static str], other: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![
        30 => proptest::sample::select(good).prop_map(str::to_owned),
        1 => proptest::sample::select(other).prop_map(str::to_owned),
    ]
}

fn provider() -> impl Strategy<Value = String> {
    let name = mostly(
        &["a", "b", "c", "d", "e", "f", "2_secrets", "'1'", "\"yes\""],
        &[
            "yes",
            "1",
            "a:b",
            "null",
            "~",
            "''",
            "on",
            "0x1f",
            "1_0",
            "2001-01-01",
            "1.5",
            "n",
            "&x z",
            "!!str 5",
        ],
    );
    let endpoint = mostly(
        &["unix:///run/kms.sock", "unix:/run/kms.sock", "unix:///@kms", "'unix:///run/a b'", "unix://host/x"],
        &[
            "/run/kms.sock",
            "http://x/y",
            "unix://",
            "''",
            "unix",
            "unix:run",
            "UNIX:///x",
            "unix:///%zz",
            "unix://a b/c",
        ],
    );
    let timeout = mostly(
        &[
            "timeout: 3s",
            "",
            "timeout: 1m30s",
            "timeout: 1.5s",
            "timeout: null",
            "timeout: .5h",
            "timeout: +1s",
        ],
        &[
            "timeout: 0s",
            "timeout: -3s",
            "timeout: 3",
            "timeout: ''",
            "timeout: 3 s",
            "timeout: 9999999h",
            "timeout: 1.2.3s",
        ],
    );
    let version = mostly(&["apiVersion: v2"], &["apiVersion: v1", "", "apiVersion: v3", "apiVersion: 2"]);
    let more =
        mostly(&["", ""], &["cachesize: 10", "cachesize: null", "cacheSize: 10", "extra: 1", "Name: x"]);
    let kms =
        (name, endpoint, timeout, version, more).prop_map(|(name, endpoint, timeout, version, more)| {
            let lines = [version, format!("name: {name}"), format!("endpoint: {endpoint}"), timeout, more];
            let lines: Vec<_> =
                lines.iter().filter(|line| !line.is_empty()).map(|line| format!("      {line}\n")).collect();
            format!("  - kms:\n{}", lines.concat())
        });
    let kind = mostly(&["aescbc", "aesgcm", "secretbox"], &["aesctr", "AESCBC"]);
    let secret = mostly(
        &["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB='"],
        &["AAAAAAAAAAAAAAAAAAAAAA==", "AAAA", "?", "''", "null", "7"],
    );
    let key = mostly(&["key1", "k:e", "\"2\""], &["''", "3", "null"]);
    let keys = (kind, key, secret).prop_map(|(kind, key, secret)| {
        format!("  - {kind}:\n      keys:\n      - name: {key}\n        secret: {secret}\n")
    });
    let identity = mostly(
        &["identity: {}"],
        &["identity:", "identity: null", "identity: []", "identity: {a: 1}", "{}", "null"],
    );
    let identity = identity.prop_map(|text| format!("  - {text}\n"));
    prop_oneof![4 => kms, 2 => keys, 3 => identity]
}

fn resource() -> impl Strategy<Value = String> {
    mostly(
        &[
            "secrets",
            "configmaps",
            "pods",
            "deployments.apps",
            "'*.batch'",
            "widgets.example.com",
            "events",
            "routes.route.openshift.io",
        ],
        &[
            "'*'",
            "'*.'",
            "'*.*'",
            "Secrets",
            "secrets.*",
            "events.events.k8s.io",
            "jobs.extensions",
            "''",
            "5",
            "apiserveripinfo",
            "null",
            "no",
        ],
    )
}

fn file() -> impl Strategy<Value = String> {
    let resources = proptest::collection::vec(resource(), 1..3);
    let rule = (resources, proptest::collection::vec(provider(), 1..3)).prop_map(|(resources, providers)| {
        let resources: String = resources.iter().map(|one| format!("  - {one}\n")).collect();
        format!("- resources:\n{resources}  providers:\n{}", providers.concat())
    });
    let head = mostly(
        &["kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n"],
        &[
            "kind: EncryptionConfig\napiVersion: v1\n",
            "kind: EncryptionConfiguration\napiVersion: v1\n",
            "\u{feff}kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n",
            "---\nkind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n",
            "kind: EncryptionConfiguration\nkind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n",
            "kind: EncryptionConfiguration\n",
        ],
    );
    let tail =
        mostly(&["", "# end\n"], &["---\nkind: Other\n", "...\n???\n", "extra: 1\n", "metadata: {}\n"]);
    (head, proptest::collection::vec(rule, 1..3), tail)
        .prop_map(|(head, rules, tail)| format!("{head}resources:\n{}{tail}", rules.concat()))
}

#[test]
fn an_error_holds_nothing_of_the_file() {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
    for text in [
        format!("{head}- providers: s3cr3t\n"),
        format!("{head}- providers: [{{ kms: s3cr3t }}]\n"),
        format!("{head}- providers: [{{ s3cr3t: {{}} }}]\n"),
        format!("{head}- providers: [{{ aescbc: {{ keys: [{{ name: a, secret: s3cr3t }}] }} }}]\n"),
        "s3cr3t".to_owned(),
        "s3cr3t: [".to_owned(),
        "{ \"s3cr3t\"".to_owned(),
        "kind: s3cr3t\n".to_owned(),
    ] {
        let error = parse(&text).map(drop).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let error = read(directory.path()).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "cannot be read: it is a directory");
    let large = directory.path().join("large");
    std::fs::write(&large, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(matches!(read(&large), Err(EncryptionConfigError::TooLarge)));
}

#[test]
fn aliases_cannot_make_a_document_large() {
    let mut text = String::from("a0: &a0 [x, x]\n");
    for level in 1..30 {
        text += &format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1);
    }
    assert!(matches!(parse(&text), Err(EncryptionConfigError::Invalid { .. })));
}

proptest! {
    #[test]
    fn any_text_is_read(text in ".{0,200}") {
        let _verdict = parse(&text);
    }
}
