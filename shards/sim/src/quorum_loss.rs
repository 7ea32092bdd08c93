//! Nodes that are lost for good, so many that groups have no quorum, and going on from what survives, by the code
//! that `oarlock recover` runs: all survivors are stopped, what each has is collected from its disks, the plan is
//! made and carried out, sometimes in several attempts, and they start.
//!
//! It decides nothing of that. What cannot be gone on with in one run ends it: a range of which nothing survives, or
//! a change of ranges that only the lost had. All that came before is judged then, too.

use std::collections::BTreeSet;

use oarlock_cluster::members::Member;
use oarlock_codec::commands;
use oarlock_raft::{Configuration, Payload, SnapshotMeta};
use oarlock_shard::losses::Lost;
use oarlock_store::{Command, Loader};
use oarlock_survivors::apply::wanted;
use oarlock_survivors::collect::{Beside, CoreLog, LogFault, Noted, collect, lost};
use oarlock_survivors::decide::decide;
use oarlock_survivors::plan::{GroupPlan, Plan, Survivor};
use oarlock_survivors::state::{KnownPeer, NodeState, ReplicaKind};
use oarlock_types::{DiskId, GroupId, NodeId};
use oarlock_wal::{Addition, Recovered, Wal};

use crate::config::Config;
use crate::disk::{Disk, Writing};
use crate::faults::{Fault, Trouble};
use crate::node::{CLUSTER, Node};
use crate::random::Stream;
use crate::recover::{load, read};
use crate::world::{Event, World};

/// Of a thousand seeds with three nodes or more so many lose a quorum for good.
const SHARE_PER_MILLE: u64 = 120;
/// So often other nodes are drawn if those leave nothing of a group, or a quorum of each.
const DRAWS_MAX: u64 = 40;
/// A plan is cut short after this many frames at most.
const FRAMES_MAX: u64 = 12;
/// Survivors are started within so long of each other.
const STARTED_WITHIN_US: u64 = 500_000;
/// Once survivors that had to be started first serve, their operator tries again.
const TRIED_AGAIN_US: u64 = 300_000;
/// Most plans of a run: a cut that its range refuses makes nothing.
const PLANS_MAX: u32 = 20;
/// When a second plan is made for a half that the first one's survivors have cut since.
const SECOND_PLAN_US: u64 = 2_000_000;

/// Whether a seed loses a quorum for good.
pub(crate) fn is_drawn(seed: u64) -> bool {
    Stream::new(seed, 30).per_mille(SHARE_PER_MILLE)
}

impl Config {
    /// A quorum is lost in the middle of the run. No disk of the others is spoiled.
    pub(crate) fn lose_quorum(&mut self, seed: u64) {
        let mut random = Stream::new(seed, 31);
        self.faults.retain(|fault| fault.trouble.spoils().is_none());
        let number = self.faults.iter().map(|fault| fault.number + 1).max().unwrap_or(0);
        let quarter = self.duration_us / 4;
        let at_us = quarter + random.below(quarter);
        let lasts_us = 1 + random.below(self.duration_us / 8);
        let trouble = Trouble::LoseQuorum(random.bits());
        self.faults.push(Fault { number, at_us, lasts_us, trouble });
        self.loses_quorum = true;
    }
}

/// What became of a recovery.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovery {
    /// The nodes that were given up.
    pub(crate) given_up: BTreeSet<NodeId>,
    /// When the survivors were stopped last.
    pub(crate) stopped_at: Option<u64>,
    /// Groups that entries of chosen logs are yet to make, without a quorum.
    cuts: BTreeSet<GroupId>,
    /// How many plans were carried out.
    plans: u32,
    /// Why the run does not go on.
    pub(crate) ended: Option<String>,
}

