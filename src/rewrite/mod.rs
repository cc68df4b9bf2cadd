//! The engine of `rewrite` and `nodes`: makes the API servers store every object anew under the current key.
//!
//! `fleet` compares the nodes, `readiness` asks each API server whether it has the new key, `run` goes through the
//! resources, `pass` through the objects of one, `migrations` leaves that to kube-controller-manager, `pace` says how
//! fast, `outcome` what an answer means, `checkpoint` remembers what need not be done again, `report` is the result,
//! `options` are the settings of a run.
//! Must not parse flags, print, or know exit codes.

mod checkpoint;
pub(crate) mod fleet;
mod migrations;
mod options;
mod outcome;
mod pace;
mod pass;
mod readiness;
mod report;
mod run;
mod window;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use options::{Method, Options, Progress};
pub(crate) use pace::Pace;
pub(crate) use readiness::{Expectation, Server, hash, look, servers, wait};
pub(crate) use report::{Proof, Report, Verdict};
pub(crate) use run::run;
