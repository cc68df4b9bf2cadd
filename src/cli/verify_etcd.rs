//! `verify-etcd`: what every object in etcd is encrypted with: is the migration or the rotation finished?

use std::collections::HashSet;
use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::agent_args::AgentArgs;
use super::exit::{Exit, Failure};
use super::report::{self, Output};
use super::runtime;
use crate::diagnose::storage::offline::Offline;
use crate::diagnose::storage::result::{Report, printable};
use crate::diagnose::storage::source::{EndpointArgs, PrefixArgs};
use crate::diagnose::storage::{known, source};
use crate::etcd::Sink;
use crate::etcd::reader::{self, Form};
use crate::etcd::tally::{Known, Tally};

/// Most names that --list shows.
const MAX_LIST: u64 = 10_000;

/// Tell what the objects in etcd are encrypted with: is the migration or the rotation finished?
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads only, decrypts nothing, shows no value. Run it where the agent runs, or name the key_id that everything \
should be under: `kms-plugin probe` shows it.

kubeadm, from etcd itself:
  cd /etc/kubernetes/pki/etcd
  kms-plugin verify-etcd --endpoint https://127.0.0.1:2379 --cacert ca.crt \\
    --cert healthcheck-client.crt --key healthcheck-client.key
or through its pod:
  pki=/etc/kubernetes/pki/etcd
  kubectl -n kube-system exec etcd-NODE -- etcdctl --endpoints https://127.0.0.1:2379 \\
    --cacert $pki/ca.crt --cert $pki/healthcheck-client.crt \\
    --key $pki/healthcheck-client.key \\
    get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -
OpenShift, whose prefixes are others; several calls may go into one pipe:
  for prefix in /kubernetes.io/secrets/ /kubernetes.io/configmaps/ \\
    /openshift.io/routes/ /openshift.io/oauth/accesstokens/ \\
    /openshift.io/oauth/authorizetokens/
  do
    oc -n openshift-etcd exec -c etcdctl etcd-NODE -- \\
      etcdctl get --prefix $prefix -w json
  done | kms-plugin verify-etcd -

-w json is exact. etcdctl's other forms (simple, --print-value-only) put newlines between values that hold \
newlines themselves; they are split where a known beginning of a value follows a newline.

With local KEKs on, it also tells what an API server of this node that is restarted while Vault is away could not \
read; run it as root beside the agent.

Exit codes: 0 finished; 1 not finished: something is plain, under another key, or unrecognised, or with --offline not \
readable in an outage; 64 usage; 69 etcd, or what etcdctl wrote, cannot be read, or holds no object, or it is not \
known what is kept in memory. Without a known key_id: 69 when everything is under KMS v2 and one key_id, else 1.")]
pub(super) struct VerifyEtcdArgs {
    /// Read from stdin what `etcdctl get` wrote: without an endpoint, and where ETCDCTL_ENDPOINTS is set, too
    #[arg(value_name = "-", value_parser = ["-"])]
    stdin: Option<String>,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    prefix: PrefixArgs,
    /// The key_id that everything should be under [default: the running agent's]
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    current_key_id: Option<String>,
    /// The name that the provider should have in EncryptionConfiguration [default: any]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Show the first N objects that are not under the current key
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=MAX_LIST))]
    list: u64,
    /// Not finished, too, when an API server of this node that is restarted while Vault is away could not read
    /// something
    #[arg(long)]
    offline: bool,
    /// How to write the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    agent: AgentArgs,
}

/// Answers the question: yes or no as the exit code.
pub(super) fn run(args: &VerifyEtcdArgs) -> Result<Exit, Failure> {
    let report = runtime()?.block_on(verify(args))?;
    let text = match args.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    };
    report::line(&text)?;
    let unreadable = report.tally.unreadable_offline().filter(|_| args.offline);
    match (report.finished(), unreadable) {
        (Some(false), _) | (_, Some(1..)) => Ok(Exit::Warned),
        // No answer is not a yes: a version may be switched off after it.
        (None, _) => Err(Failure::message(
            Exit::Unavailable,
            "the current key_id is not known: run it as root beside the agent, or name it with --current-key-id (kms-plugin probe shows it)",
        )),
        (Some(true), None) if args.offline => Err(Failure::message(
            Exit::Unavailable,
            "it is not known which keys the agent has in memory: run it as root beside the agent",
        )),
        (Some(true), _) => Ok(Exit::Ok),
    }
}

