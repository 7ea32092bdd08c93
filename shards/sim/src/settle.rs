//! The end of a run: faults stop, and within a bounded time every group has a leader and serves,
//! every client has its answer, every queue is empty, every member has all that is committed; then
//! the histories are judged. What does not come to pass is told with who waits for what.

use std::collections::BTreeSet;

use oarlock_raft::{Configuration, Group};
use oarlock_types::{GroupId, Index, NodeId};

use crate::linearizability;
use crate::node::Node;
use crate::world::World;

/// Within this every group serves once faults have stopped.
const SERVES_WITHIN_US: u64 = 20_000_000;
/// Within this nothing is left undone: a request whose fate is open is given up after 30 s.
const RESTS_WITHIN_US: u64 = 45_000_000;

impl World {
    /// Who leads a group in the highest term in which somebody does, among processes that run.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = |node: &&Node| {
            let raft = node.core(&self.config, group).and_then(|core| core.shard.raft(group));
            raft.is_some_and(|raft| raft.is_leader())
        };
        let term = |node: &&Node| self.oracle.seen(node.id, group).map(|s| s.term);
        self.nodes.iter().filter(leads).max_by_key(term).map(|node| node.id)
    }

    /// A node's replica of a group, if it is served.
    #[must_use]
    pub fn replica(&self, node: NodeId, group: GroupId) -> Option<&Group> {
        self.nodes[self.place(node)].core(&self.config, group)?.shard.raft(group)
    }

    /// When each node that runs sends its next pulse.
    #[must_use]
    pub fn next_pulses_us(&self) -> Vec<u64> {
        let next = |node: &Node| Some(node.clock.real(node.process.as_ref()?.agent.next_due()));
        self.nodes.iter().filter_map(next).collect()
    }

    /// The members of a group as a node's replica knows them.
    #[must_use]
    pub fn configuration(&self, node: NodeId, group: GroupId) -> Option<Configuration> {
        self.replica(node, group).map(|raft| raft.configuration().clone())
    }

    /// The end of what is committed in a group, over all that has ever been seen.
    #[must_use]
    pub fn committed(&self, group: GroupId) -> Index {
        self.oracle.committed(group)
    }

    /// Ends all faults and holds the run to what it must come to.
    ///
    /// # Panics
    /// When it does not: with the property, and who waits for what.
    pub fn settle(&mut self) {
        if self.recovery.ended.is_some() {
            return self.judge();
        }
        self.calm();
        self.clients.is_resting = true;
        self.all_groups_serve();
        if self.config.cluster.is_some() {
            self.stands();
        }
        let rest = self.now + RESTS_WITHIN_US;
        let done = |world: &mut Self| world.clients.are_done() && world.is_at_rest();
        let end = rest - self.now;
        let came_to_rest = self.run_till_every(end, 50_000, done);
        assert!(came_to_rest, "everything comes to rest: {}", self.who_waits());
        if self.config.cluster.is_some() || self.recovery.stopped_at.is_some() {
            self.read_all_again();
        }
        self.judge();
    }

    /// Every group elects a leader and carries out a write, within a bounded time.
    ///
    /// # Panics
    /// When one does not: with who waits for what.
    pub fn all_groups_serve(&mut self) {
        let end = self.now + SERVES_WITHIN_US;
        let mut waiting: Vec<(GroupId, Option<(NodeId, u64)>)> =
            self.ranges.groups().map(|group| (group, None)).collect();
        while !waiting.is_empty() {
            assert!(
                self.now < end,
                "every group serves once faults have stopped: {}",
                waiting.iter().map(|(group, _)| self.tell_group(*group)).collect::<String>()
            );
            let mut left = Vec::new();
            // A range that is taken by another is served there.
            let groups: BTreeSet<GroupId> = self.ranges.groups().collect();
            for (group, asked) in waiting.into_iter().filter(|(group, _)| groups.contains(group)) {
                let outcome = asked.and_then(|(_, token)| self.take_outcome(token));
                if let Some(Ok(_)) = outcome {
                    continue;
                }
                // Who was asked and leads no more may take long to tell that it does not know.
                let leader = self.leader(group);
                let still = asked.filter(|(asked, _)| outcome.is_none() && leader == Some(*asked));
                let again = leader.filter(|_| still.is_none());
                let anew = again.map(|leader| (leader, self.probe(leader, group)));
                left.push((group, still.or(anew)));
            }
            waiting = left;
            self.run_for(20_000);
        }
    }

    fn run_till_every(
        &mut self,
        us_max: u64,
        every: u64,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.now + us_max;
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.run_for(every);
        }
        true
    }

    fn is_at_rest(&self) -> bool {
        self.unrest().next().is_none()
    }

    /// What is not at rest, in words.
    fn unrest(&self) -> impl Iterator<Item = String> + '_ {
        let groups = self.ranges.groups().flat_map(|group| self.behind(group));
        let nodes = self.nodes.iter().filter(|node| !node.is_outcast);
        let cores = nodes.flat_map(move |node| {
            let cores = node.process.iter().flat_map(|process| &process.cores).enumerate();
            cores.flat_map(move |(core, running)| {
                let mut unfinished = running.shard.unfinished();
                let rebuilding = running.shard.rebuild_stages();
                let rebuilding = rebuilding.filter(|(group, _)| {
                    running.shard.has_replica(*group) || !self.is_left_lost(node.id, *group)
                });
                unfinished.extend(rebuilding.map(|(g, at)| format!("{g} rebuilt: {}", at.name())));
                unfinished.into_iter().map(move |text| format!("{}/c{core}: {text}", node.id))
            })
        });
        groups.chain(cores)
    }

    /// Members of a group that lack something that is committed.
    fn behind(&self, group: GroupId) -> Vec<String> {
        let Some(leader) = self.leader(group) else { return vec![format!("{group}: no leader")] };
        let Some(configuration) = self.configuration(leader, group) else { return Vec::new() };
        let committed = self.committed(group);
        let mut behind = Vec::new();
        if configuration.is_joint() {
            behind.push(format!("{group}: still in {configuration:?}"));
        }
        for member in configuration.members() {
            let node = &self.nodes[self.place(member)];
            if node.is_outcast || node.is_gone {
                continue;
            }
            let core = node.core(&self.config, group);
            // It may be one that the node has lost and nobody can name: it is not made there again.
            if node.has_unnamed_losses() && core.is_none_or(|core| core.shard.raft(group).is_none())
            {
                continue;
            }
            let applied = core.and_then(|core| core.shard.applied_state(group)).map(|(at, _)| at);
            if applied != Some(committed) {
                behind.push(format!("{member} {group}: applied {applied:?} of {committed}"));
            }
        }
        behind
    }

    /// Judges every group's history.
    ///
    /// # Panics
    /// When one can not be that of one copy.
    pub fn judge(&self) {
        if self.config.is_outside_model() {
            return;
        }
        for (group, history, order) in self.clients.histories(&self.oracle.commands) {
            if let Err(violation) = linearizability::check_along(&history, &order) {
                panic!("linearizability of {group}: {violation}");
            }
        }
    }

    /// Who waits for what, for people.
    #[must_use]
    pub fn who_waits(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for line in self.unrest() {
            let _ = writeln!(text, "\n  {line}");
        }
        for (at, client) in self.clients.all.iter().enumerate() {
            if let Some(doing) = &client.doing {
                let _ = writeln!(text, "\n  client {at} waits for {}", doing.group);
            }
        }
        for group in self.ranges.groups().filter(|group| !self.behind(*group).is_empty()) {
            text.push_str(&self.tell_group(group));
        }
        text
    }

    fn tell_group(&self, group: GroupId) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for node in &self.nodes {
            let now = node.clock.mono(self.now);
            let replica = node.core(&self.config, group).and_then(|core| core.shard.raft(group));
            let Some(raft) = replica else {
                let _ = write!(text, "\n  {} {group}: no replica", node.id);
                continue;
            };
            let _ = write!(
                text,
                "\n  {} {group}: {} in {}, leader {:?}, log {}, durable {}, committed {}, bound \
                 {:?}, deadline in {:?}, {:?}, followers {:?}",
                node.id,
                raft.role().name(),
                raft.term(),
                raft.leader(),
                raft.last(),
                raft.durable_index(),
                raft.commit(),
                raft.binding(),
                raft.deadline().since(now),
                raft.configuration(),
                raft.progress().collect::<Vec<_>>(),
            );
        }
        text
    }
}
