//! Ranges that go into the ones before them: who orders it, the way between a frozen range and its neighbour,
//! and the end of replicas whose range was taken, as maps come to tell of it.

use oarlock_codec::Refusal;
use oarlock_shard::{Merging, Outcome};
use oarlock_store::{Command, Order, Request};
use oarlock_types::{GroupId, NodeId, RangeEpoch};

use crate::clients::Sending;
use crate::node::Ask;
use crate::world::{Event, World};

/// Tokens from here on are those of frozen ranges.
pub(crate) const MERGES: u64 = 3 << 61;
/// The way to a neighbour takes at most so long; seldom much longer.
const WAY_US: u64 = 1_000;
const LONG_WAY_US: u64 = 2_000_000;

/// A question of a frozen range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    n: usize,
    /// The asking process.
    life: u64,
    group: GroupId,
    epoch: RangeEpoch,
}

impl World {
    /// Asks a range of a family, any but the first, to go into the one before it.
    pub(crate) fn merge_somewhere(&mut self, family: GroupId) {
        let groups = self.ranges.relatives(family);
        let able: Vec<GroupId> = groups
            .into_iter()
            .filter(|group| !self.ranges.bounds(*group).start.is_empty())
            .collect();
        if let Some(group) = able.get(self.node_random.place(able.len().max(1))) {
            self.merge(*group);
        }
    }

    /// Asks a range's leader to bring it into the one before it; the token of its answer.
    pub fn merge(&mut self, group: GroupId) -> Option<u64> {
        let bounds = self.ranges.bounds(group);
        let leader = self.leader(group)?;
        let left = self.ranges.left_of(group)?;
        let (into_start, into_epoch) = (left.start, left.epoch);
        let start = bounds.start.clone();
        let order = Command::Order(Order::Merge { start, into_start, into_epoch });
        Some(self.request_routed(leader, group, (bounds.epoch, None), Request::one(order)))
    }

    /// Sends a frozen range's question to whoever leads its neighbour; sometimes twice, sometimes late.
    pub(crate) fn ask_neighbour(&mut self, n: usize, merging: Merging) {
        let Merging { group, epoch, into_start, request } = merging;
        let times = if self.node_random.per_mille(100) { 2 } else { 1 };
        for _ in 0..times {
            let holder = self.ranges.holder(group, &into_start);
            let leader = holder.and_then(|(into, into_epoch)| {
                self.leader(into).map(|leader| (leader, into, into_epoch))
            });
            self.next_merge += 1;
            let token = MERGES + self.next_merge;
            let life = self.nodes[n].life;
            self.questions.insert(token, Question { n, life, group, epoch });
            let Some((to, group, epoch)) = leader else {
                let refusal = Err(Refusal::NotLeader { leader: None });
                self.merge_heard(token, &refusal);
                continue;
            };
            let most = if self.node_random.per_mille(50) { LONG_WAY_US } else { WAY_US };
            let at = self.now + 1 + self.node_random.below(most);
            let sending = Sending { token, to, group, epoch, request: request.clone() };
            let m = self.place(to);
            self.at(at, Event::Request { n: m, sending: Box::new(sending) });
        }
    }

    /// The outcome of a question is there: for the process that asked.
    pub(crate) fn merge_heard(&mut self, token: u64, outcome: &Outcome) {
        let Some(Question { n, life, group, epoch }) = self.questions.remove(&token) else {
            return;
        };
        if self.nodes[n].life == life && self.nodes[n].process.is_some() {
            let answer = Ask::Answer { group, epoch, outcome: outcome.clone() };
            self.ask(NodeId(n as u64 + 1), group, answer);
        }
    }

    /// Ranges have other bounds than before, or a new leader who may have come to it later than others.
    pub(crate) fn note_reshaped(&mut self, n: usize, c: usize, groups: &[GroupId]) {
        for group in groups {
            let process = self.nodes[n].process.as_ref();
            let known = process.and_then(|process| process.cores[c].shard.range(*group));
            let Some((bounds, ..)) = known else { continue };
            let bounds = bounds.clone();
            let taken = self.ranges.note_bounds(*group, &bounds);
            self.note_taken(n, *group, &taken);
        }
    }

    pub(crate) fn note_taken(&mut self, n: usize, group: GroupId, taken: &[GroupId]) {
        for taken in taken {
            let id = self.nodes[n].id;
            self.tell(id, || format!("{group} has taken {taken}"));
            self.oracle.end(*taken);
            self.begin_placing();
        }
    }

    /// Some of the replicas whose range was taken come to hear of it.
    pub(crate) fn end_taken(&mut self) {
        let taken: Vec<GroupId> = self.ranges.ended().collect();
        for n in 0..self.nodes.len() {
            for group in &taken {
                let core = self.nodes[n].core(&self.config, *group);
                let has = core.is_some_and(|core| core.shard.has_replica(*group));
                if has && self.node_random.per_mille(300) {
                    self.ask(NodeId(n as u64 + 1), *group, Ask::End(*group));
                }
            }
        }
    }
}
