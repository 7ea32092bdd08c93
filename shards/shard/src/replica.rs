//! One group's replica on this core: its Raft state machine, its store, and who waits for it.

use std::collections::VecDeque;
use std::time::Duration;

use oarlock_raft::{Group, LogPosition, ProgressState, SnapshotMeta};
use oarlock_store::{Request, Store};
use oarlock_types::{CoreAddr, Index, Mono, WallMs};

use crate::checkpoints::Making;
use crate::elections::Election;
use crate::load::RangeLoad;
use crate::moves::Departed;
use crate::rebuild::{Origin, Rebuilt, SplitBase};
use crate::requests::LaneKey;
use crate::snapshots::Incoming;
use crate::support_changes::SupportChange;

/// A replica.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) raft: Group,
    pub(crate) store: Store,
    past: Option<Box<Past>>,
    /// The cores that other members were heard from.
    pub(crate) heard_from: Vec<CoreAddr>,
    /// Set if a split made its state, which no checkpoint holds yet.
    pub(crate) base: Option<SplitBase>,
    /// The deadline that the timers know of; never later than the group's own.
    pub(crate) armed: Mono,
    /// It is among those that the core counts as leading.
    pub(crate) counts_as_leader: bool,
    pub(crate) election: Election,
    /// What the store holds.
    pub(crate) applied: Index,
    /// Writes of this turn.
    pub(crate) queued: Vec<Queued>,
    /// Entries proposed here whose fate is open, in the order of their indices: a later term's may
    /// stand before an earlier one's that was cut from the log.
    pub(crate) pending: VecDeque<PendingEntry>,
    /// The newest stamp that this leader gave.
    pub(crate) stamp: WallMs,
    /// The newest durable checkpoint; position zero if there is none.
    pub(crate) checkpoint: SnapshotMeta,
    pub(crate) making: Option<Box<Making>>,
    /// Set if the last checkpoint failed.
    pub(crate) checkpoint_rest: Option<Box<CheckpointRest>>,
    pub(crate) incoming: Option<Box<Incoming>>,
    /// It is among those to which something has happened since they were surveyed.
    pub(crate) is_changed: bool,
    /// The keys, and those with an expiry, with which it counts among all that are led.
    pub(crate) keys_counted: (usize, usize),
    /// What it is asked, while it leads and is asked something.
    pub(crate) load: Option<Box<RangeLoad>>,
}

/// What few replicas have behind them: most are the first of their node, on the core where they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// Set if it was rebuilt.
    pub(crate) rebuilt: Option<Rebuilt>,
    /// Set if there was one here before: the end of its log.
    pub(crate) left: Option<LogPosition>,
    /// How often it has come from another core.
    pub(crate) residence: u64,
}

/// How long no checkpoint is begun.
#[derive(Debug, Default)]
pub(crate) struct CheckpointRest {
    /// None before then.
    pub(crate) until: Mono,
    /// How long it was for the last that failed.
    pub(crate) lasts: Duration,
}

/// A write that waits for the end of the turn.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) token: u64,
    pub(crate) request: Request,
    pub(crate) bytes: usize,
    pub(crate) lane: Option<LaneKey>,
}

/// An entry that this replica proposed, and whom its replies are for.
#[derive(Debug)]
pub(crate) struct PendingEntry {
    pub(crate) at: LogPosition,
    pub(crate) tokens: Vec<u64>,
    pub(crate) bytes: usize,
    pub(crate) since: Mono,
}

/// A core may have a hundred thousand, and allocators take the next size, 1,280 bytes, for one byte more.
const _: () = assert!(size_of::<Replica>() <= 1024);

impl Replica {
    pub(crate) fn new(
        raft: Group,
        store: Store,
        base: Option<SplitBase>,
        checkpoint: SnapshotMeta,
    ) -> Self {
        let armed = raft.deadline();
        let applied = checkpoint.position.index;
        Self {
            raft,
            store,
            past: None,
            heard_from: Vec::new(),
            base,
            armed,
            counts_as_leader: false,
            election: Election::None,
            applied,
            queued: Vec::new(),
            pending: VecDeque::new(),
            stamp: WallMs(0),
            checkpoint,
            making: None,
            checkpoint_rest: None,
            incoming: None,
            is_changed: false,
            keys_counted: (0, 0),
            load: None,
        }
    }

    /// What it has behind it.
    pub(crate) fn past(&self) -> Past {
        self.past.as_deref().copied().unwrap_or_default()
    }

    pub(crate) fn set_past(&mut self, past: Past) {
        self.past = (past != Past::default()).then(|| Box::new(past));
    }

    /// Whether no checkpoint is to be begun.
    pub(crate) fn rests_from_checkpoints(&self, now: Mono) -> bool {
        self.checkpoint_rest.as_ref().is_some_and(|rest| now < rest.until)
    }

    /// Whether it was made by another's word and holds nothing yet. One that is rebuilt, or was here
    /// before and held something, waits for what its leader gives it.
    pub(crate) fn is_blank(&self) -> bool {
        let is_receiving = self.incoming.as_ref().is_some_and(|incoming| incoming.is_marked());
        Departed::of_replica(self).held_nothing()
            && self.applied == Index(0)
            && !is_receiving
            && self.store.bounds().epoch.get() == 0
    }

