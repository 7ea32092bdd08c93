//! Which core of a node has the replica of which group. One per node, shared by its cores.
//!
//! Invariant: no group has two replicas on a node: they would vote twice. Whoever makes a replica, because
//! a range was cut here or another node's word asks for it, claims the group first. It is asked and told
//! only when replicas come and go, never on a request's way.

#![allow(clippy::disallowed_types, reason = "cores share it, off the path of requests")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_types::{CoreId, FastMap, GroupId, Guard, Incarnation};
use oarlock_wal::Suspicion;

/// The directory.
#[derive(Debug)]
pub struct Homes {
    inner: Mutex<Inner>,
    /// Replicas that have gone from core to core since the start.
    moves: AtomicU64,
}

/// The directory as the cores of a node share it.
pub type SharedHomes = Arc<Homes>;

#[derive(Debug, Default)]
struct Inner {
    cores: FastMap<GroupId, CoreId>,
    counts: BTreeMap<CoreId, usize>,
    /// By what each core that was told of by its log has its group.
    since: FastMap<GroupId, Standing>,
    /// Logs have lost replicas that nobody can name: the last life of the node in which that was found.
    unknown_losses: Option<Incarnation>,
    /// The cores whose logs may have lost replicas that they do not show; with which, unless the log is gone.
    hiding: BTreeMap<CoreId, Option<Suspicion>>,
}

/// Which of two logs that show a group is right: the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// The life of the node in which the replica was last found lost there or was rebuilt, if ever: the
    /// other's was given up then.
    pub life: Incarnation,
    /// One more than how often it has come from another core since; zero where it is lost.
    pub residence: u64,
    /// The log has all of it. One that has not may have lost what would say more, that it is gone from there above all.
    pub is_whole: bool,
}

/// Why a replica is not to be made by another node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHome {
    /// The group has a replica on this core, or had one that is lost.
    Taken(CoreId),
    /// A core of this node has lost replicas that nobody can name: this may be one of them.
    MayBeLost,
}

