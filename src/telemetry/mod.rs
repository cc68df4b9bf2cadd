//! Logging, to the journal with fields or to stderr in lines, and counting. Must not know the state.

pub mod fold;
mod log;
pub mod metrics;

pub use log::init;
