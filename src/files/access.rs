//! Access to the files that an administrator names, outside the async runtime's threads.
//!
//! Must not know what the files hold.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

/// Time for one access by default, and time to wait for the access before it.
const LIMIT: Duration = Duration::from_secs(3);

/// Runs one access at a time. A file system that hangs (NFS, FUSE) then blocks only one thread: later accesses fail
/// after the limit, and start no other thread.
#[derive(Clone, Debug)]
pub(crate) struct FileAccess {
    limit: Duration,
    running: Arc<Mutex<()>>,
}

impl Default for FileAccess {
    fn default() -> Self {
        Self { limit: LIMIT, running: Arc::default() }
    }
}

impl FileAccess {
    /// With another limit than 3 s for one access.
    pub(crate) fn with_limit(limit: Duration) -> Self {
        Self { limit, running: Arc::default() }
    }

    /// Runs `work` in a thread of the blocking pool.
    ///
    /// # Errors
    /// `TimedOut` when `work`, or an earlier access, does not end in time.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let earlier = tokio::time::timeout(self.limit, self.running.clone().lock_owned()).await;
        let running = earlier.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "the file system has not answered an earlier access yet")
        })?;
        super::in_time(self.limit, move || {
            let done = work();
            drop(running);
            Ok(done)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hung_file_system_holds_one_thread() {
        // Real time, but little of it: paused time does not pass while a blocking thread works.
        let access = FileAccess { limit: Duration::from_millis(50), ..FileAccess::default() };
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let first = access.run(move || hung.recv().is_ok());
        // `first` is polled first, so that it holds the lock.
        let second = access.run(|| panic!("it waits for the first access"));
        let (first, second): (io::Result<bool>, io::Result<()>) = tokio::join!(first, second);
        assert_eq!(first.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(release);
        // On a busy machine the thread may take longer than that to end.
        let patient = FileAccess { limit: Duration::from_secs(90), ..access };
        patient.run(|| ()).await.unwrap();
    }
}