impl World {
    /// Nodes are gone for good, so that a group has no quorum and each keeps a replica, if there are such; what is left is
    /// gone on from later.
    pub(crate) fn lose_some_quorum(&mut self, seed: u64, ends_at: u64) {
        let mut random = Stream::new(seed, 32);
        let groups: Vec<GroupId> = self.ranges.groups().collect();
        let there = |node: &&Node| !node.is_gone && !node.is_absent;
        let there: Vec<NodeId> = self.nodes.iter().filter(there).map(|node| node.id).collect();
        for _ in 0..DRAWS_MAX {
            let group = groups[random.place(groups.len())];
            let Configuration { voters, .. } = self.oracle.members(group);
            let of_group = random.within(500, 900);
            let lost = there.iter().copied().filter(|node| {
                let share = if voters.contains(node) { of_group } else { 150 };
                random.per_mille(share)
            });
            let lost: BTreeSet<NodeId> = lost.collect();
            // The others refuse a node whose disks are blank, and the operator leaves it out.
            let is_blank = |n: &Node| n.is_outcast;
            let stays = |node: NodeId| {
                let is_blank = self.nodes.get(self.place(node)).is_some_and(is_blank);
                !lost.contains(&node) && !self.is_gone(node) && !is_blank
            };
            let has_none = |group: &GroupId| !self.oracle.members(*group).quorum(stays);
            let survives = |group: &GroupId| {
                let holds = |node: &NodeId| {
                    self.oracle.seen(*node, *group).is_some_and(|seen| seen.durable.get() > 0)
                };
                self.oracle.members(*group).members().any(|node| stays(node) && holds(&node))
            };
            if groups.iter().any(has_none) && groups.iter().all(survives) {
                return self.lose_quorum(&lost, seed, ends_at);
            }
        }
    }

    fn is_gone(&self, node: NodeId) -> bool {
        self.nodes.get(self.place(node)).is_some_and(|node| node.is_gone)
    }

    /// These nodes are gone for good; the others are stopped at `ends_at`, and gone on from.
    pub fn lose_quorum(&mut self, lost: &BTreeSet<NodeId>, seed: u64, ends_at: u64) {
        for node in lost {
            let n = self.place(*node);
            self.end(n, true, "is gone for good");
            self.nodes[n].is_gone = true;
        }
        self.drop_wishes();
        self.at(ends_at, Event::GoOn { seed });
    }

    /// Stops all survivors, makes the plan, carries it out, and starts them.
    ///
    /// # Panics
    /// When the plan is not what survivors and committed entries allow.
    pub fn go_on_from_survivors(&mut self, seed: u64) {
        let mut random = Stream::new(seed, 33);
        self.give_up_outcasts();
        let there = |n: &usize| !self.nodes[*n].is_gone && !self.nodes[*n].is_absent;
        let survivors: Vec<usize> = (0..self.nodes.len()).filter(there).collect();
        if self.start_unrecorded(&survivors) {
            return self.at(self.now + TRIED_AGAIN_US, Event::GoOn { seed });
        }
        for n in survivors.iter().copied() {
            self.stop(n, random.per_mille(400));
        }
        self.recovery.stopped_at = Some(self.now);
        let states: Vec<NodeState> = survivors.iter().map(|n| self.nodes[*n].collected()).collect();
        let plan = decide(&states).unwrap_or_else(|error| panic!("survivors make a plan: {error}"));
        let reversed: Vec<NodeState> = states.iter().rev().cloned().collect();
        assert_eq!(decide(&reversed).as_ref(), Ok(&plan), "a plan is one whoever is named first");
        for group in &plan.groups {
            self.tell(group.chosen, || {
                let GroupPlan { group, recovered_at, loss, .. } = group;
                format!("{group} is to go on from here at {recovered_at}: {loss:?}")
            });
        }
        let lost = self.judge_plan(&plan, &states);
        for n in survivors.iter().copied() {
            self.carry_plan_out(n, &plan, &mut random);
        }
        let again: Vec<NodeState> = survivors.iter().map(|n| self.nodes[*n].collected()).collect();
        let again = decide(&again).unwrap_or_else(|error| panic!("a plan again: {error}"));
        assert!(again.groups.is_empty(), "a plan leaves no group without a quorum: {again:?}");
        self.forget_given_up(&plan);
        self.recovery.ended = self.why_not_on(&plan, &states, &lost);
        if let Some(why) = self.recovery.ended.clone() {
            // None of them is started by anybody.
            self.nodes.iter_mut().for_each(|node| node.is_gone = true);
            return self.tell(NodeId(1), || format!("the run ends: {why}"));
        }
        self.clients.lose(&lost, self.now);
        for n in survivors {
            let (at, life) = (self.now + 1 + random.below(STARTED_WITHIN_US), self.nodes[n].life);
            self.at(at, Event::Start { n, life });
        }
        let is_made = |child: GroupId| states.iter().any(|state| state.of(child).next().is_some());
        self.recovery.plans += 1;
        self.recovery.cuts.extend(plan.groups.iter().flat_map(|group| &group.cuts));
        self.recovery.cuts.retain(|child| !is_made(*child));
        if self.recovery.plans < PLANS_MAX && !self.recovery.cuts.is_empty() {
            self.at(self.now + SECOND_PLAN_US, Event::GoOn { seed: random.bits() });
        }
        if self.config.cluster.is_none() {
            self.bring_back_replicas(&plan, &mut random);
        }
    }

