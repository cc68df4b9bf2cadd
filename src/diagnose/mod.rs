//! The engines behind `check`, `support-bundle`, `probe` and `verify-etcd`: they look, judge and report.
//!
//! Must not know the command line, nor print.

pub mod bundle;
pub mod check;
pub mod probe;
pub mod status_text;
pub mod storage;
