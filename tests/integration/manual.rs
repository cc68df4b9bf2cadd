//! What people meet first: the help, the completions of a real bash, and the man pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::agent::{Agent, QUICK, command};
use crate::support::vault::Vault;

fn output(arguments: &[&str]) -> String {
    let output = command().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a bash with the completions offers after this line. The last word is the one that is being typed.
fn offered(directory: &Path, words: &[&str]) -> Vec<String> {
    let script = directory.join("kms-plugin.bash");
    if !script.exists() {
        fs::write(&script, output(&["completions", "bash"])).unwrap();
    }
    // As bash itself calls the function: the command, the current word, the word before.
    let line = "source \"$1\" || exit 1; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_LINE=\"$*\"; COMP_POINT=${#COMP_LINE}; \
                function=$(complete -p kms-plugin | sed -n 's/.* -F \\([^ ]*\\) .*/\\1/p'); \
                \"$function\" kms-plugin \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash")
        .args(["--norc", "-c", line, "bash"])
        .arg(&script)
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_their_flags_and_their_values() {
    let directory = tempfile::tempdir().unwrap();
    let offers = |words: &[&str]| offered(directory.path(), words);
    assert_eq!(offers(&["kms-plugin", "che"]), ["check"]);
    assert_eq!(offers(&["kms-plugin", "check", "--enc"]), ["--encryption-config"]);
    assert_eq!(offers(&["kms-plugin", "check", "--output", ""]), ["text", "json"]);
    assert_eq!(offers(&["kms-plugin", "render", "mach"]), ["machineconfig"]);
    assert_eq!(offers(&["kms-plugin", "render", "static-pod", "--namesp"]), ["--namespace"]);
    assert_eq!(offers(&["kms-plugin", "verify-etcd", "--off"]), ["--offline"]);
    // Every command has completions of its own.
    for sub in ["serve", "dev", "probe", "status", "support-bundle", "config", "reload", "accept-key"] {
        assert!(offers(&["kms-plugin", sub, "--"]).contains(&"--help".to_owned()), "{sub}");
    }
}

#[test]
fn the_help_of_a_command_has_its_own_flags_and_accepts_those_of_the_configuration() {
    let help = output(&["check", "--help"]);
    for flag in ["--peer", "--encryption-config", "--login", "--timeout", "--output", "--config"] {
        assert!(help.contains(&format!("\n      {flag}")), "{flag}: {help}");
    }
    assert!(!help.contains("--vault-addresses") && help.contains("kms-plugin serve --help"), "{help}");
    assert!(help.lines().count() < 80, "{}", help.lines().count());
    assert!(output(&["serve", "--help"]).contains("--vault-addresses"));
    assert!(!output(&["--help"]).contains("--vault-addresses"));
    let set = output(&[
        "config",
        "--output",
        "json",
        "--vault-transit-key",
        "from-a-flag",
        "--vault-addresses",
        "http://127.0.0.1:1",
        "--vault-auth-method",
        "none",
    ]);
    assert!(set.contains("from-a-flag"), "{set}");
}

/// The sections of a page: the heading and the text of each.
fn sections(page: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix(".SH ") {
            sections.push((heading.trim_matches('"').to_owned(), String::new()));
        } else if let Some((_, text)) = sections.last_mut() {
            let plain = ["\\fB", "\\fI", "\\fR"]
                .iter()
                .fold(line.replace("\\-", "-"), |line, font| line.replace(font, ""));
            text.push_str(&(plain + "\n"));
        }
    }
    sections
}

fn section<'a>(sections: &'a [(String, String)], heading: &str) -> &'a str {
    sections
        .iter()
        .find(|(name, _)| name == heading)
        .map(|(_, text)| text.as_str())
        .unwrap_or_else(|| panic!("no {heading}"))
}

/// The names of our pages in a text, with the section of the manual: `kms-plugin-check.8`.
fn named_pages(text: &str) -> BTreeSet<String> {
    let ours = regex::Regex::new(r"kms-plugin[a-z.-]*\([58]\)").unwrap();
    ours.find_iter(text).map(|page| page.as_str().replace('(', ".").replace(')', "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_man_pages_have_their_sections_and_name_only_pages_and_endpoints_that_exist() {
    let directory = tempfile::tempdir().unwrap();
    output(&["man", directory.path().to_str().unwrap()]);
    let mut pages = BTreeSet::new();
    let mut named = BTreeSet::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        named.extend(named_pages(&section_text(&text)));
        pages.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        // What the formatter would complain about.
        let formatted = std::process::Command::new("groff")
            .args(["-k", "-man", "-ww", "-z", "-Tutf8"])
            .arg(&path)
            .output();
        if let Ok(formatted) = formatted {
            assert_eq!(String::from_utf8_lossy(&formatted.stderr), "", "{path:?}");
        }
    }
    let missing: Vec<_> = named.difference(&pages).collect();
    assert!(missing.is_empty() && named.len() > 10, "{missing:?} of {named:?}");

    let text = fs::read_to_string(directory.path().join("kms-plugin.8")).unwrap();
    let overview = sections(&text);
    assert!(section(&overview, "FILES").contains("/etc/kms-plugin/config.toml"));
    assert!(section(&overview, "SIGNALS").contains("SIGHUP"));
    assert!(section(&overview, "SEE ALSO").contains("kms-plugin.toml(5)"));

    // The files and the endpoints are those of a real agent.
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    for file in ["admin.sock", "identity.json"] {
        assert!(section(&overview, "FILES").contains(&format!("/run/kms-plugin/{file}")), "{file}");
        assert!(agent.directory.path().join("run").join(file).exists(), "{file}");
    }
    let endpoints = section(&overview, "ENDPOINTS");
    for line in endpoints.lines().filter(|line| line.starts_with('/')) {
        let (code, body) = agent.admin("GET", line).unwrap();
        assert_eq!(code, 200, "{line}: {body}");
    }
    assert!(endpoints.lines().filter(|line| line.starts_with('/')).count() >= 5, "{endpoints}");
}

fn section_text(page: &str) -> String {
    sections(page).into_iter().map(|(_, text)| text).collect()
}
