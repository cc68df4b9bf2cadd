//! The engine of `probe`.

pub(crate) mod measure;
pub(crate) mod result;
