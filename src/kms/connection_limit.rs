//! How many connections are open at once. Beyond the limit, the oldest one that has sent nothing is closed, or else the
//! one that was used least recently. So a new caller is always served, and any number of silent connections closes none
//! that is in use: kube-apiserver uses its connection at least once a minute.
//!
//! Must not know what is sent on a connection.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::UnixStream;

use crate::telemetry::throttle::LogThrottle;

/// Connections of peers that may call. kube-apiserver has one for each provider in its configuration.
const MAX_ALLOWED: usize = 128;
/// Connections of all other peers. Each is told why it may not call.
const MAX_REFUSED: usize = 16;

/// Set in the last use of a connection that has sent something. So it is higher than that of every silent one.
const HAS_SENT: u64 = 1 << 63;

/// Whether the peer of a connection may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Allowed,
    Refused,
}

/// The open connections of one server. Clones share them.
#[derive(Clone)]
pub(super) struct ConnectionLimit(Arc<Inner>);

struct Inner {
    allowed_uids: Vec<u32>,
    /// Counts uses: the highest number is the latest.
    uses: AtomicU64,
    open: Mutex<Open>,
    log: LogThrottle,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    connections: HashMap<u64, Entry>,
}

struct Entry {
    peer: Peer,
    /// Valid as long as the entry is there: [`Admitted`] removes it before the stream is closed.
    fd: RawFd,
    last_use: Arc<AtomicU64>,
}

/// One open connection, until it is dropped. Drop it before its stream.
pub(super) struct Admitted {
    limit: ConnectionLimit,
    id: u64,
    last_use: Arc<AtomicU64>,
}

impl ConnectionLimit {
    pub(super) fn new(allowed_uids: &[u32]) -> Self {
        Self(Arc::new(Inner {
            allowed_uids: allowed_uids.to_vec(),
            uses: AtomicU64::new(0),
            open: Mutex::default(),
            log: LogThrottle::new(2),
        }))
    }

    /// Admits a connection. At the limit, closes the one of the same kind of peer that was used least recently.
    pub(super) fn admit(&self, stream: &UnixStream, uid: Option<u32>) -> Admitted {
        let (peer, most) = match uid.is_some_and(|uid| self.0.allowed_uids.contains(&uid)) {
            true => (Peer::Allowed, MAX_ALLOWED),
            false => (Peer::Refused, MAX_REFUSED),
        };
        let last_use = Arc::new(AtomicU64::new(self.next_use()));
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = open.connections.iter().filter(|(_, entry)| entry.peer == peer);
        if of_peer.clone().count() >= most
            && let Some(oldest) =
                of_peer.min_by_key(|(_, entry)| entry.last_use.load(Ordering::Relaxed)).map(|(id, _)| *id)
            && let Some(entry) = open.connections.remove(&oldest)
        {
            // The server sees the end of the stream, and drops it. It may be closed already.
            let _closed = shutdown(entry.fd, Shutdown::Both);
            if let Some(times) = self.0.log.admit(&format!("{peer:?}")) {
                tracing::warn!(
                    times,
                    "{most} connections of {} are open, the limit: a silent one is closed, or the one that was used least recently",
                    if peer == Peer::Allowed { "callers" } else { "users that may not call" }
                );
            }
        }
        let id = open.next_id;
        open.next_id += 1;
        open.connections.insert(id, Entry { peer, fd: stream.as_raw_fd(), last_use: last_use.clone() });
        Admitted { limit: self.clone(), id, last_use }
    }

    fn next_use(&self) -> u64 {
        self.0.uses.fetch_add(1, Ordering::Relaxed)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).connections.len()
    }
}

impl Admitted {
    /// Notes that something was received.
    pub(super) fn used(&self) {
        self.last_use.store(self.limit.next_use() | HAS_SENT, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.limit.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn beyond_the_limit_the_least_recently_used_connection_is_closed() {
        let limit = ConnectionLimit::new(&[0]);
        let mut open = Vec::new();
        for _ in 0..MAX_ALLOWED {
            let (ours, theirs) = UnixStream::pair().unwrap();
            open.push((limit.admit(&ours, Some(0)), ours, theirs));
        }
        // The connection of the API server is old, and in use.
        open[0].0.used();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let newest = limit.admit(&ours, Some(0));
        assert_eq!(limit.count(), MAX_ALLOWED);
        assert_eq!(open[1].1.read(&mut [0; 8]).await.unwrap(), 0, "closed");
        assert_eq!(open[1].2.read(&mut [0; 8]).await.unwrap(), 0, "its peer sees that");
        assert_eq!(open[0].1.try_read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop((newest, open));
        assert_eq!(limit.count(), 0);
    }

    #[tokio::test]
    async fn silent_connections_close_none_that_was_used() {
        let limit = ConnectionLimit::new(&[0]);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let in_use = limit.admit(&ours, Some(0));
        in_use.used();
        let mut open = Vec::new();
        for _ in 0..MAX_ALLOWED * 3 {
            let (silent, theirs) = UnixStream::pair().unwrap();
            open.push((limit.admit(&silent, Some(0)), silent, theirs));
        }
        assert_eq!(ours.try_read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(open[0].1.read(&mut [0; 8]).await.unwrap(), 0, "the oldest silent one is closed");
    }

    #[tokio::test]
    async fn peers_that_may_not_call_take_no_place_of_those_that_may() {
        let limit = ConnectionLimit::new(&[0]);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let allowed = limit.admit(&ours, Some(0));
        let mut open = Vec::new();
        for number in 0..MAX_REFUSED * 3 {
            let (stranger, theirs) = UnixStream::pair().unwrap();
            open.push((limit.admit(&stranger, (number % 2 == 0).then_some(12_345)), stranger, theirs));
            assert!(limit.count() <= MAX_REFUSED + 1);
        }
        assert_eq!(ours.try_read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(allowed);
    }
}
