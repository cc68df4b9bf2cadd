//! Replays the corpus: what servers and proxies really answered, through the classification; and some of it from a
//! socket, through the code that sends the call. tests/corpus/README.md describes the files, and defines the verdicts.

mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;
use url::Url;

use super::classification::{Call, Class, Judgement, Received, Refusal};
use replay::{Files, replay};

/// The classes by their names. tests/corpus/README.md defines each.
const VERDICTS: [(&str, Class); 18] = [
    ("ok", Class::Ok),
    ("outage", Class::Outage),
    ("sealed", Class::Sealed),
    ("standby", Class::Standby),
    ("dr_secondary", Class::DrSecondary),
    ("throttled", Class::Throttled),
    ("not_vault", Class::NotVault),
    ("own_fault", Class::OwnFault),
    ("denied", Class::Denied),
    ("token_dead", Class::TokenDead),
    ("credentials_refused", Class::CredentialsRefused),
    ("wrong_setting", Class::WrongSetting),
    ("key_missing", Class::KeyMissing),
    ("key_soft_deleted", Class::KeySoftDeleted),
    ("key_unusable", Class::KeyUnusable),
    ("version_ahead", Class::VersionAhead),
    ("version_gone", Class::VersionGone),
    ("bad_ciphertext", Class::BadCiphertext),
];
/// Longest reason, in characters: the server's text has at most 300 of them, with path and address before it.
const MAX_REASON: usize = 480;
/// Fewest answers.
const ENOUGH: usize = 80;

/// One file of the corpus.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    #[serde(skip)]
    name: String,
    server: String,
    version: String,
    state: String,
    source: String,
    request: Sent,
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
    verdict: String,
    #[serde(default)]
    note: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    call: String,
    method: String,
    path: String,
    #[serde(default)]
    namespace: String,
}

impl Answer {
    fn verdict(&self) -> Class {
        let found = VERDICTS.iter().find(|(name, _)| *name == self.verdict);
        found.unwrap_or_else(|| panic!("{}: {} is not a class", self.name, self.verdict)).1
    }

    fn call(&self) -> Call {
        match self.request.call.as_str() {
            "login" => Call::Login,
            "renew" => Call::Renew,
            "lookup" => Call::Lookup,
            "encrypt" => Call::Encrypt,
            "decrypt" => Call::Decrypt,
            "read_key" => Call::ReadKey,
            "capabilities" => Call::Capabilities,
            "wrapping_lookup" => Call::WrappingLookup,
            "unwrap" => Call::Unwrap,
            "health" | "plain_health" => Call::Health,
            other => panic!("{}: {other} is not a call of the agent", self.name),
        }
    }

    /// Whether the answer is good, and what it says is not: the login compares the mount with the configured one.
    fn is_for_the_login(&self) -> bool {
        self.call() == Call::WrappingLookup && self.status == 200
    }

    fn judge(&self) -> Judgement {
        let base = Url::parse("http://vault.example:8200").unwrap();
        let location = self.headers.get("location").filter(|_| (300..400).contains(&self.status));
        Judgement::of(&Received {
            call: self.call(),
            base: &base,
            path: &self.request.path,
            status: self.status,
            location: location.map(String::as_str),
            body: self.body.as_bytes(),
        })
    }
}

fn answers() -> Vec<Answer> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/answers");
    let entries = |folder: &Path| {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort_unstable();
        paths
    };
    let files = entries(&corpus).into_iter().flat_map(|folder| entries(&folder));
    let read = |file: PathBuf| {
        let name = file.strip_prefix(&corpus).unwrap().display().to_string();
        let answer = serde_json::from_str(&fs::read_to_string(&file).unwrap());
        Answer { name: name.clone(), ..answer.unwrap_or_else(|cause| panic!("{name}: {cause}")) }
    };
    files.map(read).collect()
}