async fn verify(args: &VerifyEtcdArgs) -> Result<Report, Failure> {
    let from_etcd = args.endpoint.is_given() && args.stdin.is_none();
    if !from_etcd && std::io::stdin().is_terminal() {
        return Err(Failure::message(
            Exit::Usage,
            "nothing to read: name an --endpoint, or pipe it in: etcdctl get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -",
        ));
    }
    if !from_etcd && args.prefix.is_given() {
        let message = "--prefix and --encryption-config choose what is read from an --endpoint; what is piped in is counted as it is";
        return Err(Failure::message(Exit::Usage, message));
    }
    // What can be wrong with the command line, before anybody is asked.
    let prefixes = args.prefix.prefixes()?;
    let etcd = if from_etcd { Some(args.endpoint.etcd()?) } else { None };
    let (known, current, offline) = known(args).await;
    let list = usize::try_from(args.list).unwrap_or_default();
    let mut counting = Counting { tally: Tally::new(known, args.prefix.root(), list), bar: bar(from_etcd) };
    let mut empty = Vec::new();
    let read = match etcd {
        None => from_stdin(&mut counting),
        Some(mut etcd) => {
            let mut outcome = Ok(());
            for prefix in prefixes {
                match etcd.read(&prefix, &mut counting).await {
                    Ok(0) => empty.push(prefix),
                    Ok(_) => {}
                    Err(error) => {
                        outcome = Err(source::explained(error));
                        break;
                    }
                }
            }
            let revision = etcd.revision().unwrap_or_default();
            outcome.map(|()| (format!("{} at revision {revision}", etcd.endpoint()), true))
        }
    };
    counting.bar.finish_and_clear();
    let (source, exact) = read?;
    let tally = counting.tally;
    match tally.objects() {
        0 => Err(Failure::message(Exit::Unavailable, nothing(&empty))),
        _ => Ok(Report { tally, source, exact, current, empty, offline, offline_counts: args.offline }),
    }
}

fn nothing(empty: &[String]) -> String {
    let below = if empty.is_empty() { String::new() } else { format!(" below {}", empty.join(" and ")) };
    format!(
        "no object was found{}, so nothing is proven: are the prefixes right? On OpenShift they begin with /kubernetes.io and /openshift.io (--etcd-prefix /kubernetes.io)",
        printable(&below)
    )
}

fn from_stdin(counting: &mut Counting) -> Result<(String, bool), Failure> {
    match reader::read(std::io::stdin().lock(), counting) {
        Ok(Form::Json) => Ok(("stdin, etcdctl -w json".into(), true)),
        Ok(Form::Simple) => Ok(("stdin, etcdctl -w simple".into(), false)),
        Ok(Form::Values) => Ok(("stdin, etcdctl --print-value-only".into(), false)),
        Err(error) => {
            let exit =
                if matches!(error, reader::ReadError::NoForm) { Exit::Usage } else { Exit::Unavailable };
            let message = printable(&error.to_string());
            Err(match error {
                reader::ReadError::Io(cause) => Failure::new(exit, cause).context(message),
                _ => Failure::message(exit, message),
            })
        }
    }
}

/// Which key_ids are ours and which keys are in memory, and how that is known.
async fn known(args: &VerifyEtcdArgs) -> (Known, String, Offline) {
    let agent = args.agent.client(known::TIMEOUT);
    let status = agent.status().await;
    let (offline, mut kept) = Offline::ask(&status, &agent).await;
    if args.offline && matches!(offline, Offline::Off) {
        kept = Some(HashSet::new());
    }
    let unknown = |why: &str| printable(&format!("unknown: {why}; see --current-key-id and --runtime-dir"));
    let (known, current) = match (&args.current_key_id, &status) {
        (Some(current), _) => {
            let source = format!("{}, from the command line", printable(current));
            (Known { current: Some(current.clone()), ..Known::default() }, source)
        }
        (None, Ok(status)) => match known::from_status(status) {
            Some(known) => {
                let current = known.current.as_deref().unwrap_or_default();
                let source = format!("{current}, from the running agent");
                (known, source)
            }
            None => (
                Known::default(),
                unknown("the agent does not know its key yet (kms-plugin.service starts?)"),
            ),
        },
        (None, Err(error)) => (Known::default(), unknown(&error.to_string())),
    };
    (Known { provider: args.provider.clone(), kept, ..known }, current, offline)
}

/// Counts, and shows that it does.
struct Counting {
    tally: Tally,
    bar: ProgressBar,
}

impl Sink for Counting {
    fn expect(&mut self, objects: u64) {
        self.bar.inc_length(objects);
    }

    fn object(&mut self, key: Option<&[u8]>, value: &[u8]) {
        self.tally.add(key, value);
        self.bar.inc(1);
    }
}

/// Progress on a terminal only; how much there is to come is known of etcd alone.
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
