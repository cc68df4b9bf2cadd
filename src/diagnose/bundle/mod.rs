//! The support bundle.

pub mod archive;
pub mod redaction;
