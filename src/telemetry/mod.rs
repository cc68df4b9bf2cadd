//! Logging: to the journal with fields, or to stderr in lines. Must not know what is logged.

pub mod fold;
mod log;

pub use log::init;
