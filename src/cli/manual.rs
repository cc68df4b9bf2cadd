//! `completions` and `man`: shell completions and man pages, made from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use roff::{Roff, bold, italic, roman};

use super::exit::{Exit, Failure};
use super::{command, overview, report};
use crate::config::schema::KEYS;

/// The name of the command that people type.
const NAME: &str = "kms-plugin";
/// Section of the manual: commands for the administrator.
const SECTION: &str = "8";

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "For the current bash: source <(kms-plugin completions bash)")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write the man pages
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Directory for the pages; it must exist
    directory: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    report::line(repaired(&script).trim_end())
}

/// The script for bash of clap_complete 4.6 sets `cmd=kms__plugin__subcmd__check` and then looks for
/// `kms__subcmd__plugin__subcmd__check`: it takes the hyphen in our name for the end of a command.
fn repaired(script: &str) -> String {
    script.replace("kms__subcmd__plugin", "kms__plugin")
}

pub(super) fn man(args: &ManArgs) -> Result<(), Failure> {
    let mut command = without_help(command());
    command.build();
    // The flags of the default command are on the page of `serve`.
    let root = command.mut_args(|arg| if arg.get_id() == "help" { arg } else { arg.hide(true) });
    pages(&root, NAME, &args.directory)?;
    write(&args.directory.join("kms-plugin.toml.5"), &configuration().to_roff())
}

/// Without the command `help`, which has no page: `--help` shows the same.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

/// Writes the page of a command, and one for each of its subcommands.
fn pages(command: &Command, name: &str, directory: &Path) -> Result<(), Failure> {
    let page = clap_mangen::Man::new(command.clone().name(name.to_owned()))
        .section(SECTION)
        .source(concat!("kms-plugin ", env!("CARGO_PKG_VERSION")))
        .manual("Kubernetes KMS v2 plugin");
    let mut text = Vec::new();
    page.render(&mut text).map_err(|error| Failure::new(Exit::Internal, error))?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    let mut more = Roff::default();
    match name {
        NAME => overview::sections(&mut more),
        _ => overview::see_also(&mut more, &[(NAME, SECTION), ("kms-plugin.toml", "5")]),
    }
    text.push_str(&more.to_roff());
    write(&directory.join(format!("{name}.{SECTION}")), &text)?;
    let mut shown = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    shown.try_for_each(|sub| pages(sub, &format!("{name}-{}", sub.get_name()), directory))
}

/// The page of the configuration file.
fn configuration() -> Roff {
    let mut page = Roff::default();
    page.control("TH", ["kms-plugin.toml", "5", "", "kms-plugin", "Kubernetes KMS v2 plugin"]);
    page.control("SH", ["NAME"]);
    page.text([roman("kms-plugin.toml - configuration of kms-plugin(8)")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("Read from "),
        italic("/etc/kms-plugin/config.toml"),
        roman(", then "),
        italic("/etc/kms-plugin/config.d/*.toml"),
        roman(
            " in the order of their names, then variables, then flags; a later layer overrides an earlier one. kms-plugin-config(8) shows the result.",
        ),
    ]);
    page.control("SH", ["KEYS"]);
    for key in KEYS {
        page.control("TP", []);
        page.text([bold(key.path)]);
        let default = key.shown_default().map(|default| format!(" Default: {default}.")).unwrap_or_default();
        page.text([
            roman(format!("{}.{default} Variable: ", key.help)),
            italic(key.variable()),
            roman("; flag: "),
            italic(format!("--{}", key.flag())),
            roman("."),
        ]);
    }
    let related = [(NAME, SECTION), ("kms-plugin-config", SECTION), ("systemd.exec", "5")];
    overview::see_also(&mut page, &related);
    page
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| {
        Failure::new(Exit::Unavailable, error).context(format!("{} cannot be written", path.display()))
    })
}
