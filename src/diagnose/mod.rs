//! The engines behind `check`, `support-bundle`, `probe` and `verify-etcd`: they look, judge and report.
//!
//! Must not know the command line, nor print.

pub(crate) mod bundle;
pub(crate) mod check;
pub(crate) mod probe;
pub(crate) mod status_text;
pub(crate) mod storage;
