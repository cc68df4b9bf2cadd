//! The errors of `verify-etcd` with their exit codes, and with the options that help.

use crate::cli::exit::{Exit, Failure};
use crate::diagnose::verify_etcd::{StorageError, printable};
use crate::etcd::etcdctl::form::ReadError;
use crate::etcd::gateway::{EtcdError, Refusal, RefusalKind};

pub(in crate::cli) fn failure(error: StorageError) -> Failure {
    let exit = if error.is_usage() { Exit::Usage } else { Exit::Unavailable };
    let text = printable(&error.to_string());
    match error {
        StorageError::Tls(cause) => {
            Failure::new(exit, cause).context("TLS to etcd: see --cacert, --cert and --key".into())
        }
        StorageError::Input(ReadError::Io(cause)) => Failure::new(exit, cause).context(text),
        StorageError::NoPrefix { .. } => {
            Failure::message(exit, format!("{text}: give the prefixes with --prefix"))
        }
        StorageError::NoObjects(prefixes) => Failure::message(exit, no_objects(&text, &prefixes)),
        StorageError::Etcd(error) => Failure::message(exit, etcd(&error)),
        StorageError::Configuration { .. }
        | StorageError::NotComplete
        | StorageError::Peer(_)
        | StorageError::Input(_) => Failure::message(exit, text),
    }
}

fn no_objects(text: &str, prefixes: &[String]) -> String {
    let below =
        if prefixes.is_empty() { String::new() } else { format!(" below {}", prefixes.join(" and ")) };
    format!(
        "{text}{}, so the result would prove nothing: are the prefixes right? On OpenShift they begin with /kubernetes.io and /openshift.io (--etcd-prefix /kubernetes.io)",
        printable(&below)
    )
}

/// One line for each endpoint that failed, and the remedy of the first one that has a remedy.
fn etcd(error: &EtcdError) -> String {
    let remedy = match error {
        EtcdError::Unavailable(refusals) => refusals.iter().find_map(remedy),
        _ => None,
    };
    match remedy {
        Some(remedy) => format!("{error}\n{remedy}"),
        None => error.to_string(),
    }
}

fn remedy(refusal: &Refusal) -> Option<&'static str> {
    Some(match refusal.kind {
        RefusalKind::Tls => {
            "--cacert names the authority of etcd, --cert and --key a client certificate that etcd accepts (kubeadm: /etc/kubernetes/pki/etcd/)"
        }
        RefusalKind::Transport => "does etcd run there, and is https:// or http:// right?",
        RefusalKind::NoGateway => {
            "the gateway is off (etcd --enable-grpc-gateway), or this is not etcd; use a pipe instead: etcdctl get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -"
        }
        RefusalKind::GatewayAlone => {
            "etcd's gateway does not reach etcd: it uses etcd's server certificate as a client certificate, which must allow that (clientAuth); or use a pipe: etcdctl get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -"
        }
        RefusalKind::Denied => {
            "this etcd requires a user; use a pipe instead: etcdctl --user NAME get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -"
        }
        RefusalKind::Other => return None,
    })
}
