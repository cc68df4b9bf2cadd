//! The floors of `src/`: each top-level module is a room, each room stands on a floor, and imports go down only.
//!
//! The table below is the rule. `docs/architecture.md` and `src/lib.rs` show the same table to people. Reads files
//! only: needs no server.

#![allow(clippy::restriction)] // a test that fails panics
#![allow(unreachable_pub)] // nobody uses a test program as a library

#[path = "floors/tokens.rs"]
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tokens::{Token, tokens};

/// The floors from the lowest to the highest, and their rooms.
const FLOORS: &[(&str, &[&str])] = &[
    (
        "ground",
        &[
            "clock",
            "display",
            "files",
            "fips",
            "http",
            "process",
            "proto",
            "retry",
            "secret",
            "systemd",
            "telemetry",
            "untrusted",
        ],
    ),
    ("1", &["config"]),
    ("2", &["key_service", "socket", "spiffe"]),
    ("3", &["vault", "embedded", "local_kek", "kubernetes"]),
    ("4", &["etcd", "cluster"]),
    ("5", &["health"]),
    ("6", &["kms", "admin"]),
    ("7", &["agent"]),
    ("8", &["diagnose", "compat", "manifests", "rewrite"]),
    ("9", &["cli"]),
    ("top", &["main", "tools"]),
];

/// The library's name: `src/main.rs` imports by it.
const LIBRARY: &str = "kms_plugin";

/// The text of each file, by its path below `src/`.
type Sources = BTreeMap<String, String>;

#[test]
fn imports_go_down_only() {
    let problems = problems(&sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path()));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_documents_show_the_table() {
    for (file, comment) in [("docs/architecture.md", ""), ("src/lib.rs", "//!")] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert_eq!(shown_table(&text, comment), table(), "the table of floors in {file}");
    }
}

/// All Rust files below `src/`.
fn sources(source: &Path) -> Sources {
    let mut found = Sources::new();
    let mut directories = vec![source.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(source).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// Everything in which the sources differ from the table, a line each.
fn problems(sources: &Sources) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rooms: BTreeSet<String> = sources.keys().filter_map(|path| room_of(path)).collect();
    rooms.extend(sources.get("lib.rs").into_iter().flat_map(|text| declared_rooms(text)));
    for room in rooms.iter().filter(|room| floor_of(room).is_none()) {
        problems.push(format!("src/{room} is on no floor: add it to FLOORS in tests/floors.rs"));
    }
    // From a room to the rooms of its floor that it imports.
    let mut level: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources {
        let Some(room) = room_of(path) else { continue };
        let Some(floor) = floor_of(&room) else { continue };
        for (line, imported) in imports(text) {
            if imported == room {
                continue;
            }
            match floor_of(&imported) {
                None => problems
                    .push(format!("src/{path}:{line}: {room} imports {imported}, which is on no floor")),
                Some(other) if other > floor => problems.push(format!(
                    "src/{path}:{line}: {room} (floor {}) imports {imported} (floor {})",
                    FLOORS[floor].0, FLOORS[other].0
                )),
                Some(other) if other == floor => {
                    level.entry(name(&room)).or_default().insert(imported);
                }
                Some(_) => {}
            }
        }
    }
    problems.extend(circles(&level));
    problems
}

/// The room that a file below `src/` belongs to. `lib.rs` declares the rooms and is in none.
fn room_of(path: &str) -> Option<String> {
    let first = path.split('/').next().unwrap();
    let room = first.strip_suffix(".rs").unwrap_or(first);
    (room != "lib").then(|| room.to_owned())
}

/// The rooms that `lib.rs` declares: one that is written there itself has no file.
fn declared_rooms(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let declared = tokens.windows(2).filter(|pair| pair[0].text == "mod");
    declared.map(|pair| pair[1].text.clone()).collect()
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, rooms)| rooms.contains(&room))
}

