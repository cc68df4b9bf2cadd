//! SIGTERM and SIGINT: the first drains the agent, the second ends the drain. A thread of its own ends the process when
//! it does not stop in time.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::timing::STOP_MARGIN;
use super::{Agent, AgentError};

/// Exit code of a process that did not stop in time (sysexits.h, EX_SOFTWARE).
const NOT_STOPPED: i32 = 70;

/// Ends the process when it still runs `drain_timeout` and 3 s after the first signal. The thread has a runtime of its
/// own: whatever the agent waits for, such as a file system that hangs, cannot keep it from stopping.
///
/// # Errors
/// When the thread cannot be started, or signals cannot be received.
pub(crate) fn stop_in_time(drain_timeout: Duration) -> Result<(), AgentError> {
    let limit = drain_timeout + STOP_MARGIN;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(AgentError::Signals)?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let wait = move || {
        runtime.block_on(async {
            signals.next().await;
            tokio::time::sleep(limit).await;
        });
        tracing::error!(
            "the agent did not stop within {limit:?}; ending the process without waiting any longer"
        );
        std::process::exit(NOT_STOPPED);
    };
    let started = std::thread::Builder::new().name("stop".into()).spawn(wait);
    started.map(drop).map_err(AgentError::Signals)
}

/// The signals that end the agent.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to receive the signals.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new() -> Result<Self, AgentError> {
        let receive = |kind| signal(kind).map_err(AgentError::Signals);
        Ok(Self {
            terminate: receive(SignalKind::terminate())?,
            interrupt: receive(SignalKind::interrupt())?,
        })
    }

    /// Runs the agent until the signals end it.
    ///
    /// # Errors
    /// Those of [`Agent::run`].
    pub(crate) async fn run(&mut self, agent: Agent) -> Result<(), AgentError> {
        let mut second = Self::new()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let first = async {
            self.next().await;
            let _running = stop.send(());
        };
        // Both receivers get every signal, so this one gets the first signal, too.
        let abort = async {
            let _first = stopped.await;
            second.next().await;
            second.next().await;
        };
        agent.run(first, abort).await
    }

    /// Waits for one of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
