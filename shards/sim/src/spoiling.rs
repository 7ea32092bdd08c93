//! Disks that are spoiled while members change: what a seed draws of that, from streams of its own, and whose disk
//! may be spoiled at a time.
//!
//! What the engine promises is that a group loses nothing as long as most of its voters, in both halves of a joint
//! configuration, have what they had on disk. Where members stay what they are one node of a run suffers all of it.
//! Here it goes by who is a member at the time: a disk is spoiled only if each group has a majority of sound voters
//! without it, by whatever configuration anybody may go by. So several nodes of a run may be spoiled, one after the
//! other was rebuilt, or those that have no group in common.

use oarlock_raft::Configuration;
use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId};

use crate::config::Config;
use crate::faults::{Fault, Trouble};
use crate::node::Node;
use crate::random::Stream;
use crate::world::World;

/// Of a thousand seeds with three nodes or more so many spoil disks by who is a member.
const SHARE_PER_MILLE: u64 = 120;

/// Whether a seed spoils disks while members change.
pub(crate) fn is_drawn(seed: u64) -> bool {
    Stream::new(seed, 40).per_mille(SHARE_PER_MILLE)
}

impl Config {
    /// Disks are spoiled now and then: one node's, or any's.
    pub(crate) fn spoil_disks(&mut self, seed: u64) {
        let mut random = Stream::new(seed, 41);
        let interval_us = [300_000, 1_000_000, 4_000_000][random.place(3)];
        let victim = random.per_mille(400).then(|| NodeId(1 + random.below(self.nodes)));
        let share = [250, 500, 1000][random.place(3)];
        let mut kinds: Vec<u64> = (0..KINDS).filter(|_| random.per_mille(share)).collect();
        // Who comes back blank under an old id stays outside for good: seldom, and where no map is kept, by
        // which it would come back as a new node.
        if self.cluster.is_none() && random.per_mille(200) {
            kinds.push(KINDS);
        }
        let mut number = self.faults.iter().map(|fault| fault.number + 1).max().unwrap_or(0);
        let mut at_us = 500_000;
        while !kinds.is_empty() {
            at_us += random.within(1, 2 * interval_us);
            if at_us >= self.duration_us {
                return;
            }
            let node = victim.unwrap_or_else(|| NodeId(1 + random.below(self.nodes)));
            let core = random.below(u64::from(self.cores));
            let at = CoreAddr::new(node, CoreId(u16::try_from(core).unwrap_or(0)));
            let trouble = match kinds[random.place(kinds.len())] {
                0 => Trouble::FlipBit(at),
                1 => Trouble::DropFile(at),
                2 => Trouble::SwapFiles(at),
                3 => Trouble::OldCheckpoint(at),
                4 => Trouble::LoseFiles(at),
                _ => Trouble::Blank(node),
            };
            let lasts_us = random.within(1000, 1_500_000);
            self.faults.push(Fault { number, at_us, lasts_us, trouble });
            number += 1;
        }
    }
}

/// Kinds of what spoils a disk, but that it is blank.
const KINDS: u64 = 5;

impl World {
    /// Whether a node's disk may be spoiled now: each group that it is a voter of has enough others. Always so where
    /// members stay and one node alone suffers that.
    pub(crate) fn may_spoil(&self, node: NodeId) -> bool {
        if !self.config.spoils_by_members {
            return true;
        }
        let is_there = self.nodes.get(self.place(node)).is_some_and(|n| !n.is_gone && !n.is_absent);
        is_there && self.ranges.groups().all(|group| self.can_spare(group, node))
    }

    /// Whether an operator drains a node and replaces it: it may have lost replicas that nobody can name, so that none
    /// is made there any more, or the others refuse it.
    pub(crate) fn is_to_replace(&self, node: NodeId) -> bool {
        let is_unfit = |node: &Node| node.is_outcast || node.has_unnamed_losses();
        self.nodes.get(self.place(node)).is_some_and(is_unfit)
    }

    /// Whether a lost replica stays so: another range has taken its own, and nobody could take it in; or its node is
    /// to be replaced, and the group does without it already.
    pub(crate) fn is_left_lost(&self, node: NodeId, group: GroupId) -> bool {
        let is_member = || self.oracle.members(group).is_member(node);
        self.ranges.has_ended(group) || (self.is_to_replace(node) && !is_member())
    }

    /// Whether a group has a majority of sound voters without a node, by each configuration that any replica has or
    /// that has committed.
    fn can_spare(&self, group: GroupId, node: NodeId) -> bool {
        let sound: Vec<NodeId> = self
            .nodes
            .iter()
            .map(|other| other.id)
            .filter(|other| *other != node && self.is_sound(*other, group))
            .collect();
        // Who is being rebuilt becomes a voter, also where the group has done without it since.
        let is_rebuilt = |other: &&Node| {
            let core = other.core(&self.config, group);
            core.is_some_and(|c| c.shard.rebuild_stages().any(|(rebuilt, _)| rebuilt == group))
        };
        let rebuilt: Vec<NodeId> = self.nodes.iter().filter(is_rebuilt).map(|n| n.id).collect();
        let is_majority = |set: &[NodeId]| {
            let more = rebuilt.iter().filter(|other| !set.contains(other)).count();
            let sound = set.iter().filter(|n| sound.contains(n)).count();
            !set.contains(&node) || sound * 2 > set.len() + more
        };
        // Who learns may be a voter by the next entry, in the place of one that is sound.
        let can_give_one = |set: &[NodeId]| {
            let sound = set.iter().filter(|n| sound.contains(n)).count();
            self.config.cluster.is_none() || sound.saturating_sub(1) * 2 > set.len()
        };
        let holds = |configuration: &Configuration| {
            let Configuration { voters, outgoing, learners } = configuration;
            let all = [voters.as_slice(), learners].concat();
            is_majority(voters)
                && is_majority(outgoing)
                && is_majority(&all)
                && (!learners.contains(&node) || can_give_one(voters))
        };
        let replicas =
            self.nodes.iter().filter_map(|n| n.core(&self.config, group)?.shard.raft(group));
        let mut known = replicas.flat_map(|raft| raft.open_configurations());
        known.all(holds)
            && self.oracle.known_members(group).all(holds)
            && holds(&self.oracle.members(group))
            && self.placing.wanted(group).is_none_or(is_majority)
    }

    /// Whether a node has all that its replica of a group ever had on disk: its disk was never spoiled, or the
    /// replica was rebuilt since and has all that is committed. A node that is to be replaced is not: if it is
    /// started again it may not make what a split makes.
    pub(crate) fn is_sound(&self, node: NodeId, group: GroupId) -> bool {
        if self.is_to_replace(node) {
            return false;
        }
        let node = &self.nodes[self.place(node)];
        if node.is_gone || node.is_absent {
            return false;
        }
        if !node.is_spoiled {
            return true;
        }
        let Some(core) = node.core(&self.config, group) else { return false };
        let is_rebuilt = core.shard.rebuild_stages().all(|(rebuilt, _)| rebuilt != group);
        is_rebuilt
            && core.shard.raft(group).is_some_and(|raft| {
                raft.is_settled_voter() && raft.durable_index() >= self.oracle.committed(group)
            })
    }
}
