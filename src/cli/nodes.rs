//! `nodes`: the agents of all nodes side by side, and on request the API servers.

use std::path::PathBuf;

use super::agent_args::AgentArgs;
use super::block_on;
use super::cluster_args::ClusterArgs;
use super::exit::{Exit, Failure};
use super::report::{self, Output};
use super::rewrite::nodes;
use crate::rewrite::fleet::Fleet;
use crate::rewrite::{Expectation, Server, look};

/// Show the agents of all control plane nodes side by side: do they agree?
#[derive(Debug, clap::Args)]
#[command(after_help = "\
On each node: kms-plugin status --output json > NODE.json; over ssh:
  for node in node-1 node-2 node-3; do ssh $node kms-plugin status --output json > $node.json; done
  kms-plugin nodes node-?.json
Where the agents are pods: kubectl -n kube-system exec kms-plugin-NODE -- /kms-plugin status --output json > NODE.json

--ask-api-servers also asks each API server, at its own address, whether it has the key_id of the nodes. Where the nodes \
have no common key_id, or none is known, it shows which one each API server has, and whether that is the same.

Exit codes: 0 they agree; 1 they differ in something that prevents nothing (version, configuration); 2 they announce \
different key_ids, or one cannot take part, or an API server has another key_id; 69 nothing is known of any node, and no API server is asked.")]
pub(super) struct NodesArgs {
    /// The output of `kms-plugin status --output json`, once for each node. The agent of this node is asked in any case
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ask each API server, too
    #[arg(long)]
    ask_api_servers: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &NodesArgs) -> Result<Exit, Failure> {
    block_on(async {
        let nodes = nodes(&args.files, &args.agent).await?;
        if nodes.is_empty() && !args.ask_api_servers {
            return Err(Failure::message(
                Exit::Unavailable,
                "nothing is known of any node: name the files with their status (kms-plugin status --output json), or run the command as root on a node; --ask-api-servers compares the API servers alone",
            ));
        }
        let fleet = Fleet::of(&nodes);
        let servers = match args.ask_api_servers {
            true => ask(args, fleet.key_id()).await?,
            false => Vec::new(),
        };
        report::line(&match args.output {
            Output::Text => {
                let fleet =
                    if nodes.is_empty() { "nothing is known of any node".into() } else { fleet.text() };
                fleet + &text(&servers)
            }
            Output::Json => {
                let mut json = serde_json::to_value(&fleet).unwrap_or_default();
                if let Some(object) = json.as_object_mut() {
                    object.insert("api_servers".into(), serde_json::to_value(&servers).unwrap_or_default());
                }
                serde_json::to_string_pretty(&json).unwrap_or_default()
            }
        })?;
        let behind = servers.iter().any(|server| server.problem.is_some());
        Ok(match (fleet.grave().is_some() || behind, fleet.differences.is_empty()) {
            (true, _) => Exit::Failed,
            (false, false) => Exit::Warned,
            (false, true) => Exit::Ok,
        })
    })?
}

/// Asks each API server for its key_id. It is a problem when it is not `key_id` or, without that, not the one of the first
/// API server.
async fn ask(args: &NodesArgs, key_id: Option<&str>) -> Result<Vec<Server>, Failure> {
    let connections = args.cluster.servers(&args.cluster.connection().await?).await?;
    let expectation = Expectation { key_id: key_id.map(str::to_owned), ..Expectation::default() };
    let mut servers = look(&connections, &expectation).await;
    if key_id.is_none() {
        compare(&mut servers);
    }
    Ok(servers)
}

/// Without a key_id that is wanted: each must have that of the first one.
fn compare(servers: &mut [Server]) {
    let first = servers.iter().find(|server| server.problem.is_none());
    let Some((address, key_ids)) = first.map(|server| (server.address.clone(), server.key_ids.clone()))
    else {
        return;
    };
    let others = servers.iter_mut().filter(|server| server.problem.is_none() && server.key_ids != key_ids);
    for server in others {
        server.problem = Some(format!("has another key_id than {address}: {}", server.shown_key_ids()));
    }
}

/// A line for each API server.
fn text(servers: &[Server]) -> String {
    let shown = servers.iter().map(|server| match &server.problem {
        Some(problem) => format!("\n{}: {problem}", server.address),
        None => format!("\n{}: has the key_id {}", server.address, server.shown_key_ids()),
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_api_server_with_another_key_id_than_the_first_one_is_told() {
        let server = |address: &str, hash: &str, problem: Option<&str>| Server {
            address: address.into(),
            problem: problem.map(str::to_owned),
            key_ids: BTreeMap::from([("kms".to_owned(), hash.to_owned())]),
        };
        let fails = "does not show its metrics";
        let mut servers = [
            server("a", "sha256:1", Some(fails)),
            server("b", "sha256:2", None),
            server("c", "sha256:2", None),
            server("d", "sha256:3", None),
        ];
        compare(&mut servers);
        let shown = text(&servers);
        let lines: Vec<&str> = shown.trim().lines().collect();
        assert_eq!(
            lines,
            [
                "a: does not show its metrics",
                "b: has the key_id sha256:2 of provider kms",
                "c: has the key_id sha256:2 of provider kms",
                "d: has another key_id than b: sha256:3 of provider kms",
            ]
        );
    }
}
