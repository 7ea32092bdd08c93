//! Three replicas of one group in memory, whose disks confirm at once: what benches and counts of
//! instructions measure.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use oarlock_raft::{
    Configuration, Context, Durable, Effects, Grant, Group, GroupConfig, HardState, Message,
    Payload, Received, Restored, SnapshotMeta, Support,
};
use oarlock_types::{
    CoreAddr, CoreId, GroupId, Incarnation, Index, Limits, Mono, NodeId, SharedLimits, SupportEpoch,
};

/// Everybody supports everybody, for ever.
struct Faithful;

impl Support for Faithful {
    fn granted(&self, _: CoreAddr) -> Option<Grant> {
        Some(Grant { epoch: SupportEpoch(1), incarnation: Incarnation(1) })
    }
    fn received(&self, _: NodeId) -> Option<Received> {
        Some(Received { epoch: SupportEpoch(1), until: Mono::NEVER })
    }
    fn incarnation(&self) -> Incarnation {
        Incarnation(1)
    }
}

/// A leader and two followers.
pub(crate) struct Cluster {
    groups: Vec<Group>,
    out: Effects,
    /// Delivered in order, as a link between two nodes does.
    mail: VecDeque<(NodeId, NodeId, Message)>,
    /// Entries that were applied, of all three together.
    pub(crate) applied: usize,
}

impl Cluster {
    /// With the first of them elected.
    pub(crate) fn new() -> Self {
        let limits = SharedLimits::new(Limits::default());
        let voters = (1..=3).map(NodeId);
        let group = |node: u64| {
            let config = GroupConfig {
                group: GroupId(1),
                node: NodeId(node),
                core: CoreId(0),
                seed: node,
                limits: SharedLimits::clone(&limits),
            };
            let checkpoint = SnapshotMeta {
                configuration: Configuration::simple(voters.clone()),
                ..SnapshotMeta::default()
            };
            let restored = Restored {
                hard_state: HardState::default(),
                checkpoint,
                log_start: Index(1),
                entries: Vec::new(),
                first_election_delay: Duration::from_millis(node * 1000),
            };
            Group::new(config, restored, &context(Mono(0)))
        };
        let groups = (1..=3).map(group).collect();
        let mut cluster =
            Self { groups, out: Effects::default(), mail: VecDeque::new(), applied: 0 };
        let due = cluster.groups[0].deadline();
        cluster.groups[0].timer(&context(due), &mut cluster.out);
        cluster.settle(0);
        cluster.run();
        assert!(cluster.groups[0].is_leader());
        cluster
    }

    /// Performs the effects of one step of a group: its disk confirms at once.
    fn settle(&mut self, at: usize) {
        loop {
            let from = NodeId(at as u64 + 1);
            let out = &mut self.out;
            let mail = out.send_now.drain(..).chain(out.send_after_durable.drain(..));
            self.mail.extend(mail.map(|(to, message)| (from, to, message)));
            self.applied += black_box(&out.apply).len();
            let durable =
                Durable { hard_state: out.hard_state, last: out.append.last().map(|e| e.at) };
            out.clear();
            if durable.hard_state.is_none() && durable.last.is_none() {
                return;
            }
            self.groups[at].durable(&context(Mono::from_ms(1000)), durable, &mut self.out);
        }
    }

    fn run(&mut self) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            let at = usize::try_from(to.get() - 1).expect("three nodes");
            self.groups[at].step(&context(Mono::from_ms(1000)), from, message, &mut self.out);
            self.settle(at);
        }
    }

    /// Takes `count` entries of their own through all three, until nothing is left to do.
    pub(crate) fn propose(&mut self, payload: &Bytes, count: usize) {
        for _ in 0..count {
            let proposed = self.groups[0].propose(
                &context(Mono::from_ms(1000)),
                Payload::Packed(payload.clone()),
                &mut self.out,
            );
            proposed.expect("the leader takes it");
        }
        self.settle(0);
        self.run();
    }
}

fn context(now: Mono) -> Context<'static> {
    Context { now, support: &Faithful, may_vote: true }
}
