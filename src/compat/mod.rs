//! The command lines of two other Transit plugins, so that their static pods and sidecars run with this binary unchanged.
//!
//! `flag_table` lists their flags and variables, `given` has those of a command line, `translate` turns them into values
//! of our own keys. Must not know what the keys are for.

mod error;
mod flag_table;
mod given;
mod secret_file;
mod socket_directory;
mod translate;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/compat.rs"]
pub(crate) mod fuzz;

pub(crate) use error::CompatError;
pub(crate) use socket_directory::protect as protect_directory;
pub(crate) use translate::{CompatFlags, hint, translate};
