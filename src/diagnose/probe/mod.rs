//! The engine of `probe`.

pub mod measure;
pub mod result;