/// The room's name as the table has it.
fn name(room: &str) -> &'static str {
    FLOORS.iter().flat_map(|(_, rooms)| rooms.iter()).find(|known| **known == room).unwrap()
}

/// Rooms of one floor that import each other, directly or by others.
fn circles(level: &BTreeMap<&str, BTreeSet<String>>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for start in level.keys() {
        let mut paths = vec![vec![*start]];
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop() {
            for next in level.get(path.last().unwrap()).into_iter().flatten().map(|room| name(room)) {
                if next == *start {
                    let mut members = path.clone();
                    members.sort_unstable();
                    found.insert(format!("a circle on one floor: {}", members.join(", ")));
                } else if seen.insert(next) {
                    paths.push([path.as_slice(), &[next]].concat());
                }
            }
        }
    }
    found.into_iter().collect()
}

/// The rooms that a file names, with the line: `crate::room`, each `room` of `crate::{room, room::part}`, and the same
/// after the library's name.
fn imports(text: &str) -> Vec<(usize, String)> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        // `other::crate` and `self.kms_plugin` are not paths of ours; `$crate` is.
        let begins = at == 0 || !matches!(tokens[at - 1].text.as_str(), "::" | ".");
        let ours = token.text == "crate" || (token.text == LIBRARY && begins);
        if !ours || tokens.get(at + 1).is_none_or(|next| next.text != "::") {
            continue;
        }
        match tokens.get(at + 2) {
            Some(next) if next.text == "{" => found.extend(group(&tokens[at + 3..])),
            Some(next) => found.push((next.line, next.text.clone())),
            None => {}
        }
    }
    found
}

/// The first names of the members of a `{…}` whose inside begins here.
fn group(tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let (mut depth, mut first) = (0, true);
    for token in tokens {
        match token.text.as_str() {
            "}" if depth == 0 => break,
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => first = true,
            text if depth == 0 && first => {
                first = false;
                if text != "self" {
                    found.push((token.line, text.to_owned()));
                }
            }
            _ => {}
        }
    }
    found
}

/// The table as its rows in Markdown.
fn table() -> Vec<String> {
    FLOORS.iter().map(|(floor, rooms)| format!("| {floor} | {} |", rooms.join(", "))).collect()
}

/// The rows of the table of floors in a text whose lines begin with `comment`, without the table's head.
fn shown_table(text: &str, comment: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(comment).unwrap_or("").trim()).collect();
    let blocks = lines.split(|line| !line.starts_with('|'));
    let row = |line: &&str| line.starts_with("| ground |") || line.starts_with("| top |");
    let block = blocks.into_iter().find(|block| block.iter().any(row)).unwrap_or_default();
    let head = block.iter().position(|line| line.starts_with("|--") || line.starts_with("| --"));
    block[head.map_or(0, |head| head + 1)..].iter().map(|row| (*row).to_owned()).collect()
}

/// Small trees that show what the check finds, and what it lets pass.
mod checks {
    use super::*;