    /// A node whose directory is blank under its old id is no survivor.
    fn give_up_outcasts(&mut self) {
        for n in 0..self.nodes.len() {
            if self.nodes[n].is_outcast && !self.nodes[n].is_gone {
                self.end(n, true, "is given up: its disks are blank");
                self.nodes[n].is_gone = true;
            }
        }
    }

    /// Starts the survivors that are down with damage of which nothing is written down, as `oarlock recover` asks its
    /// operator to before it collects anything. Whether there are such.
    fn start_unrecorded(&mut self, survivors: &[usize]) -> bool {
        let is_unrecorded = |n: &&usize| self.nodes[**n].is_unrecorded();
        let unrecorded: Vec<usize> = survivors.iter().filter(is_unrecorded).copied().collect();
        for n in unrecorded.iter().copied() {
            let id = self.nodes[n].id;
            self.tell(id, || "is to write down first what it has lost".to_owned());
            self.start(n);
        }
        !unrecorded.is_empty()
    }

    /// A survivor's process ends, and what it had on its way has landed or never will.
    fn stop(&mut self, n: usize, by_power_loss: bool) {
        self.end(n, by_power_loss, "is stopped");
        let node = &mut self.nodes[n];
        // Tools refuse a directory in which a change of cores has not come to its end.
        node.end_core_change();
        node.pauses = 0;
        for disk in &mut node.disks {
            for write in disk.writes.keys().copied().collect::<Vec<_>>() {
                disk.land(write);
            }
            disk.trouble.full = false;
        }
    }

    /// Holds the plan against all that was committed. Gives what is lost by it.
    fn judge_plan(&mut self, plan: &Plan, states: &[NodeState]) -> Vec<(GroupId, Payload)> {
        let survivors: BTreeSet<NodeId> = states.iter().map(|state| state.node).collect();
        let mut lost = Vec::new();
        for group in &plan.groups {
            let gone = self.oracle.go_on(group, &survivors);
            let gone = gone.unwrap_or_else(|breach| panic!("{breach} (at {} us)", self.now));
            lost.extend(gone.into_iter().map(|payload| (group.group, payload)));
        }
        lost
    }

    /// Carries the plan out on a survivor, whose power may fail meanwhile, again and again.
    fn carry_plan_out(&mut self, n: usize, plan: &Plan, random: &mut Stream) {
        let mut attempts = if random.per_mille(400) { random.within(1, 3) } else { 0 };
        loop {
            let frames = if attempts > 0 { random.below(FRAMES_MAX) } else { u64::MAX };
            let node = &mut self.nodes[n];
            for given_up in &plan.given_up {
                node.known_disks.insert(*given_up, DiskId::NONE);
            }
            if node.carry_out(plan, frames, random) {
                break;
            }
            attempts -= 1;
            let id = self.nodes[n].id;
            self.tell(id, || "dies while it carries the plan out".to_owned());
        }
        assert!(self.nodes[n].carry_out(plan, 0, random), "what is carried out is done");
    }

