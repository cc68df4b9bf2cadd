//! The files of the corpus: one answer each. src/vault/corpus_tests.rs reads them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::Call;
use crate::placeholders;
use crate::server::{RawAnswer, Server};
use crate::support::product::Product;

/// The headers that a classification could need. Others change with each answer, or say nothing.
const HEADERS: [&str; 8] = [
    "content-type",
    "location",
    "retry-after",
    "server",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-vault-index",
];
/// The headers that count time or requests: a recorded number stays, as long as there is one.
const COUNTERS: [&str; 3] = ["retry-after", "x-ratelimit-remaining", "x-ratelimit-reset"];

/// One file.
#[derive(Serialize, Deserialize)]
struct Answer {
    server: String,
    version: String,
    state: String,
    source: String,
    request: Request,
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
    /// Decided by people; tests/corpus/README.md defines the words.
    verdict: String,
    /// Why the verdict is right, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Request {
    call: String,
    method: String,
    path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
}

/// Writes the answers of one product.
pub struct Recorder {
    pub product: Product,
    version: String,
    folder: PathBuf,
    names: RefCell<Vec<String>>,
    pub news: RefCell<Vec<String>>,
}

/// A state of a server, whose answers go into files that begin with its name.
pub struct State<'a> {
    recorder: &'a Recorder,
    name: String,
    words: String,
}

impl Recorder {
    pub fn new(product: Product, version: &str) -> Self {
        let name = if product == Product::OpenBao { "openbao" } else { "vault" };
        let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/answers");
        let folder = corpus.join(format!("{name}-{version}"));
        fs::create_dir_all(&folder).unwrap();
        let (names, news) = (RefCell::default(), RefCell::default());
        Self { product, version: version.to_owned(), folder, names, news }
    }

    /// `words` say what an administrator sees or has done.
    pub fn state(&self, name: &str, words: &str) -> State<'_> {
        State { recorder: self, name: name.to_owned(), words: words.to_owned() }
    }

    /// Files of earlier runs that this one did not write. Only of interest after all groups.
    pub fn stale(&self) -> Vec<String> {
        let names = self.names.borrow();
        let files = fs::read_dir(&self.folder).unwrap();
        let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        files.filter(|file| !names.iter().any(|name| format!("{name}.json") == *file)).collect()
    }

    fn write(&self, name: String, state: &str, call: &Call, answer: RawAnswer) {
        assert!(!self.names.borrow().contains(&name), "{name} is recorded twice");
        let file = self.folder.join(format!("{name}.json"));
        let before: Option<Answer> =
            fs::read_to_string(&file).ok().map(|text| serde_json::from_str(&text).unwrap());
        let recorded = |header: &str| before.as_ref().and_then(|before| before.headers.get(header)).cloned();
        let headers = answer.headers.iter().filter(|(header, _)| HEADERS.contains(&header.as_str())).map(
            |(header, value)| {
                let counted = COUNTERS.contains(&header.as_str()).then(|| recorded(header)).flatten();
                (header.clone(), counted.unwrap_or_else(|| placeholders::replace(value)))
            },
        );
        let body = placeholders::replace(&answer.body);
        let new = Answer {
            server: self.product.name().to_owned(),
            version: self.version.clone(),
            state: state.to_owned(),
            source: "recorded".into(),
            request: Request {
                call: call.kind.to_owned(),
                method: call.method.to_string(),
                path: call.path.clone(),
                namespace: call.namespace.clone(),
            },
            status: answer.status,
            headers: headers.collect(),
            body: match &before {
                // The order of the fields of some answers is another each time.
                Some(before) if same_json(&before.body, &body) => before.body.clone(),
                _ => body,
            },
            verdict: before.as_ref().map_or(String::new(), |before| before.verdict.clone()),
            note: before.as_ref().and_then(|before| before.note.clone()),
        };
        if before.is_none_or(|before| before.status != new.status || before.body != new.body) {
            self.news.borrow_mut().push(format!("{name}: {} {}", new.status, new.body.trim()));
        }
        fs::write(file, serde_json::to_string_pretty(&new).unwrap() + "\n").unwrap();
        self.names.borrow_mut().push(name);
    }
}

impl State<'_> {
    /// Sends the call and writes its answer into `STATE-CALL.json`.
    pub async fn ask(&self, server: &Server, call: Call) {
        let answer = server.send(&call).await;
        self.keep(&call, answer);
    }

    /// Writes the answer to a call that was sent already.
    pub fn keep(&self, call: &Call, answer: RawAnswer) {
        let name = format!("{}-{}", self.name, call.kind.replace('_', "-"));
        self.recorder.write(name, &self.words, call, answer);
    }

    pub async fn ask_all(&self, server: &Server, calls: Vec<Call>) {
        for call in calls {
            self.ask(server, call).await;
        }
    }
}

fn same_json(one: &str, other: &str) -> bool {
    let parse = |text| serde_json::from_str::<Value>(text);
    matches!((parse(one), parse(other)), (Ok(one), Ok(other)) if one == other)
}
