//! Moves of replicas, as a cluster's placement asks for them: step by step to other voters, whoever leads
//! by then, and the end of replicas that the map tells are no members any more.

use std::collections::BTreeMap;

use oarlock_types::{GroupId, Index, NodeId};

use crate::node::Ask;
use crate::world::{Event, World};

/// How often steps are asked for.
const PLACE_INTERVAL_US: u64 = 50_000;
/// A move that has not come to its end after so many steps is given up, and leaves what it leaves.
const STEPS_MAX: u32 = 100;

/// What is on its way where, and what the map knows of members.
#[derive(Debug, Default)]
pub(crate) struct Placing {
    wanted: BTreeMap<GroupId, (Vec<NodeId>, u32)>,
    has_begun: bool,
    /// Replicas have been asked to move.
    has_moves: bool,
    is_over: bool,
    /// The members of each group by the newest entry that has committed, as far as anybody told.
    members: BTreeMap<GroupId, (Index, Vec<NodeId>)>,
}

impl Placing {
    /// The voters that are asked for.
    pub(crate) fn wanted(&self, group: GroupId) -> Option<&[NodeId]> {
        self.wanted.get(&group).map(|(voters, _)| voters.as_slice())
    }

    /// A group's voters are those that were asked for.
    pub(crate) fn done(&mut self, group: GroupId) {
        self.wanted.remove(&group);
    }

    /// What anybody told of a group may be lost.
    pub(crate) fn forget(&mut self, group: GroupId) {
        self.wanted.remove(&group);
        self.members.remove(&group);
    }
}

impl World {
    /// Moves a replica of a group of a family to a node that has none.
    pub(crate) fn move_somewhere(&mut self, family: GroupId) {
        let group = self.relative(family);
        let Some(leader) = self.leader(group) else { return };
        let Some(now) = self.configuration(leader, group) else { return };
        let is_other = |node: &NodeId| !now.voters.contains(node) && !self.is_to_replace(*node);
        let others: Vec<NodeId> = self.able_nodes().filter(is_other).collect();
        let Some(joins) = others.get(self.node_random.place(others.len().max(1))) else { return };
        let leaves = self.node_random.place(now.voters.len());
        // Who is to be replaced is drained first.
        let drained = now.voters.iter().position(|node| self.is_to_replace(*node));
        let leaves = drained.unwrap_or(leaves);
        let mut voters = now.voters;
        voters[leaves] = *joins;
        if self.keep_a_quorum(group, &voters) {
            self.bring_to(group, voters);
        }
    }

    /// Begins to bring a group to these voters.
    pub fn bring_to(&mut self, group: GroupId, voters: Vec<NodeId>) {
        self.placing.wanted.insert(group, (voters, STEPS_MAX));
        self.placing.has_moves = true;
        self.begin_placing();
    }

    /// Nobody wishes for voters any more most of whom are gone for good.
    pub(crate) fn drop_wishes(&mut self) {
        let mut wanted = std::mem::take(&mut self.placing.wanted);
        wanted.retain(|group, (voters, _)| self.keep_a_quorum(*group, voters));
        self.placing.wanted = wanted;
    }

    pub(crate) fn begin_placing(&mut self) {
        // Where the cluster keeps its map, replicas end by that.
        if self.config.cluster.is_none() && !std::mem::replace(&mut self.placing.has_begun, true) {
            self.at(self.now + PLACE_INTERVAL_US, Event::Place);
        }
    }

    /// From now on nothing moves, and no replica ends.
    pub fn stop_placing(&mut self) {
        self.placing.is_over = true;
    }

    /// The members of a group have settled, as a replica tells that applied it.
    pub(crate) fn note_settled(&mut self, n: usize, c: usize, settled: &[GroupId]) {
        let Some(process) = &self.nodes[n].process else { return };
        for group in settled {
            let Some((_, at, members)) = process.cores[c].shard.range(*group) else { continue };
            let known = self.placing.members.entry(*group).or_default();
            if at > known.0 {
                *known = (at, members.members().collect());
            }
        }
    }

    /// Replicas have come to their end.
    pub(crate) fn note_destroyed(&mut self, n: usize, destroyed: &[GroupId]) {
        for group in destroyed {
            self.nodes[n].placed.remove(group);
            self.oracle.replica_never_was(self.nodes[n].id, *group);
        }
    }

    /// Asks for the next steps.
    pub(crate) fn go_on_placing(&mut self) {
        if self.placing.is_over {
            return;
        }
        self.at(self.now + PLACE_INTERVAL_US, Event::Place);
        let wanted: Vec<(GroupId, Vec<NodeId>)> = self
            .placing
            .wanted
            .iter_mut()
            .map(|(group, (voters, steps))| {
                *steps -= 1;
                (*group, voters.clone())
            })
            .collect();
        self.placing.wanted.retain(|_, (_, steps)| *steps > 0);
        for (group, voters) in wanted {
            if let Some(leader) = self.leader(group) {
                self.ask(leader, group, Ask::Place { group, voters });
            }
        }
        self.end_taken();
        if !self.placing.has_moves {
            return;
        }
        let mut left = Vec::new();
        for node in &self.nodes {
            for (group, (configured, members)) in &self.placing.members {
                let Some(core) = node.core(&self.config, *group) else { continue };
                if !members.contains(&node.id) && core.shard.has_replica(*group) {
                    left.push((node.id, *group, *configured));
                }
            }
        }
        for (node, group, configured) in left {
            self.ask(node, group, Ask::Destroy(group, configured));
        }
    }
}