impl Homes {
    /// The directory of a node with so many cores: empty.
    #[must_use]
    pub fn new(cores: u16) -> SharedHomes {
        let counts = (0..cores).map(|core| (CoreId(core), 0)).collect();
        let inner = Mutex::new(Inner { counts, ..Inner::default() });
        Arc::new(Self { inner, moves: AtomicU64::new(0) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change is one step: what a panic leaves is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A core's log has the group, or it is known to be lost there. All cores say so of all that they have
    /// before any of them claims more or takes a replica up: the map may believe a replica on another core
    /// than the one that made it. Of two cores that one is right whose standing is the greater.
    ///
    /// # Errors
    /// When another core has it as well, both logs have all of it, and neither has given it up: that core.
    pub fn claim_logged(
        &self,
        group: GroupId,
        core: CoreId,
        since: Standing,
    ) -> Result<(), CoreId> {
        if !Guard::LogsClaimFirst.is_on() {
            return Ok(());
        }
        let mut inner = self.inner();
        let home = inner.claim(group, core);
        let before = inner.since.get(&group).copied().unwrap_or_default();
        if home != core && before == since && since.is_whole {
            return Err(home);
        }
        if since > before {
            inner.since.insert(group, since);
            inner.bring(group, core);
        }
        Ok(())
    }

    /// A core's log may have lost replicas that it does not show: these, or any if the log is gone. Cores say so as
    /// they say what they have, before any asks.
    pub fn note_hiding(&self, core: CoreId, suspicion: Option<Suspicion>) {
        self.inner().hiding.insert(core, suspicion);
    }

    /// Whether the log of another core than this one may have lost the group's replica without showing it.
    #[must_use]
    pub fn may_be_hidden_from(&self, core: CoreId, group: GroupId) -> bool {
        let inner = self.inner();
        let mut others = inner.hiding.iter().filter(|(other, _)| **other != core);
        others.any(|(_, suspicion)| suspicion.as_ref().is_none_or(|s| s.of_unlisted(group)))
    }

    /// Claims for a core a group that may have been in what its log has lost. False if another core has claimed
    /// it.
    #[must_use]
    pub fn claim_lost(&self, group: GroupId, core: CoreId) -> bool {
        self.inner().claim(group, core) == core
    }

    /// Claims for a core a group that has its replica there by the map. False if another core has claimed it, or it
    /// may be one that is lost.
    #[must_use]
    pub fn claim(&self, group: GroupId, core: CoreId) -> bool {
        self.claim_new(group, core, Incarnation(0))
    }

    /// Claims for a core a group that a split of one of its own makes, and of which no replica was anywhere when this
    /// life of the node had begun: what was found lost by then was not of that group. False as for [`Homes::claim`].
    #[must_use]
    pub fn claim_new(&self, group: GroupId, core: CoreId, life: Incarnation) -> bool {
        let mut inner = self.inner();
        let is_known = inner.cores.contains_key(&group);
        let is_new = inner.unknown_losses.is_none_or(|found_in| life >= found_in);
        (is_known || is_new) && inner.claim(group, core) == core
    }

    /// Claims a group that another node's word wants a replica of, for the core that has the fewest.
    ///
    /// # Errors
    /// When there must be no new one.
    pub fn claim_any(&self, group: GroupId) -> Result<CoreId, NoHome> {
        let mut inner = self.inner();
        if let Some(core) = inner.cores.get(&group) {
            return Err(NoHome::Taken(*core));
        }
        if inner.unknown_losses.is_some() {
            return Err(NoHome::MayBeLost);
        }
        let emptiest = inner.counts.iter().min_by_key(|(core, count)| (**count, **core));
        let core = emptiest.map_or(CoreId(0), |(core, _)| *core);
        Ok(inner.claim(group, core))
    }

    /// A core has given a replica to another one, whose log has it.
    pub fn bring(&self, group: GroupId, to: CoreId) {
        self.inner().bring(group, to);
        self.moves.fetch_add(1, Ordering::Release);
    }

    /// How many replicas have gone from core to core since the start: whoever remembers where some are looks again
    /// when there are more.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// The core that has the group's replica, or had it and has lost it.
    #[must_use]
    pub fn core_of(&self, group: GroupId) -> Option<CoreId> {
        self.inner().cores.get(&group).copied()
    }

    /// A core has lost replicas that nobody can name, as this life of the node was the last to find: from now on none is
    /// made that the directory does not have, since it might promise against what that one has forgotten, but of groups
    /// that are newer.
    pub fn note_unknown_losses(&self, found_in: Incarnation) {
        let mut inner = self.inner();
        inner.unknown_losses = inner.unknown_losses.max(Some(found_in));
    }
}

impl Inner {
    /// The group's home: this core, if it has none yet.
    fn claim(&mut self, group: GroupId, core: CoreId) -> CoreId {
        *self.cores.entry(group).or_insert_with(|| {
            *self.counts.entry(core).or_default() += 1;
            core
        })
    }

    fn bring(&mut self, group: GroupId, core: CoreId) {
        if let Some(before) = self.cores.insert(group, core) {
            *self.counts.entry(before).or_default() -= 1;
        }
        *self.counts.entry(core).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_one_home() {
        let homes = Homes::new(2);
        assert!(homes.claim(GroupId(1), CoreId(1)));
        assert!(homes.claim(GroupId(1), CoreId(1)));
        assert!(!homes.claim(GroupId(1), CoreId(0)));
        assert_eq!(homes.claim_any(GroupId(1)), Err(NoHome::Taken(CoreId(1))));
        assert_eq!(homes.core_of(GroupId(1)), Some(CoreId(1)));
        assert_eq!(homes.core_of(GroupId(2)), None);
    }

    #[test]
    fn what_comes_anew_goes_to_the_emptiest_core_unless_it_may_be_lost() {
        let homes = Homes::new(3);
        assert!(homes.claim(GroupId(1), CoreId(0)));
        assert!(homes.claim(GroupId(2), CoreId(2)));
        assert_eq!(homes.claim_any(GroupId(3)), Ok(CoreId(1)));
        assert_eq!(homes.claim_any(GroupId(4)), Ok(CoreId(0)));
        homes.note_unknown_losses(Incarnation(3));
        assert_eq!(homes.claim_any(GroupId(5)), Err(NoHome::MayBeLost));
        assert!(!homes.claim(GroupId(5), CoreId(0)), "it may be lost");
        assert!(homes.claim(GroupId(1), CoreId(0)), "what is known is not lost");
        assert_eq!(homes.core_of(GroupId(5)), None);
    }

    #[test]
    fn what_is_newer_than_all_losses_is_not_lost() {
        let homes = Homes::new(2);
        // Each core tells what it has found.
        homes.note_unknown_losses(Incarnation(5));
        homes.note_unknown_losses(Incarnation(3));
        let claimed = [0, 3, 4, 5, 6]
            .map(|life| homes.claim_new(GroupId(10 + life), CoreId(1), Incarnation(life)));
        assert_eq!(claimed, [false, false, false, true, true]);
        assert_eq!(homes.claim_any(GroupId(14)), Err(NoHome::MayBeLost));
        assert_eq!(homes.claim_any(GroupId(15)), Err(NoHome::Taken(CoreId(1))));
        assert!(!homes.claim_new(GroupId(15), CoreId(0), Incarnation(6)), "one core has it");
    }

    #[test]
    fn what_logs_have_goes_before_what_the_map_says() {
        let homes = Homes::new(2);
        let (one, two, three) = (GroupId(1), GroupId(2), GroupId(3));
        let (first, second) = (CoreId(0), CoreId(1));
        let logged = |group, core, life| {
            let life = Incarnation(life);
            homes.claim_logged(group, core, Standing { life, residence: 1, is_whole: true })
        };
        assert_eq!(logged(one, first, 0), Ok(()));
        assert_eq!(logged(two, second, 0), Ok(()));
        assert_eq!(logged(one, second, 0), Err(first), "neither was given up");
        let held = [one, two, three].map(|group| homes.claim(group, CoreId(0)));
        assert_eq!(held, [true, false, true]);
        assert!(homes.claim_lost(two, CoreId(1)) && !homes.claim_lost(three, CoreId(1)));
    }

    #[test]
    fn of_two_damaged_logs_either_is_right_and_a_whole_one_before_a_damaged_one() {
        let standing = |is_whole| Standing { life: Incarnation(0), residence: 1, is_whole };
        for (first, second, home) in [(false, false, 0), (true, false, 0), (false, true, 1)] {
            let homes = Homes::new(2);
            assert_eq!(homes.claim_logged(GroupId(1), CoreId(0), standing(first)), Ok(()));
            assert_eq!(homes.claim_logged(GroupId(1), CoreId(1), standing(second)), Ok(()));
            assert_eq!(homes.core_of(GroupId(1)), Some(CoreId(home)));
        }
    }

    #[test]
    fn the_core_that_has_lost_rebuilt_or_received_it_last_is_right() {
        let lives = [[(0, 0, 9), (1, 7, 0), (2, 4, 1)], [(0, 7, 1), (1, 7, 2), (2, 6, 3)]];
        let orders = [[0, 1, 2], [1, 2, 0], [2, 0, 1]];
        for (logs, order) in lives.iter().flat_map(|logs| orders.map(|order| (logs, order))) {
            let homes = Homes::new(3);
            for (core, life, residence) in order.map(|place: usize| logs[place]) {
                let life = Incarnation(life);
                let standing = Standing { life, residence, is_whole: residence > 0 };
                assert_eq!(homes.claim_logged(GroupId(1), CoreId(core), standing), Ok(()));
            }
            assert_eq!(homes.core_of(GroupId(1)), Some(CoreId(1)));
            let emptiest: Vec<_> = (2..5).map(|group| homes.claim_any(GroupId(group))).collect();
            assert_eq!(emptiest, [Ok(CoreId(0)), Ok(CoreId(2)), Ok(CoreId(0))], "each counts once");
        }
    }
}