    /// Notes on which core another member's replica is; whether it was known on another one.
    pub(crate) fn note_core(&mut self, from: CoreAddr) -> bool {
        match self.heard_from.iter_mut().find(|known| known.node == from.node) {
            Some(known) => std::mem::replace(known, from) != from,
            None => {
                self.heard_from.reserve_exact(1);
                self.heard_from.push(from);
                false
            }
        }
    }

    /// How it came to be, as its creation in the log says.
    pub(crate) fn origin(&self) -> Origin {
        let Past { rebuilt, left, residence } = self.past();
        let (epoch, base) = (self.store.bounds().epoch, self.base);
        Origin { epoch, rebuilt, base, left, residence }
    }

    /// Whether a follower that can be reached is receiving the newest checkpoint from here.
    pub(crate) fn is_sending_checkpoint(&self) -> bool {
        self.raft.progress().any(|follower| {
            follower.reachable && matches!(follower.state, ProgressState::Snapshot(_))
        })
    }

    /// Whether a change of support may concern this group: its leader's, or a member's.
    pub(crate) fn depends_on(&self, changes: &[SupportChange]) -> bool {
        let is_leader = self.raft.is_leader();
        let leader = self.raft.leader();
        changes.iter().any(|change| match change {
            SupportChange::Received { .. } => is_leader,
            SupportChange::Granted { leader: core, .. } => {
                !is_leader && leader.is_none_or(|leader| leader == core.node)
            }
            SupportChange::Incarnation { node, .. } => {
                is_leader || leader.is_none_or(|leader| leader == *node)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use oarlock_raft::{
        Append, Body, Configuration, Context, Durable, Effects, GroupConfig, HardState, Message,
        Restored,
    };
    use oarlock_store::StoreLimits;
    use oarlock_types::{
        CoreId, GroupId, Incarnation, Limits, NodeId, SharedLimits, SupportEpoch, Term,
    };

    use super::*;
    use crate::support_table::{SupportTable, TableConfig};

    /// A replica on node 1, of a group of these voters.
    fn replica(
        voters: &[u64],
        steps: impl FnOnce(&mut Group, &Context<'_>, &mut Effects),
    ) -> Replica {
        let table = SupportTable::new(&TableConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            cores: 1,
            cores_max: 1,
            origin: Mono(0),
            peers: &[(NodeId(2), 1), (NodeId(3), 1)],
        });
        let support = table.view(CoreId(0), Mono(1));
        let ctx = Context { now: Mono(1), support: &support, may_vote: true };
        let configuration = Configuration::simple(voters.iter().copied().map(NodeId));
        let checkpoint = SnapshotMeta { configuration, ..SnapshotMeta::default() };
        let limits = SharedLimits::new(Limits::default());
        let (group, node, core) = (GroupId(1), NodeId(1), CoreId(0));
        let config = GroupConfig { group, node, core, seed: 1, limits };
        let restored = Restored {
            hard_state: HardState::default(),
            checkpoint: checkpoint.clone(),
            log_start: Index(1),
            entries: Vec::new(),
            first_election_delay: Duration::ZERO,
        };
        let mut raft = Group::new(config, restored, &ctx);
        steps(&mut raft, &ctx, &mut Effects::default());
        let store = Store::new(StoreLimits::default());
        Replica::new(raft, store, None, checkpoint)
    }

    #[test]
    fn a_change_of_support_concerns_those_who_rest_on_it() {
        let lost = replica(&[1, 2, 3], |_, _, _| {});
        let follows = replica(&[1, 2, 3], |raft, ctx, out| {
            let append = Append {
                core: CoreId(0),
                prev: LogPosition::default(),
                entries: Vec::new(),
                commit: Index(0),
                read_sequence: 0,
                wants_reply: true,
            };
            let message = Message { term: Term(1), body: Body::Append(append) };
            raft.step(ctx, NodeId(2), message, out);
        });
        let leads = replica(&[1], |raft, ctx, out| {
            raft.timer(ctx, out);
            let durable = Durable { hard_state: out.hard_state, last: None };
            raft.durable(ctx, durable, out);
        });
        assert_eq!((lost.raft.leader(), follows.raft.leader()), (None, Some(NodeId(2))));
        assert!(leads.raft.is_leader());
        let incarnation =
            |node| SupportChange::Incarnation { node: NodeId(node), incarnation: Incarnation(2) };
        let granted = |node| {
            let leader = CoreAddr::new(NodeId(node), CoreId(0));
            SupportChange::Granted { leader, grant: None }
        };
        let received =
            |node| SupportChange::Received { node: NodeId(node), epoch: Some(SupportEpoch(1)) };
        for (change, of_lost, of_follower, of_leader) in [
            (received(2), false, false, true),
            (granted(2), true, true, false),
            (granted(3), true, false, false),
            (incarnation(2), true, true, true),
            (incarnation(3), true, false, true),
        ] {
            let concerns = [&lost, &follows, &leads].map(|replica| replica.depends_on(&[change]));
            assert_eq!(concerns, [of_lost, of_follower, of_leader], "{change:?}");
        }
        assert!(!leads.depends_on(&[]) && leads.depends_on(&[granted(2), received(3)]));
    }
}