    /// Nodes that were let in and have not started are given up like the others: they come as new ones.
    fn forget_given_up(&mut self, plan: &Plan) {
        for id in &plan.given_up {
            self.make_room(*id);
            let n = self.place(*id);
            self.nodes[n].is_gone = true;
        }
        self.recovery.given_up.extend(&plan.given_up);
        self.joining.begin_anew();
    }

    /// Why the run cannot go on with this plan, if it cannot.
    fn why_not_on(
        &self,
        plan: &Plan,
        states: &[NodeState],
        lost: &[(GroupId, Payload)],
    ) -> Option<String> {
        if !plan.gone.is_empty() {
            return Some(format!("nothing survives of {:?}", plan.gone));
        }
        if let Some(cut) = plan.groups.iter().find(|group| group.is_cut_since) {
            return Some(format!("nobody has the entry that changed the bounds of {}", cut.group));
        }
        let holds = |group: &GroupId| {
            let mut all = states.iter().flat_map(|state| state.of(*group));
            all.any(|replica| replica.kind == ReplicaKind::Whole)
                || cuts(states).any(|child| child == *group)
        };
        if let Some(group) = self.ranges.groups().find(|group| !holds(group)) {
            return Some(format!("no survivor knows of {group}"));
        }
        let changes = lost.iter().find(|(_, payload)| changes_ranges(payload));
        changes.map(|(group, _)| format!("{group} has lost a change of ranges"))
    }

    /// Where the cluster keeps no map, operators bring the missing replicas back.
    fn bring_back_replicas(&mut self, plan: &Plan, random: &mut Stream) {
        let wanted = usize::try_from(self.config.replicas).expect("invariant: few replicas");
        for group in &plan.groups {
            self.placing.forget(group.group);
            let others = plan.survivors.iter().map(|survivor| survivor.node);
            let mut voters: Vec<NodeId> = others.filter(|node| *node != group.chosen).collect();
            while voters.len() >= wanted.max(1) {
                voters.remove(random.place(voters.len()));
            }
            voters.push(group.chosen);
            if random.per_mille(700) {
                self.bring_to(group.group, voters);
            }
        }
    }

    /// Whether survivors have been gone on from.
    #[must_use]
    pub fn has_gone_on(&self) -> bool {
        self.recovery.stopped_at.is_some()
    }

    /// Why the run does not go on after a recovery, if it does not.
    #[must_use]
    pub fn ended(&self) -> Option<&str> {
        self.recovery.ended.as_deref()
    }

    /// A node that was given up comes back, and the others do not refuse it, against all that the plan asks for: what
    /// is left then is how survivors vote.
    pub fn come_back_unrefused(&mut self, node: NodeId) {
        let n = self.place(node);
        self.nodes[n].is_gone = false;
        for other in &mut self.nodes {
            other.known_disks.remove(&node);
        }
        self.start(n);
    }
}

/// Groups that entries of survivors' logs may yet make.
fn cuts(states: &[NodeState]) -> impl Iterator<Item = GroupId> {
    let replicas = states.iter().flat_map(|state| &state.replicas);
    replicas.flat_map(|replica| &replica.cuts).map(|cut| cut.child)
}

/// Whether an entry changes which range has which keys.
fn changes_ranges(payload: &Payload) -> bool {
    match payload {
        Payload::Split(_) | Payload::Merge(_) => true,
        Payload::Noop | Payload::Config(_) => false,
        Payload::Commands(_) | Payload::Packed(_) => {
            let batch = commands::batch(payload).expect("an entry of ours");
            let mut all = batch.requests.iter().flat_map(|request| &request.commands);
            all.any(|command| matches!(command, Command::Absorb(_)))
        }
    }
}

