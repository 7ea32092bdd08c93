//! How much may wait for its outcome on this core. One per core.
//!
//! Overload is answered at once (`BUSY`, not applied) instead of by a queue that grows: a queue
//! would only turn overload into latency and then into memory.

use oarlock_types::Limits;

/// Counts commands and bytes that are admitted and not yet answered.
#[derive(Debug)]
pub(crate) struct Admission {
    count: usize,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            count: 0,
            bytes: 0,
            count_max: limits.pending_count_max,
            bytes_max: limits.pending_bytes_max,
        }
    }

    /// Admits a command of so many bytes, or not.
    pub(crate) fn admit(&mut self, bytes: usize) -> bool {
        if self.count >= self.count_max || self.bytes.saturating_add(bytes) > self.bytes_max {
            return false;
        }
        self.count += 1;
        self.bytes += bytes;
        true
    }

    /// So many commands of so many bytes in all are answered.
    pub(crate) fn release(&mut self, count: usize, bytes: usize) {
        assert!(
            self.count >= count && self.bytes >= bytes,
            "invariant: released what was admitted"
        );
        self.count -= count;
        self.bytes -= bytes;
    }

    /// Commands that wait.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_waits_as_may_and_what_is_answered_makes_room() {
        let limits = Limits { pending_count_max: 3, pending_bytes_max: 1000, ..Limits::default() };
        let mut admission = Admission::new(&limits);
        assert!(admission.admit(600) && admission.admit(400), "to the last byte");
        assert!(!admission.admit(1), "one byte more");
        assert!(admission.admit(0) && !admission.admit(0), "the third, and a fourth");
        assert_eq!(admission.count(), 3);
        admission.release(2, 600);
        assert!(!admission.admit(601) && admission.admit(600));
        assert_eq!(admission.count(), 2);
    }
}
