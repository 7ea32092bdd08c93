//! What each core counts, for whoever asks (`INFO`, `OARLOCK STATUS`). One set per core: written by
//! that core alone, read by any. It must never be read to decide anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        /// Counters of one core.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$meta])* pub $name: Counter,)*
        }

        impl Counters {
            /// All counters with their names, in a fixed order.
            #[must_use]
            pub fn read(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Frames of the WAL that became durable: one durable flush each.
    wal_frames,
    /// Bytes of those frames, padding included.
    wal_bytes,
    /// Requests that this core's leaders answered, reads and writes.
    requests_answered,
    /// Writes among them: each was durable on a quorum before.
    writes_acknowledged,
    /// Requests that were refused (`BUSY`, `DISKFULL`, `NOQUORUM`, `UNKNOWN`…).
    requests_refused,
    /// Requests that clients of this core sent to other nodes.
    requests_forwarded,
    /// Requests that clients of this core sent to other cores of this node.
    requests_crossed,
    /// Frames sent to other nodes.
    peer_frames_sent,
    /// Raft messages in those frames.
    peer_messages_sent,
    /// Turns of the core's loop.
    turns,
    /// Replicas on the core.
    replicas,
    /// Replicas that lead.
    leaders,
    /// Replicas among them of which whoever plans placement was not told yet.
    leaders_untold,
    /// Clients' keys in the ranges that lead.
    keys,
    /// Keys among them that have an expiry.
    keys_expiring,
    /// Commands that wait for their outcome.
    waiting,
}

/// A number that one core writes and others may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning core may.
    pub fn add(&self, n: u64) {
        // A plain load and store: there is one writer, so no locked instruction is needed.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge; only the owning core may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
