//! The support bundle.

pub(crate) mod archive;
pub(crate) mod redaction;