    fn problems_of(files: &[(&str, &str)]) -> Vec<String> {
        problems(&files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    #[track_caller]
    fn is_found(files: &[(&str, &str)], problem: &str) {
        assert_eq!(problems_of(files), [problem]);
    }

    #[test]
    fn imports_that_go_down_or_stay_in_the_room_pass() {
        let files = [
            ("main.rs", "use kms_plugin::cli::{self, run};\nfn main() { kms_plugin::telemetry::init(); }"),
            ("lib.rs", "pub mod cli;\npub mod proto { include!(\"x\"); }"),
            ("cli/mod.rs", "use crate::{agent::Agent, config, health::{Ready, Why}};\nuse super::main;"),
            ("agent/core.rs", "use crate::agent::phase;\nuse crate::kms;"),
            ("vault/mod.rs", "use crate::local_kek::Key;"),
        ];
        assert_eq!(problems_of(&files), [""; 0]);
    }

    #[test]
    fn an_import_that_goes_up_is_found() {
        let up = "src/vault/token.rs:2: vault (floor 3) imports agent (floor 7)";
        for text in [
            "\nuse crate::agent::Agent;",
            "\nuse crate::{config::Config, agent};",
            "\npub(crate) use crate::{config::{a, b}, agent::{self, x}};",
            "\nfn f(x: &crate::agent::Agent) {}",
            "\nlet x = crate :: agent::new();",
            "/* a\n*/ #[cfg(test)] mod tests { use crate::agent::Agent; }",
            "\nmacro_rules! m { () => { $crate::agent::new() } }",
            "\nlet c = '\"'; crate::agent::new(); let d = '\"';",
            "\nfn f<'a>(x: &'a str) { crate::agent::f('a') }",
            "\nlet s = \"\\\"\"; crate::agent::new();",
            "\nlet s = br#\"\"\"#; crate::agent::new();",
            "\nuse kms_plugin::agent;",
        ] {
            is_found(&[("vault/token.rs", text)], up);
        }
        is_found(
            &[("config.rs", "use crate::main;")],
            "src/config.rs:1: config (floor 1) imports main (floor top)",
        );
    }

    #[test]
    fn comments_and_strings_are_no_imports() {
        for text in [
            "// use crate::agent;\n//! crate::agent\n/// [`crate::agent`]",
            "/* crate::agent /* nested */ crate::agent */",
            "let s = \"crate::agent\";",
            "let s = \"a\\\" crate::agent\";",
            "let s = r\"\\\"; let t = b\"crate::agent\";",
            "let s = r##\"a\"# crate::agent\"##;",
            "let s = \"two\nlines crate::agent\";",
            "pub(in crate) fn crate_agent() {}",
            "self.kms_plugin::agent()",
        ] {
            assert_eq!(problems_of(&[("vault/mod.rs", text)]), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_circle_on_one_floor_is_found() {
        is_found(
            &[("kms/mod.rs", "use crate::admin;"), ("admin/mod.rs", "use crate::kms::Kms;")],
            "a circle on one floor: admin, kms",
        );
        is_found(
            &[
                ("clock.rs", "use crate::retry::x;"),
                ("retry.rs", "use crate::secret::x;"),
                ("secret.rs", "use crate::{clock, display};"),
                ("display.rs", "use crate::files;"),
            ],
            "a circle on one floor: clock, retry, secret",
        );
    }

    #[test]
    fn a_room_on_no_floor_is_found() {
        let missing = "src/attic is on no floor: add it to FLOORS in tests/floors.rs";
        is_found(&[("attic/mod.rs", "use crate::cli;")], missing);
        is_found(&[("attic.rs", "")], missing);
        is_found(&[("lib.rs", "pub mod attic { }")], missing);
        is_found(&[("cli.rs", "use crate::attic;")], "src/cli.rs:1: cli imports attic, which is on no floor");
    }

    #[test]
    fn the_table_is_found_in_a_text() {
        let rows = table().join("\n");
        let text = format!("# Rooms\n\n| 1 | other |\n\n| Floor | Rooms |\n|---|---|\n{rows}\n\nMore.\n");
        assert_eq!(shown_table(&text, ""), table());
        let comment: String = text.lines().map(|line| format!("//! {line}\n")).collect();
        assert_eq!(shown_table(&comment, "//!"), table());
        assert_ne!(shown_table(&text.replace("| 4 | etcd, cluster |\n", ""), ""), table());
        assert_ne!(
            shown_table(&text.replace("| 4 | etcd, cluster |", "| 4 | etcd, cluster |\n| 4b | attic |"), ""),
            table()
        );
        assert_eq!(shown_table("no table", ""), [""; 0]);
    }

    #[test]
    fn each_room_is_on_one_floor() {
        let all: Vec<_> = FLOORS.iter().flat_map(|(_, rooms)| rooms.iter()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
