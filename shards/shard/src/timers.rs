//! Deadlines of groups in flight. An idle group has none, so it costs nothing here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use oarlock_types::{GroupId, Mono};

/// Hints for which there is room while there are none: after an election of all groups there were far more.
const ROOM_KEPT: usize = 1024;

/// A heap of deadlines. Entries are hints: a group says itself whether it is really due, so that
/// moving a deadline back needs no search.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Mono, GroupId)>>,
}

impl Timers {
    pub(crate) fn arm(&mut self, at: Mono, group: GroupId) {
        if at < Mono::NEVER {
            self.heap.push(Reverse((at, group)));
        }
    }

    /// The next hint that is due, and its group.
    pub(crate) fn due(&mut self, now: Mono) -> Option<(Mono, GroupId)> {
        let Reverse((at, group)) = *self.heap.peek()?;
        (at <= now).then(|| {
            self.heap.pop();
            if self.heap.is_empty() {
                self.heap.shrink_to(ROOM_KEPT);
            }
            (at, group)
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn next(&self) -> Mono {
        self.heap.peek().map_or(Mono::NEVER, |Reverse((at, _))| *at)
    }
}
