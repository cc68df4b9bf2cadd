//! SIGTERM and SIGINT: the first drains the agent, the second ends the drain.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{Agent, AgentError};

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
