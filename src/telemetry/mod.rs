//! Logging, to the journal with fields or to stderr in lines, and counting. Must not know the state.

pub(crate) mod fold;
mod log;
pub(crate) mod metrics;

pub(crate) use log::init;
