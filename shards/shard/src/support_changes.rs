//! Tells one core what has changed in the support table since it last looked.
//!
//! One per core. It reads the table (and so marks what has lapsed by the core's own clock); it
//! must not decide what a change means to a group.

use oarlock_raft::Grant;
use oarlock_types::{CoreAddr, CoreId, Incarnation, Mono, NodeId, SupportEpoch};

use crate::support_table::SupportTable;

/// A change that groups of a core may have to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupportChange {
    /// A peer is known in a newer incarnation: its older one is dead.
    Incarnation {
        /// The peer.
        node: NodeId,
        /// Its newest incarnation.
        incarnation: Incarnation,
    },
    /// What this node grants to a peer's core has begun, ended, or begun anew.
    Granted {
        /// The peer's core.
        leader: CoreAddr,
        /// The promise in force.
        grant: Option<Grant>,
    },
    /// What a peer grants to this core has begun, ended, or begun anew.
    Received {
        /// The peer.
        node: NodeId,
        /// The epoch of the promise in force.
        epoch: Option<SupportEpoch>,
    },
}

impl SupportChange {
    /// Whether `other` tells of the same promise, or of the same node's life, at another time.
    pub(crate) fn is_about_the_same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Incarnation { node, .. }, Self::Incarnation { node: other, .. })
            | (Self::Received { node, .. }, Self::Received { node: other, .. }) => node == other,
            (Self::Granted { leader, .. }, Self::Granted { leader: other, .. }) => leader == other,
            (Self::Incarnation { .. } | Self::Received { .. } | Self::Granted { .. }, _) => false,
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    node: NodeId,
    incarnation: Incarnation,
    granted: Vec<Option<Grant>>,
    received: Option<SupportEpoch>,
}

/// What one core has seen of the table.
#[derive(Debug)]
pub struct ChangeTracker {
    core: CoreId,
    peers: Vec<Seen>,
}

impl ChangeTracker {
    /// A tracker that has seen nothing: no support either way.
    #[must_use]
    pub fn new(table: &SupportTable, core: CoreId) -> Self {
        let mut this = Self { core, peers: Vec::new() };
        this.meet(table);
        this
    }

    /// Takes in the nodes that have joined.
    fn meet(&mut self, table: &SupportTable) {
        for node in table.peers() {
            if !self.peers.iter().any(|peer| peer.node == node) {
                self.peers.push(Seen { node, ..Seen::default() });
            }
        }
    }

    /// Appends what has changed, and says when the next promise runs out unless it is extended
    /// (the core looks again then at the latest). A promise that lapsed and was given anew between
    /// two looks shows as a change of its epoch.
    pub fn poll(
        &mut self,
        table: &SupportTable,
        now: Mono,
        changes: &mut Vec<SupportChange>,
    ) -> Mono {
        if self.peers.len() < table.peers_count() {
            self.meet(table);
        }
        let mut next = Mono::NEVER;
        for peer in &mut self.peers {
            let node = peer.node;
            let incarnation = table.peer_incarnation(node);
            if incarnation != peer.incarnation {
                peer.incarnation = incarnation;
                changes.push(SupportChange::Incarnation { node, incarnation });
            }
            let cores = table.peer_cores(node);
            if peer.granted.len() < usize::from(cores) {
                peer.granted.resize(usize::from(cores), None);
            }
            // A peer that came back with fewer cores still has its old promises run out here.
            for (core, seen) in (0..).zip(&mut peer.granted) {
                let leader = CoreAddr::new(node, CoreId(core));
                let granted = table.granted(leader, now);
                let grant = granted.map(|(grant, _)| grant);
                next = next.min(granted.map_or(Mono::NEVER, |(_, until)| until));
                if *seen != grant {
                    *seen = grant;
                    changes.push(SupportChange::Granted { leader, grant });
                }
            }
            let received = table.received(node, self.core, now);
            next = next.min(received.map_or(Mono::NEVER, |r| r.until));
            let epoch = received.map(|r| r.epoch);
            if peer.received != epoch {
                peer.received = epoch;
                changes.push(SupportChange::Received { node, epoch });
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support_table::TableConfig;

    const OTHER: NodeId = NodeId(2);
    const LEADER: CoreAddr = CoreAddr::new(OTHER, CoreId(1));

    fn table() -> SupportTable {
        let table = SupportTable::new(&TableConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            cores: 1,
            cores_max: 4,
            origin: Mono(0),
            peers: &[(OTHER, 2)],
        });
        table.learn_incarnation(OTHER, Incarnation(5));
        table
    }

    #[test]
    fn each_change_is_told_once() {
        let table = table();
        let mut tracker = ChangeTracker::new(&table, CoreId(0));
        let mut changes = Vec::new();
        assert_eq!(tracker.poll(&table, Mono(0), &mut changes), Mono::NEVER);
        assert_eq!(
            changes,
            [SupportChange::Incarnation { node: OTHER, incarnation: Incarnation(5) }]
        );

        let until = Mono(4096 * 10);
        let epoch = table.extend(LEADER, Incarnation(5), Mono(0), until).unwrap();
        let theirs = SupportEpoch(5 << 28 | 1);
        table.receive(OTHER, CoreId(0), Incarnation(5), theirs, Mono(4096 * 7));
        changes.clear();
        assert_eq!(tracker.poll(&table, Mono(1), &mut changes), Mono(4096 * 7));
        let grant = Some(Grant { epoch, incarnation: Incarnation(5) });
        assert_eq!(
            changes,
            [
                SupportChange::Granted { leader: LEADER, grant },
                SupportChange::Received { node: OTHER, epoch: Some(theirs) },
            ]
        );

        changes.clear();
        tracker.poll(&table, Mono(4096 * 7), &mut changes);
        assert_eq!(changes, []);
        tracker.poll(&table, Mono(4096 * 7 + 1), &mut changes);
        assert_eq!(changes, [SupportChange::Received { node: OTHER, epoch: None }]);
        changes.clear();
        assert_eq!(tracker.poll(&table, Mono(4096 * 10 + 1), &mut changes), Mono::NEVER);
        assert_eq!(changes, [SupportChange::Granted { leader: LEADER, grant: None }]);
    }

    #[test]
    fn a_lapse_between_two_looks_shows_as_another_epoch() {
        let table = table();
        let mut tracker = ChangeTracker::new(&table, CoreId(0));
        let mut changes = Vec::new();
        let first = table.extend(LEADER, Incarnation(5), Mono(0), Mono(5000)).unwrap();
        tracker.poll(&table, Mono(1), &mut changes);
        let second = table.extend(LEADER, Incarnation(5), Mono(9000), Mono(15_000)).unwrap();
        assert!(second > first);
        changes.clear();
        tracker.poll(&table, Mono(9001), &mut changes);
        let grant = Some(Grant { epoch: second, incarnation: Incarnation(5) });
        assert_eq!(changes, [SupportChange::Granted { leader: LEADER, grant }]);
    }
}