impl Node {
    /// What it has while it does not run, as `oarlock recover collect` tells it.
    fn collected(&self) -> NodeState {
        let peers = self.known_disks.iter();
        let mut told = self.admission.iter().flat_map(|admission| &admission.joined);
        let own = told.find(|entry| entry.id == self.id);
        let beside = Beside {
            cluster: CLUSTER,
            survivor: self.as_survivor(),
            own: own.map(|entry| Member { entry: entry.clone(), disk: self.disk_id }),
            peers: peers.map(|(node, disk)| KnownPeer { node: *node, disk: *disk }).collect(),
            copy: self.map_copy.clone(),
        };
        let log = |c: usize| {
            let (recovered, lost) = self.read_losses(c);
            let lost = lost.unwrap_or_else(|fault| panic!("what is lost is noted: {fault:?}"));
            let has_unnamed_losses = self.disks[c].unnamed_losses.is_some();
            CoreLog { core: self.addr(c).core, recovered, lost, has_unnamed_losses }
        };
        let logs = (0..self.disks.len()).map(log).collect();
        let load = |core: oarlock_types::CoreId, group, meta: &SnapshotMeta, loader: Loader| {
            load(&self.disks[usize::from(core.get())], group, meta, loader)
        };
        let state = collect(beside, logs, load);
        state.unwrap_or_else(|fault| panic!("what {} has can be told: {fault}", self.id))
    }

    /// A core's log, and which of its replicas are lost.
    fn read_losses(&self, c: usize) -> (Recovered, Result<Lost, LogFault>) {
        let disk = &self.disks[c];
        let recovered = read(disk);
        let lost = lost(
            &recovered,
            &Noted {
                had_begun: disk.begun.is_some(),
                lost: &disk.lost,
                has_unnamed: disk.unnamed_losses.is_some(),
                incarnation: self.incarnation,
            },
        );
        (recovered, lost)
    }

    /// Whether its disks were spoiled since it was last started.
    fn is_unrecorded(&self) -> bool {
        let is_unrecorded = |c| matches!(self.read_losses(c).1, Err(LogFault::Unrecorded));
        self.process.is_none() && (0..self.disks.len()).any(is_unrecorded)
    }

    fn as_survivor(&self) -> Survivor {
        Survivor { node: self.id, disk: self.disk_id, incarnation: self.incarnation }
    }

    /// Writes what is left of a plan; false if the power fails once so many frames were written.
    fn carry_out(&mut self, plan: &Plan, mut frames: u64, random: &mut Stream) -> bool {
        assert_eq!(plan.survivor(self.id), Some(&self.as_survivor()), "the plan knows it");
        for c in 0..self.disks.len() {
            let addr = self.addr(c);
            let recovered = read(&self.disks[c]);
            let (mut wal, mut groups) = (recovered.wal, recovered.groups);
            for group in &plan.groups {
                let here = group.replicas.iter();
                let here = here.filter(|there| there.node == addr.node && there.core == addr.core);
                for survived in here {
                    let found = groups.remove(&group.group);
                    let left = wanted(group, survived, addr, found);
                    let left = left.unwrap_or_else(|found| {
                        panic!("the plan saw {survived:?} of {}, it has {found}", group.group)
                    });
                    if !add(&mut self.disks[c], &mut wal, &left, &mut frames, random) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// Adds to a log, as production's tools do; false if the power fails meanwhile.
pub(crate) fn add(
    disk: &mut Disk,
    wal: &mut Wal,
    additions: &[Addition],
    frames: &mut u64,
    random: &mut Stream,
) -> bool {
    for addition in additions {
        wal.add(addition);
    }
    while let Some(length) = wal.next_frame_bytes() {
        let mut bytes = vec![0; length];
        let Some(frame) = wal.seal(&mut bytes) else {
            if let Some(segment) = wal.next_segment_wanted() {
                assert!(disk.prepare(segment), "invariant: there is room");
                wal.segment_prepared(segment);
            }
            continue;
        };
        let lsn = frame.lsn;
        disk.writes.insert(0, Writing { frame, bytes, life: 0 });
        if *frames == 0 {
            disk.tear(random);
            return false;
        }
        *frames -= 1;
        disk.land(0);
        wal.durable(lsn);
    }
    true
}
