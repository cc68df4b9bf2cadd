//! `verify-etcd`: what is every object in etcd encrypted with? Is the migration or the rotation finished?

mod args;
mod failure;

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(in crate::cli) use self::args::EndpointArgs;
use self::args::{PrefixArgs, QuestionArgs};
pub(in crate::cli) use self::failure::failure as storage_failure;
use super::agent_args::AgentArgs;
use super::block_on;
use super::exit::{Exit, Failure};
use super::report::{self, Output};
use crate::diagnose::verify_etcd::{self, Answer, Options, Progress, Report, Selection, Source};

/// Most names that --list shows.
const MAX_LIST: u64 = 10_000;

/// Show what the objects in etcd are encrypted with: is the migration or the rotation finished?
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Only reads: decrypts nothing and shows no value. Run it on the agent's node, or pass the key_id that every object \
should have: `kms-plugin probe` shows it.

kubeadm, directly from etcd:
  cd /etc/kubernetes/pki/etcd
  kms-plugin verify-etcd --endpoint https://127.0.0.1:2379 --cacert ca.crt \\
    --cert healthcheck-client.crt --key healthcheck-client.key
or with etcdctl in etcd's pod:
  pki=/etc/kubernetes/pki/etcd
  kubectl -n kube-system exec etcd-NODE -- etcdctl --endpoints https://127.0.0.1:2379 \\
    --cacert $pki/ca.crt --cert $pki/healthcheck-client.crt \\
    --key $pki/healthcheck-client.key \\
    get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -
OpenShift has other prefixes. One pipe may hold the output of several calls:
  for prefix in /kubernetes.io/secrets/ /kubernetes.io/configmaps/ \\
    /openshift.io/routes/ /openshift.io/oauth/accesstokens/ \\
    /openshift.io/oauth/authorizetokens/
  do
    oc -n openshift-etcd exec -c etcdctl etcd-NODE -- \\
      etcdctl get --prefix $prefix -w json
  done | kms-plugin verify-etcd -

-w json is exact. etcdctl's other forms (simple, --print-value-only) put newlines between values, which contain \
newlines themselves. They are split where a known beginning of a value follows a newline.

--may-remove, --may-raise-min-version N and --may-trim N answer whether that step is safe now, from every object in \
etcd. --can-read-seeds lets the running agent unwrap every DEK seed, as an API server does: can its Vault read this \
etcd, or this restored backup? For these, the exit codes are: 0 yes, 1 no, 69 something is not known.

With local KEKs on, it also shows which objects an API server of this node could not read after a restart while \
Vault is unreachable. Run it as root on the agent's node.

Exit codes: 0 finished; 1 not finished: an object is plain, under another key, or unrecognised, or with --offline \
not readable in an outage; 64 usage; 69 etcd or the input cannot be read, or has no object, or with --offline the \
keys in the agent's memory are not known. When the current key_id is not known: 69 if every object is under KMS v2 \
and all have the same key_id, else 1.")]
pub(super) struct VerifyEtcdArgs {
    /// Read the output of `etcdctl get` from stdin. Needed only where ETCDCTL_ENDPOINTS is set
    #[arg(value_name = "-", value_parser = ["-"])]
    stdin: Option<String>,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    prefix: PrefixArgs,
    #[command(flatten)]
    question: QuestionArgs,
    /// The key_id that every object should have [default: the running agent's]
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    current_key_id: Option<String>,
    /// The name that the provider should have in EncryptionConfiguration [default: any]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// List the first N objects that are not under the current key, or not readable in an outage
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=MAX_LIST))]
    list: u64,
    /// Also check that an API server of this node could read every object after a restart while Vault is unreachable
    #[arg(long)]
    offline: bool,
    /// Format of the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    agent: AgentArgs,
}

/// Prints the report. The exit code is the verdict.
pub(super) fn run(args: &VerifyEtcdArgs) -> Result<Exit, Failure> {
    let report = block_on(verify(args))??;
    let text = match args.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    };
    report::line(&text)?;
    if let Some(worst) = worst(&report) {
        return worst;
    }
    let unreadable = report.tally.unreadable_offline().filter(|_| args.offline);
    match (report.finished(), unreadable) {
        (Some(false), _) | (_, Some(1..)) => Ok(Exit::Warned),
        // Unknown is not success: after a success, an administrator may disable an old version.
        (None, _) => Err(Failure::message(
            Exit::Unavailable,
            "the current key_id is not known: run the command as root on the agent's node, or pass --current-key-id (kms-plugin probe shows it)",
        )),
        (Some(true), None) if args.offline => Err(Failure::message(
            Exit::Unavailable,
            "it is not known which keys the agent has in memory: run the command as root on the agent's node",
        )),
        (Some(true), _) => Ok(Exit::Ok),
    }
}

/// The exit code of the answers; `None` when nothing was asked.
fn worst(report: &Report) -> Option<Result<Exit, Failure>> {
    let has = |answer| report.answers.iter().any(|one| one.answer == answer);
    if report.answers.is_empty() {
        None
    } else if has(Answer::No) {
        Some(Ok(Exit::Warned))
    } else if has(Answer::Unknown) {
        Some(Err(Failure::message(Exit::Unavailable, "a question could not be judged: see above")))
    } else {
        Some(Ok(Exit::Ok))
    }
}

async fn verify(args: &VerifyEtcdArgs) -> Result<Report, Failure> {
    let from_etcd = args.endpoint.is_given() && args.stdin.is_none();
    if !from_etcd && std::io::stdin().is_terminal() {
        return Err(Failure::message(
            Exit::Usage,
            "nothing to read: give an --endpoint, or use a pipe: etcdctl get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -",
        ));
    }
    if !from_etcd && args.prefix.is_given() {
        let message = "--prefix selects what is read from an --endpoint; all objects of a pipe are counted";
        return Err(Failure::message(Exit::Usage, message));
    }
    let questions = args.question.questions().map_err(failure::failure)?;
    if questions.any() && args.prefix.is_given() {
        return Err(Failure::message(Exit::Usage, "a question is about all of etcd: leave out --prefix"));
    }
    let source = match from_etcd {
        true if questions.any() => Source::Etcd(args.endpoint.endpoints()?, Selection::Whole),
        true => Source::Etcd(args.endpoint.endpoints()?, args.prefix.selection()),
        false => Source::Stream(std::io::stdin().lock()),
    };
    let options = Options {
        root: args.prefix.root().to_owned(),
        current_key_id: args.current_key_id.clone(),
        provider: args.provider.clone(),
        list: usize::try_from(args.list).unwrap_or_default(),
        offline: args.offline,
        configurations: args.prefix.configurations().map_err(failure::failure)?,
        questions,
        complete: args.question.complete,
    };
    let agent = args.agent.client(verify_etcd::AGENT_TIMEOUT);
    let mut bar = Bar(bar(from_etcd));
    let report = verify_etcd::verify(source, &options, &agent, &mut bar).await;
    bar.0.finish_and_clear();
    report.map_err(failure::failure)
}

/// Shows the progress.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn expect(&mut self, objects: u64) {
        self.0.inc_length(objects);
    }

    fn object(&mut self) {
        self.0.inc(1);
    }
}

/// A progress bar, if stderr is a terminal. Only etcd itself says how many objects will come.
fn bar(from_etcd: bool) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let (length, template) = match from_etcd {
        true => (Some(0), "{human_pos}/{human_len} objects, {per_sec} {wide_bar}"),
        false => (None, "{human_pos} objects, {per_sec}"),
    };
    let style = ProgressStyle::with_template(template);
    ProgressBar::with_draw_target(length, target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
