//! Replicas that were to go to another core and stayed: why, and until when they are not tried again. One per core.
//! Whoever wants one elsewhere asks until it is there: without a pause each question would begin another attempt, for
//! which the replica hands its leadership over and stands still.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use oarlock_types::{CoreId, GroupId, Mono};

/// How long a replica that stayed is left alone.
pub(crate) const REST: Duration = Duration::from_secs(5);

/// Why a replica that was to go to another core of its node stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stayed {
    /// It could not go in time.
    TooLong,
    /// Its log outgrew its checkpoints, or it was to lead no more, too often.
    TooOften,
    /// Its checkpoint got no second name.
    NotLent,
    /// The other core did not take it.
    Refused,
}

impl fmt::Display for Stayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "it could not go in time: its disk is slow, or nobody else can lead",
            Self::TooOften => "it is written to too fast, or nobody else leads it",
            Self::NotLent => {
                "the other core could not have its checkpoint: the disk is full, or fails"
            }
            Self::Refused => {
                "the other core did not take it: the disk is full, or it has one that has ended"
            }
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Stay {
    to: CoreId,
    why: Stayed,
    until: Mono,
}

/// Those that stayed of late.
#[derive(Debug, Default)]
pub(crate) struct Stays {
    groups: BTreeMap<GroupId, Stay>,
}

impl Stays {
    /// A replica was to go there and stays.
    pub(crate) fn note(&mut self, group: GroupId, to: CoreId, why: Stayed, now: Mono) {
        self.groups.insert(group, Stay { to, why, until: now + REST });
    }

    /// Why it is not to go there now.
    pub(crate) fn rests(&self, group: GroupId, to: CoreId, now: Mono) -> Option<Stayed> {
        let stay = self.groups.get(&group).filter(|stay| stay.to == to && now < stay.until)?;
        Some(stay.why)
    }

    /// Forgets those whose time is over.
    pub(crate) fn expire(&mut self, now: Mono) {
        self.groups.retain(|_, stay| now < stay.until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stayed_rests_for_that_core_and_no_longer() {
        let (mut stays, group, now) = (Stays::default(), GroupId(7), Mono::from_ms(100));
        let rests = |stays: &Stays, core, at| stays.rests(group, CoreId(core), at);
        stays.note(group, CoreId(1), Stayed::NotLent, now);
        stays.note(group, CoreId(1), Stayed::Refused, now);
        assert_eq!(rests(&stays, 1, now), Some(Stayed::Refused));
        assert_eq!((rests(&stays, 2, now), stays.rests(GroupId(8), CoreId(1), now)), (None, None));
        stays.expire(now);
        let last = Mono((now + REST).0 - 1);
        assert_eq!(
            (rests(&stays, 1, last), rests(&stays, 1, now + REST)),
            (Some(Stayed::Refused), None)
        );
        stays.expire(now + REST);
        assert!(stays.groups.is_empty());
    }
}
