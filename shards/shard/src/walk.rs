//! Walks that look at a part of a core's replicas at a time: a core that has a hundred thousand must not stop to
//! look at them all.

use std::ops::Range;

use oarlock_types::GroupId;

/// A core that has no more is looked at as a whole.
const LOOKS_MIN: usize = 1024;
/// One that has more in so many parts.
const PARTS: usize = 16;

/// How far a walk is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    next: GroupId,
}

impl Walk {
    /// The places that are next among `ids`, which are in order. A walk that ends begins anew.
    pub(crate) fn next(&mut self, ids: &[GroupId]) -> Range<usize> {
        let start = ids.partition_point(|group| *group < self.next);
        let end = ids.len().min(start + LOOKS_MIN.max(ids.len() / PARTS));
        self.next = ids.get(end).copied().unwrap_or_default();
        start..end
    }
}

/// What a survey of the ranges that are led counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) walk: Walk,
    /// Keys, and those with an expiry, of this walk by now and of the last one.
    pub(crate) so_far: (usize, usize),
    pub(crate) found: (usize, usize),
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
                let part = walk.next(&ids);
                assert!(part.start == seen && part.len() <= 2500 && !part.is_empty());
                seen = part.end;
            }
        }
        let few = &ids[..1000];
        assert_eq!((walk.next(few), walk.next(few), walk.next(&[])), (0..1000, 0..1000, 0..0));
    }

    #[test]
    fn what_comes_and_goes_meanwhile_hides_nothing_else() {
        let ids: Vec<GroupId> = (0..4000).map(GroupId).collect();
        let mut walk = Walk::default();
        assert_eq!(walk.next(&ids), 0..1024);
        // What was already seen has gone, and so has the one that was next.
        assert_eq!(walk.next(&ids[1025..]), 0..1024);
        assert_eq!(walk.next(&ids), 2049..3073);
    }
}
