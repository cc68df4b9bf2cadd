//! The requests of one agent in the audit log of its server, with their times.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::vault::Vault;

/// The entries of one kind, `request` or `response`, with their times. A `request` is there before it is answered, and has
/// its data; a `response` tells whose token it was.
pub fn entries(vault: &Vault, kind: &str) -> Vec<(Value, SystemTime)> {
    let log = fs::read_to_string(vault.file("audit.log")).unwrap();
    // The server may be writing the last line.
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|entry| entry["type"] == kind)
        .map(|entry| {
            let time = humantime::parse_rfc3339(entry["time"].as_str().unwrap()).unwrap();
            (entry, time)
        })
        .collect()
}

/// The audited requests under a token that has this policy, and the logins that gave one: path and time.
pub fn audited(vault: &Vault, policy: &str) -> Vec<(String, SystemTime)> {
    let ours = entries(vault, "response").into_iter().filter(|(entry, _)| {
        entry["auth"]["policies"].as_array().is_some_and(|all| all.iter().any(|found| found == policy))
    });
    ours.map(|(entry, time)| (entry["request"]["path"].as_str().unwrap().to_owned(), time)).collect()
}

/// How many requests a day the requests of a window stand for. Of a path that was asked for regularly, the pauses
/// between the requests count: a window begins and ends anywhere between two of them.
pub fn a_day(requests: &[(String, SystemTime)], window: Duration) -> f64 {
    let mut times = BTreeMap::<_, Vec<_>>::new();
    for (path, time) in requests {
        times.entry(path).or_default().push(*time);
    }
    let a_second = |times: Vec<SystemTime>| {
        let pauses = times.len() - 1;
        let between = times[pauses].duration_since(times[0]).unwrap();
        if pauses < 2 {
            times.len() as f64 / window.as_secs_f64()
        } else {
            pauses as f64 / between.as_secs_f64()
        }
    };
    times.into_values().map(a_second).sum::<f64>() * 86_400.0
}
