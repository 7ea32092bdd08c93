//! Which core of a node has the replica of which group. One per node, shared by its cores.
//!
//! Invariant: no group has two replicas on a node: they would vote twice. Whoever makes a replica, because
//! a range was cut here or another node's word asks for it, claims the group first. It is asked and told
//! only when replicas come and go, never on a request's way.

#![allow(clippy::disallowed_types, reason = "cores share it, off the path of requests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_types::{CoreId, FastMap, GroupId};

/// The directory.
#[derive(Debug)]
pub struct Homes {
    inner: Mutex<Inner>,
}

/// The directory as the cores of a node share it.
pub type SharedHomes = Arc<Homes>;

#[derive(Debug, Default)]
struct Inner {
    cores: FastMap<GroupId, CoreId>,
    counts: BTreeMap<CoreId, usize>,
    /// A log has lost replicas that nobody can name.
    has_unknown_losses: bool,
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
        Arc::new(Self { inner: Mutex::new(Inner { counts, ..Inner::default() }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change is one step: what a panic leaves is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group's replica of this node shall be on this core. False if it is on another.
    #[must_use]
    pub fn claim(&self, group: GroupId, core: CoreId) -> bool {
        self.inner().claim(group, core)
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
        if inner.has_unknown_losses {
            return Err(NoHome::MayBeLost);
        }
        let emptiest = inner.counts.iter().min_by_key(|(core, count)| (**count, **core));
        let core = emptiest.map_or(CoreId(0), |(core, _)| *core);
        inner.claim(group, core);
        Ok(core)
    }

    /// The core that has the group's replica, or had it and has lost it.
    #[must_use]
    pub fn core_of(&self, group: GroupId) -> Option<CoreId> {
        self.inner().cores.get(&group).copied()
    }

    /// A core has lost replicas that nobody can name: from now on none is made by another's word, since it
    /// might promise against what it has forgotten.
    pub fn note_unknown_losses(&self) {
        self.inner().has_unknown_losses = true;
    }
}

impl Inner {
    fn claim(&mut self, group: GroupId, core: CoreId) -> bool {
        let home = *self.cores.entry(group).or_insert_with(|| {
            *self.counts.entry(core).or_default() += 1;
            core
        });
        home == core
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
        homes.note_unknown_losses();
        assert_eq!(homes.claim_any(GroupId(5)), Err(NoHome::MayBeLost));
        assert_eq!(homes.core_of(GroupId(5)), None);
    }
}
