//! Deadlines of groups in flight. An idle group has none, so it costs nothing here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use oarlock_types::{GroupId, Mono};

/// Elections that a core begins: one in so much time, and those of a while of quiet at once. Thousands of groups
/// may lose their leader at one moment, and must not drown what they are to be elected by.
const ELECTION_EVERY: Duration = Duration::from_micros(100);
const ELECTIONS_AT_ONCE: u32 = 256;

/// A heap of deadlines. Entries are hints: a group says itself whether it is really due, so that
/// moving a deadline back needs no search.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Mono, GroupId)>>,
    /// When the next election would begin, had all before it waited for their turn.
    next_election: Mono,
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
            (at, group)
        })
    }

    /// When an election that is due may begin: now, or later if too many others are due.
    pub(crate) fn election_turn(&mut self, now: Mono) -> Mono {
        let quiet = ELECTION_EVERY * ELECTIONS_AT_ONCE;
        let earliest = Mono(now.0.saturating_sub(u64::try_from(quiet.as_micros()).unwrap_or(0)));
        self.next_election = self.next_election.max(earliest) + ELECTION_EVERY;
        self.next_election.max(now)
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn next(&self) -> Mono {
        self.heap.peek().map_or(Mono::NEVER, |Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_elections_begin_at_once_and_the_others_one_after_the_other() {
        let mut timers = Timers::default();
        let now = Mono(5_000_000);
        let turns: Vec<Mono> = (0..10_000).map(|_| timers.election_turn(now)).collect();
        assert!(turns[..256].iter().all(|turn| *turn == now));
        assert!(turns[256..].windows(2).all(|pair| pair[0] + ELECTION_EVERY == pair[1]));
        let last = turns[9_999];
        assert_eq!(last, now + ELECTION_EVERY * (10_000 - 256));
        // Who comes later waits behind them, and after a while of quiet nobody does.
        assert_eq!(timers.election_turn(now + ELECTION_EVERY), last + ELECTION_EVERY);
        let quiet = last + ELECTION_EVERY * 300;
        assert!((0..256).all(|_| timers.election_turn(quiet) == quiet));
        assert!(timers.election_turn(quiet) > quiet);
    }
}
