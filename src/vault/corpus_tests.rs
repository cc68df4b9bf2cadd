//! Replays the corpus: what servers and proxies really answered, from a socket, through the code that sends the call.
//! tests/corpus/README.md describes the files, and defines the verdicts.

mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use replay::{Files, replay};

/// The classes. tests/corpus/README.md defines each.
const VERDICTS: [&str; 18] = [
    "ok",
    "outage",
    "sealed",
    "standby",
    "dr_secondary",
    "throttled",
    "denied",
    "token_dead",
    "credentials_refused",
    "key_missing",
    "key_soft_deleted",
    "key_unusable",
    "version_ahead",
    "version_gone",
    "bad_ciphertext",
    "not_vault",
    "wrong_setting",
    "own_fault",
];
/// The issues that mend what is classified wrongly.
const ISSUES: [&str; 2] = [
    "One judge: the agent's verdict on its key service in one place, fresh, bounded, and proven by simulation",
    "Every way to a key service that people have: clusters, balancers, proxies, namespaces, SPIFFE; and words that name the true cause",
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
    today: Option<Today>,
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

/// How the code classifies it where that is wrong, and the issue that mends it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Today {
    class: String,
    issue: String,
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
        check(VERDICTS.contains(&answer.verdict.as_str()), "the verdict is none of the classes");
        check(answer.state.len() >= 10 && answer.state.len() <= 120, "the state is not told");
        check(!answer.server.is_empty() && !answer.version.is_empty(), "server and version");
        let recorded = answer.source == "recorded";
        check(recorded || answer.source.starts_with("https://"), "the source is neither recorded nor a URL");
        check(recorded != answer.name.starts_with("documents/"), "only documents/ has other sources");
        check(["GET", "POST"].contains(&answer.request.method.as_str()), "the method");
        check(!answer.request.path.is_empty() && answer.request.namespace.len() < 40, "path and namespace");
        check((100..600).contains(&answer.status), "the status");
        check(answer.note.len() <= 400, "the note is long");
        if let Some(today) = &answer.today {
            check(today.class != answer.verdict, "today's class is the verdict: remove the mark");
            check(VERDICTS.contains(&today.class.as_str()), "today's class is none of the classes");
            check(ISSUES.contains(&today.issue.as_str()), "the issue is not one of the list");
        }
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

#[tokio::test]
async fn every_answer_gets_its_class() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let answers = answers();
    let replays = answers.iter().map(|answer| replay(answer, &files));
    let mut wrong = Vec::new();
    for (answer, given) in answers.iter().zip(futures_util::future::join_all(replays).await) {
        let expected = answer.today.as_ref().map_or(&answer.verdict, |today| &today.class);
        if given.class != expected {
            let mark = if answer.today.is_some() { " (today)" } else { "" };
            wrong.push(format!(
                "{}: {expected}{mark} is expected, {} is given: {}",
                answer.name, given.class, given.reason
            ));
        }
        let long = given.reason.chars().count() > MAX_REASON || given.remedy.chars().count() > MAX_REASON;
        if long || given.reason.chars().any(char::is_control) {
            wrong.push(format!("{}: a long reason, or not one line: {:?}", answer.name, given.reason));
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    let classes: BTreeSet<_> = answers.iter().map(|answer| answer.verdict.as_str()).collect();
    assert_eq!(classes, BTreeSet::from(VERDICTS), "the corpus has an answer of each class");
}
