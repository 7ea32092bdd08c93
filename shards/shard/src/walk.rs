//! Walks that look at a part of a core's replicas at a time: a core that has a hundred thousand must not stop to
//! look at them all.

use std::collections::VecDeque;
use std::ops::Range;

use oarlock_types::GroupId;

/// Replicas that one call looks at where nothing is pressing: so that it costs the same however many there are.
pub(crate) const LOOKS: usize = 1024;
/// Calls in which it comes to all of them where it is.
const PARTS: usize = 16;

/// Replicas that one call looks at so that all are seen soon.
pub(crate) fn looks_in_haste(replicas: usize) -> usize {
    LOOKS.max(replicas / PARTS)
}

/// How far a walk is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    next: GroupId,
}

impl Walk {
    /// The places that are next among `ids`, which are in order, no more than `looks`. A walk that ends begins anew.
    pub(crate) fn next(&mut self, ids: &[GroupId], looks: usize) -> Range<usize> {
        let start = ids.partition_point(|group| *group < self.next);
        let end = ids.len().min(start + looks);
        self.next = ids.get(end).copied().unwrap_or_default();
        start..end
    }
}

/// What is known of the ranges that are led.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) walk: Walk,
    /// Those to which something has happened since they were looked at, each once.
    pub(crate) changed: VecDeque<GroupId>,
    /// Keys, and those with an expiry, of all, as each was when it was looked at.
    pub(crate) keys: (usize, usize),
}

impl Survey {
    /// Something has happened to a range that is led here.
    pub(crate) fn note_changed(&mut self, group: GroupId, is_noted: &mut bool) {
        if !std::mem::replace(is_noted, true) {
            self.changed.push_back(group);
        }
    }

    /// What a range was counted with becomes what it has `now`.
    pub(crate) fn count(&mut self, counted: &mut (usize, usize), now: (usize, usize)) {
        let before = std::mem::replace(counted, now);
        self.keys.0 = self.keys.0 - before.0 + now.0;
        self.keys.1 = self.keys.1 - before.1 + now.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_comes_to_everything_and_begins_anew() {
        let ids: Vec<GroupId> = (0..40_000).map(|n| GroupId(n * 3)).collect();
        let mut walk = Walk::default();
        for _ in 0..2 {
            let mut seen = 0;
            while seen < ids.len() {
                let part = walk.next(&ids, looks_in_haste(ids.len()));
                assert!(part.start == seen && part.len() <= 2500 && !part.is_empty());
                seen = part.end;
            }
        }
        let few = &ids[..1000];
        assert_eq!(
            (walk.next(few, LOOKS), walk.next(few, LOOKS), walk.next(&[], LOOKS)),
            (0..1000, 0..1000, 0..0)
        );
    }

    #[test]
    fn what_comes_and_goes_meanwhile_hides_nothing_else() {
        let ids: Vec<GroupId> = (0..4000).map(GroupId).collect();
        let mut walk = Walk::default();
        assert_eq!(walk.next(&ids, LOOKS), 0..1024);
        // What was already seen has gone, and so has the one that was next.
        assert_eq!(walk.next(&ids[1025..], LOOKS), 0..1024);
        assert_eq!(walk.next(&ids, LOOKS), 2049..3073);
    }
}