#[test]
fn the_corpus_is_well_formed() {
    let answers = answers();
    assert!(answers.len() >= ENOUGH, "only {} answers", answers.len());
    let mut wrong = Vec::new();
    for answer in &answers {
        let mut check = |right: bool, what: &str| {
            if !right {
                wrong.push(format!("{}: {what}", answer.name));
            }
        };
        check(VERDICTS.iter().any(|(name, _)| *name == answer.verdict), "the verdict is none of the classes");
        check(answer.state.len() >= 10 && answer.state.len() <= 120, "the state is not told");
        check(!answer.server.is_empty() && !answer.version.is_empty(), "server and version");
        let recorded = answer.source == "recorded";
        check(recorded || answer.source.starts_with("https://"), "the source is neither recorded nor a URL");
        check(recorded != answer.name.starts_with("documents/"), "only documents/ has other sources");
        check(["GET", "POST"].contains(&answer.request.method.as_str()), "the method");
        check(!answer.request.path.is_empty() && answer.request.namespace.len() < 40, "path and namespace");
        check((100..600).contains(&answer.status), "the status");
        check(answer.note.len() <= 400, "the note is long");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A judge sees the call, status, headers and body. It cannot know the state behind them.
#[test]
fn the_same_answer_to_the_same_call_has_the_same_verdict() {
    let mut seen: BTreeMap<_, Answer> = BTreeMap::new();
    for answer in answers() {
        let json = answer.headers.get("content-type").is_some_and(|kind| kind.contains("json"));
        let location = answer.headers.get("location").cloned();
        let key = (answer.request.call.clone(), answer.status, json, location, answer.body.clone());
        let first = seen.entry(key).or_insert_with(|| answer.clone());
        assert_eq!(first.verdict, answer.verdict, "{} and {}", first.name, answer.name);
    }
}

#[test]
fn the_corpus_holds_no_secret_and_names_no_machine() {
    let secret = Regex::new(
        r"(?x) \b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}
        | \b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b
        | vault:v\d+:[A-Za-z0-9+/=]{20,}
        | eyJ[A-Za-z0-9_-]{20,}
        | PRIVATE\ KEY
        | (?:/home|/root|/tmp|/dev/shm|/work)/",
    );
    let secret = secret.unwrap();
    let placeholder = Regex::new(
        r"^(?:\w+\.A+|0{8}-0{4}-4000-8000-0{12}|vault:v\d+:A+|eyJjbHVzdGVyIjoiMDAwMDAwMDAtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAwIiwidmFsdWUiOiIxIn0)$",
    );
    let placeholder = placeholder.unwrap();
    for answer in answers() {
        let headers = answer.headers.values().cloned().collect::<Vec<_>>().join("\n");
        for found in secret.find_iter(&format!("{headers}\n{}", answer.body)) {
            assert!(placeholder.is_match(found.as_str()), "{}: {}", answer.name, found.as_str());
        }
    }
}

#[test]
fn every_answer_gets_its_class() {
    let answers = answers();
    let mut wrong = Vec::new();
    for answer in answers.iter().filter(|answer| !answer.is_for_the_login()) {
        let judgement = answer.judge();
        let (given, kind) = (judgement.class(), judgement.cause().kind());
        if given != answer.verdict() {
            wrong.push(format!("{}: {} is expected, {given:?} is given", answer.name, answer.verdict));
        }
        if given == Class::Ok {
            continue;
        }
        let error = judgement.failure("https://vault.example:8200").unwrap_or_else(|| {
            let (path, address_name) = (answer.request.path.clone(), "https://vault.example:8200".to_owned());
            let refusal = Refusal { judgement, path, address: 0, address_name };
            refusal.of_login("using transit/keys/kms-key", "write a new secret-id")
        });
        assert_eq!(Some(error.kind()), kind, "{}", answer.name);
        let (reason, remedy) = (error.to_string(), error.remedy().to_owned());
        let long = reason.chars().count() > MAX_REASON || remedy.chars().count() > MAX_REASON;
        if long || remedy.is_empty() || reason.chars().any(char::is_control) {
            wrong.push(format!("{}: a long reason, no remedy, or not one line: {reason:?}", answer.name));
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    let classes: BTreeSet<_> = answers.iter().map(Answer::verdict).collect();
    assert_eq!(classes, VERDICTS.map(|(_, class)| class).into(), "the corpus has an answer of each class");
}

/// One answer of each kind, from a socket to the code that sends such a call: the callers act on the class.
#[tokio::test]
async fn the_callers_act_on_the_class() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let mut seen = BTreeSet::new();
    let mut answers = answers();
    // The agent sends no login to a path that does not begin with auth/.
    answers.retain(|answer| answer.call() != Call::Login || Call::of(&answer.request.path) == Call::Login);
    answers.retain(|answer| seen.insert((answer.request.call.clone(), answer.verdict(), answer.status)));
    let replays = answers.iter().map(|answer| replay(answer, &files));
    let mut wrong = Vec::new();
    for (answer, given) in answers.iter().zip(futures_util::future::join_all(replays).await) {
        // A call to Transit tells a refusal that no policy can mend by its cause.
        let (kind, by_cause) = (answer.verdict().kind(), answer.judge().cause().kind());
        if given != kind && given != by_cause {
            wrong.push(format!("{}: {kind:?} is expected, {given:?} is given", answer.name));
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
}
