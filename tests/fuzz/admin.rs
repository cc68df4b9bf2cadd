//! One connection to the admin API.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use axum::Router;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::server::OpenConnections;

/// Sends `input` on a connection, closes its half, and returns what came back.
pub(crate) async fn exchange(router: &Router, input: &[u8]) -> Vec<u8> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut open = OpenConnections::default();
    open.serve(theirs, router);
    let (mut answers, mut requests) = tokio::io::split(ours);
    let send = async {
        let _closed = requests.write_all(input).await;
        let _closed = requests.shutdown().await;
    };
    let mut answer = Vec::new();
    let (_read, ()) = tokio::join!(answers.read_to_end(&mut answer), send);
    while let Some(ended) = open.tasks.join_next().await {
        ended.expect("a connection does not panic");
    }
    answer
}
