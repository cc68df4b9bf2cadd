//! What a running process holds, as `/proc/PID/status` says.

/// What is resident now.
pub const RESIDENT: &str = "VmRSS:";
/// The part of it that is in no file.
pub const ANONYMOUS: &str = "RssAnon:";
/// The most that was resident.
pub const PEAK: &str = "VmHWM:";

/// One of these figures, in KiB; none where the process has ended.
pub fn memory(process: u32, figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The same in MiB.
pub fn mebibytes(process: u32, figure: &str) -> Option<f64> {
    Some(memory(process, figure)? as f64 / 1024.0)
}
