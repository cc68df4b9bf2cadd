//! `kms-plugin check` as a test reads it.

use std::path::Path;

use serde_json::Value;

use super::PATIENCE;
use super::agent::command;

/// For checks of a server or an agent that never answers: the check itself must give up.
pub const SILENT: [&str; 2] = ["--timeout", "2s"];

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    pub code: i32,
    pub findings: Vec<Value>,
}

/// Runs it on the configuration in this directory, with a login.
pub fn check(directory: &Path, more: &[&str]) -> Checked {
    let more: Vec<&str> =
        if more.contains(&"--no-login") { more.to_vec() } else { [&["--login"], more].concat() };
    check_without_use(directory, &more)
}

/// Runs it as it is without more arguments: it uses nothing up.
pub fn check_without_use(directory: &Path, more: &[&str]) -> Checked {
    let mut command = command();
    command.args(["check", "--output", "json", "--config"]).arg(directory.join("config.toml")).args(more);
    if !more.contains(&SILENT[0]) {
        command.arg(SILENT[0]).arg(format!("{}s", PATIENCE.as_secs()));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = Checked::read(output.status.code().unwrap(), &text);
    if !nix::unistd::geteuid().is_root() {
        found.forget_that_it_is_not_root();
    }
    found
}

/// Checks until all is well: an agent that stood still reports a fault until its next probe.
pub async fn green_soon(directory: &Path) {
    super::eventually("a good check", async || {
        let found = check(directory, &[]);
        if found.code == 0 { Ok(()) } else { Err(format!("{found:#?}")) }
    })
    .await;
}

impl Checked {
    /// What `--output json` wrote.
    #[track_caller]
    pub fn read(code: i32, text: &str) -> Self {
        let report: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Self { code, findings: report["findings"].as_array().unwrap().clone() }
    }

    /// Removes the warning that the check does not run as root: the tests need no root.
    fn forget_that_it_is_not_root(&mut self) {
        self.findings.retain(|finding| {
            finding["outcome"] != "warn" || !finding.to_string().contains("does not run as root")
        });
        if self.with("warn").is_empty() && self.code == 1 {
            self.code = 0;
        }
    }

    /// The findings with this outcome.
    fn with(&self, outcome: &str) -> Vec<&Value> {
        self.findings.iter().filter(|finding| finding["outcome"] == outcome).collect()
    }

    /// Only these checks fail, and one of them says all these words; nothing else fails falsely.
    #[track_caller]
    pub fn fails(&self, checks: &[&str], words: &[&str]) {
        self.found("fail", checks, words);
        assert_eq!(self.code, 2, "{self:#?}");
    }

    /// Nothing fails, and only these checks warn.
    #[track_caller]
    pub fn warns(&self, checks: &[&str], words: &[&str]) {
        assert!(self.with("fail").is_empty(), "{:#?}", self.with("fail"));
        self.found("warn", checks, words);
        assert_eq!(self.code, 1, "{self:#?}");
    }

    #[track_caller]
    fn found(&self, outcome: &str, checks: &[&str], words: &[&str]) {
        let found = self.with(outcome);
        let mut names: Vec<&str> = found.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
        names.dedup();
        assert_eq!(names, checks, "{found:#?}");
        let says = |finding: &&Value| words.iter().all(|word| finding.to_string().contains(word));
        assert!(found.iter().any(says), "{words:?} in {found:#?}");
        for finding in found {
            for part in ["seen", "why", "remedy", "see"] {
                assert!(finding[part].as_str().is_some_and(|text| !text.is_empty()), "{part}: {finding:#}");
            }
        }
    }

    /// Nothing fails, but for what is not there before an agent was started.
    #[track_caller]
    pub fn is_green(&self) {
        assert!(self.with("fail").is_empty(), "{:#?}", self.with("fail"));
        let warned: Vec<_> =
            self.with("warn").into_iter().filter(|finding| finding["check"] != "socket").collect();
        assert!(warned.is_empty(), "{warned:#?}");
    }

    /// One finding of this check and outcome says all these words.
    #[track_caller]
    pub fn says(&self, check: &str, outcome: &str, words: &[&str]) {
        let found = self.with(outcome);
        let says = |finding: &&Value| {
            finding["check"] == check && words.iter().all(|word| finding.to_string().contains(word))
        };
        assert!(found.iter().any(says), "{words:?} in {:#?}", self.findings);
    }

    /// The outcomes of one check.
    pub fn outcomes(&self, check: &str) -> Vec<&str> {
        let of = |finding: &&Value| finding["check"] == check;
        self.findings.iter().filter(of).map(|finding| finding["outcome"].as_str().unwrap()).collect()
    }
}
