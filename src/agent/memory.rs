//! Gives memory back to the system that a burst of connections, or a long answer of a server, has used.

use tokio::time::MissedTickBehavior;

use super::error::TaskError;
use super::timing::MEMORY_INTERVAL;
use crate::process::give_memory_back;

/// Runs until the agent stops. It takes some milliseconds each time, outside the runtime's threads.
pub(super) async fn run() -> Result<(), TaskError> {
    let mut interval = tokio::time::interval(MEMORY_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // It cannot fail. A panic there would not concern the agent's work.
        let _given = tokio::task::spawn_blocking(give_memory_back).await;
    }
}
