//! Replicas that go from core to core of their node: who orders it, and the letters and files between cores.

use oarlock_shard::{FileDone, FileJob, HandOver};
use oarlock_store::{Command, Order, Request};
use oarlock_types::{CoreId, GroupId, NodeId};

use crate::disk::Disk;
use crate::node::Ask;
use crate::world::World;

/// Does a job on the disk of a core, and on that of another one if it concerns both; `None` where nobody is told.
pub(crate) fn carry_out(disks: &mut [Disk], c: usize, job: FileJob) -> Option<FileDone> {
    let FileJob::Adopt { file, from } = job else { return disks[c].carry_out(job) };
    let trouble = disks[c].trouble;
    let fails = trouble.files_fail || trouble.full;
    let Some(bytes) = disks[place(from)].files.get(&file).filter(|_| !fails).cloned() else {
        return Some(FileDone::Failed);
    };
    disks[c].files.insert(file, bytes);
    Some(FileDone::Written)
}

fn place(core: CoreId) -> usize {
    usize::from(core.get())
}

impl World {
    /// Asks a replica of a group of a family to go to another core of its node.
    pub(crate) fn move_core_somewhere(&mut self, family: GroupId) {
        let group = self.relative(family);
        let has = |n: &usize| {
            let core = self.nodes[*n].core(&self.config, group);
            core.is_some_and(|core| core.shard.has_replica(group))
        };
        let able: Vec<usize> = (0..self.nodes.len()).filter(has).collect();
        let Some(n) = able.get(self.node_random.place(able.len().max(1))).copied() else { return };
        let own = self.nodes[n].home(&self.config, group).core;
        let cores = u64::from(self.nodes[n].cores);
        let Some(others) = cores.checked_sub(1).filter(|others| *others > 0) else { return };
        let further = 1 + self.node_random.below(others);
        let to = (u64::from(own.get()) + further) % cores;
        let to = CoreId(u16::try_from(to).expect("invariant: less than the cores"));
        let node = self.nodes[n].id;
        match self.leader(group) {
            Some(leader) if self.node_random.per_mille(500) => {
                let epoch = self.ranges.bounds(group).epoch;
                let order = Order::MoveCore { node: node.get(), core: to.get() };
                let order = Request::one(Command::Order(order));
                self.request_routed(leader, group, (epoch, None), order);
            }
            Some(_) | None => self.move_core(node, group, to),
        }
    }

    /// Asks a node's replica of a group to go to another core.
    pub fn move_core(&mut self, node: NodeId, group: GroupId, to: CoreId) {
        self.ask(node, group, Ask::MoveCore(group, to));
    }

    /// The core of a node that runs which has the replica of a group, by its directory.
    #[must_use]
    pub fn core_of(&self, node: NodeId, group: GroupId) -> Option<CoreId> {
        self.nodes[self.place(node)].process.as_ref()?.homes.core_of(group)
    }

    /// Replicas that have gone from core to core on this node since its process began.
    #[must_use]
    pub fn core_moves(&self, node: NodeId) -> u64 {
        let process = &self.nodes[self.place(node)].process;
        process.as_ref().map_or(0, |process| process.homes.moves())
    }

    /// Brings a core's letter to another one.
    pub(crate) fn post_hand_over(&mut self, n: usize, c: usize, to: CoreId, told: HandOver) {
        let from = self.nodes[n].addr(c).core;
        let Some(process) = &mut self.nodes[n].process else { return };
        process.cores[place(to)].letters.push((from, told));
        self.wake(n, place(to));
    }
}
