//! What each fault does to the world when it begins and when it ends, and the same as calls for
//! scenarios.

use bytes::Bytes;
use oarlock_types::{CoreAddr, GroupId, NodeId};

use crate::clients::client_keys;
use crate::config::Weather;
use crate::disk::{Disk, DiskTrouble};
use crate::faults::Trouble;
use crate::node::Ask;
use crate::trace::What;
use crate::world::{Event, World};

impl World {
    pub(crate) fn fault_begins(&mut self, place: usize) {
        if self.are_faults_over {
            return;
        }
        let fault = self.config.faults[place].clone();
        let (number, trouble) = (fault.number, fault.trouble.clone());
        self.trace.push(self.now, || What::Fault { number, trouble, begins: true });
        self.figures.faults += 1;
        let ends_at = self.now + fault.lasts_us;
        self.trouble(&fault.trouble, ends_at);
        self.at(ends_at, Event::FaultEnds { place });
    }

    pub(crate) fn fault_ends(&mut self, place: usize) {
        if self.are_faults_over {
            return;
        }
        let fault = self.config.faults[place].clone();
        let (number, trouble) = (fault.number, fault.trouble.clone());
        self.trace.push(self.now, || What::Fault { number, trouble, begins: false });
        self.relief(&fault.trouble);
    }

    /// Changes what is wrong with a core's disk, if its node has that core now.
    fn disk(&mut self, at: CoreAddr, change: impl FnOnce(&mut DiskTrouble)) {
        let n = self.place(at.node);
        let disk = self.nodes[n].disks.get_mut(usize::from(at.core.get()));
        if let Some(disk) = disk {
            change(&mut disk.trouble);
        }
    }

    fn block(&mut self, from: NodeId, to: NodeId) {
        self.block_data(from, to);
        self.block_pulses(from, to);
    }

    /// Begins a trouble.
    pub fn trouble(&mut self, trouble: &Trouble, ends_at: u64) {
        match trouble {
            Trouble::Split(side) => {
                self.ways_of(side).into_iter().for_each(|(a, b)| self.block(a, b));
            }
            Trouble::OneWay(a, b) => self.block(*a, *b),
            Trouble::Pair(a, b) => self.cut(*a, *b),
            Trouble::DataOnly(a, b) => self.block_data(*a, *b),
            Trouble::PulsesOnly(a, b) => self.block_pulses(*a, *b),
            Trouble::SlowLink(a, b, us) => {
                self.network.slow.insert((*a, *b), *us);
            }
            Trouble::BreakLinks(a, b) => self.break_links(*a, *b, false),
            Trouble::HalfOpen(a, b) => self.break_links(*a, *b, true),
            Trouble::Kill(node) => self.kill(*node),
            Trouble::PowerLoss(node) => self.power_loss(*node),
            Trouble::PowerLossAll => {
                self.config.node_ids().for_each(|node| self.power_loss(node));
            }
            Trouble::CrashAtEffect(node, effects, by_power_loss) => {
                let n = self.place(*node);
                self.nodes[n].crash_after = Some((*effects, *by_power_loss));
            }
            Trouble::Pause(node) => self.pause(*node),
            Trouble::StuckCore(at) => self.stick(*at),
            Trouble::WalStall(at) => self.disk(*at, |disk| disk.wal_stalled_until = ends_at),
            Trouble::WalSlow(at, times) => self.disk(*at, |disk| disk.slowness = *times),
            Trouble::WalFail(at) => self.disk(*at, |disk| disk.wal_fails = true),
            Trouble::FilesStall(at) => self.disk(*at, |disk| disk.files_stalled_until = ends_at),
            Trouble::FilesFail(at) => self.disk(*at, |disk| disk.files_fail = true),
            Trouble::DiskFull(node) => self.fill_disk(*node, true),
            Trouble::ClockRate(node, rate) => {
                let (n, now) = (self.place(*node), self.now);
                self.nodes[n].clock.set_rate(now, *rate);
            }
            Trouble::WallJump(node, ms) => {
                let n = self.place(*node);
                self.nodes[n].clock.jump_wall(*ms);
            }
            Trouble::Blank(node) if self.may_spoil(*node) => self.lose_disk(*node),
            Trouble::Blank(_) => {}
            Trouble::FlipBit(at)
            | Trouble::DropFile(at)
            | Trouble::SwapFiles(at)
            | Trouble::OldCheckpoint(at)
            | Trouble::LoseFiles(at) => {
                if self.may_spoil(at.node) {
                    self.spoil(*at, trouble);
                }
            }
            Trouble::Transfer(group) => {
                let group = self.relative(*group);
                if let Some(leader) = self.leader(group) {
                    self.ask(leader, group, Ask::Transfer(group, None));
                }
            }
            Trouble::Members(group) => {
                let group = self.relative(*group);
                self.change_members(group);
            }
            Trouble::Cut(group) => self.cut_somewhere(*group),
            Trouble::Merge(group) => self.merge_somewhere(*group),
            Trouble::Move(group) => self.move_somewhere(*group),
            Trouble::MoveCore(group) => self.move_core_somewhere(*group),
            Trouble::ChangeCores(node, cores, end) => self.end_for_cores(*node, *cores, *end),
            Trouble::Node(trouble) => self.node_trouble(trouble),
            Trouble::LoseQuorum(seed) => self.lose_some_quorum(*seed, ends_at),
        }
    }

    /// Ends a trouble.
    pub fn relief(&mut self, trouble: &Trouble) {
        match trouble {
            Trouble::Split(side) => self.ways_of(side).into_iter().for_each(|(a, b)| {
                self.free_data(a, b);
                self.free_pulses(a, b);
            }),
            Trouble::OneWay(a, b) => {
                self.free_data(*a, *b);
                self.free_pulses(*a, *b);
            }
            Trouble::Pair(a, b) => self.join(*a, *b),
            Trouble::DataOnly(a, b) => self.free_data(*a, *b),
            Trouble::PulsesOnly(a, b) => self.free_pulses(*a, *b),
            Trouble::SlowLink(a, b, _) => {
                self.network.slow.remove(&(*a, *b));
            }
            Trouble::Kill(node)
            | Trouble::PowerLoss(node)
            | Trouble::CrashAtEffect(node, ..)
            | Trouble::ChangeCores(node, ..)
            | Trouble::Blank(node) => {
                let n = self.place(*node);
                if let Some(node) = self.nodes.get_mut(n) {
                    node.crash_after = None;
                    self.start(n);
                }
            }
            Trouble::FlipBit(at)
            | Trouble::DropFile(at)
            | Trouble::SwapFiles(at)
            | Trouble::OldCheckpoint(at)
            | Trouble::LoseFiles(at) => {
                self.restart(at.node);
            }
            Trouble::PowerLossAll => self.config.node_ids().for_each(|node| self.restart(node)),
            Trouble::Pause(node) => self.resume(*node),
            Trouble::StuckCore(at) => self.unstick(*at),
            Trouble::WalSlow(at, _) => self.disk(*at, |disk| disk.slowness = 0),
            Trouble::WalStall(at) => self.disk(*at, |disk| disk.wal_stalled_until = 0),
            Trouble::FilesStall(at) => self.disk(*at, |disk| disk.files_stalled_until = 0),
            Trouble::WalFail(at) => self.disk(*at, |disk| disk.wal_fails = false),
            Trouble::FilesFail(at) => self.disk(*at, |disk| disk.files_fail = false),
            Trouble::DiskFull(node) => self.fill_disk(*node, false),
            Trouble::BreakLinks(..)
            | Trouble::HalfOpen(..)
            | Trouble::ClockRate(..)
            | Trouble::WallJump(..)
            | Trouble::Transfer(_)
            | Trouble::Members(_)
            | Trouble::Move(_)
            | Trouble::MoveCore(_)
            | Trouble::Merge(_)
            | Trouble::Cut(_)
            | Trouble::Node(_)
            | Trouble::LoseQuorum(_) => {}
        }
    }

    /// Every way between these nodes and the others, in both directions.
    fn ways_of(&self, side: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let others = self.config.node_ids().filter(|node| !side.contains(node));
        let pairs = others.flat_map(|other| side.iter().map(move |node| (*node, other)));
        pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
    }

    /// These two no longer hear each other.
    pub fn cut(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            self.block_data(from, to);
            self.block_pulses(from, to);
        }
    }

    /// These two hear each other again.
    pub fn join(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            self.free_data(from, to);
            self.free_pulses(from, to);
        }
    }

    /// A node's process is killed; its machine goes on.
    pub fn kill(&mut self, node: NodeId) {
        let n = self.place(node);
        self.end(n, false, "ends");
    }

    /// A node's power fails.
    pub fn power_loss(&mut self, node: NodeId) {
        let n = self.place(node);
        self.end(n, true, "ends");
    }

    /// A node's power fails, and its disks are blank then.
    fn lose_disk(&mut self, node: NodeId) {
        self.power_loss(node);
        let n = self.place(node);
        self.blank(n);
    }

    /// A node's process starts over what its disks hold, unless it runs.
    pub fn restart(&mut self, node: NodeId) {
        let n = self.place(node);
        self.start(n);
    }

    /// A node's process stands still; the machine goes on.
    pub fn pause(&mut self, node: NodeId) {
        let n = self.place(node);
        self.nodes[n].pauses += 1;
    }

    /// A process that stood still goes on.
    pub fn resume(&mut self, node: NodeId) {
        let n = self.place(node);
        let life = self.nodes[n].life;
        if self.nodes[n].pauses == 0 {
            return;
        }
        self.nodes[n].pauses -= 1;
        if self.nodes[n].pauses > 0 {
            return;
        }
        self.read_waiting_pulses(n);
        let at = self.now + 1 + self.node_random.below(1000);
        self.at(at, Event::PulseDue { n, life });
        for c in 0..usize::from(self.nodes[n].cores) {
            self.wake(n, c);
        }
    }

    /// A core's loop stands still; its node lives.
    pub fn stick(&mut self, at: CoreAddr) {
        let n = self.place(at.node);
        self.nodes[n].stuck[usize::from(at.core.get())] += 1;
    }

    /// A core's loop goes on.
    pub fn unstick(&mut self, at: CoreAddr) {
        let (n, c) = (self.place(at.node), usize::from(at.core.get()));
        let stuck = &mut self.nodes[n].stuck[c];
        *stuck = stuck.saturating_sub(1);
        // It may have fewer cores by now.
        if at.core.get() < self.nodes[n].cores {
            self.wake(n, c);
        }
    }

    /// A node's disk has no room, or has room again.
    pub fn fill_disk(&mut self, node: NodeId, is_full: bool) {
        let n = self.place(node);
        self.nodes[n].disks.iter_mut().for_each(|disk| disk.trouble.full = is_full);
    }

    fn spoil(&mut self, at: CoreAddr, trouble: &Trouble) {
        let n = self.place(at.node);
        let core = usize::from(at.core.get());
        // An older state is what was removed of late, and that is forgotten with the power.
        let is_old = matches!(trouble, Trouble::OldCheckpoint(_));
        let disk = self.nodes[n].disks.get_mut(core).filter(|_| is_old);
        let aged = disk.and_then(Disk::age_file);
        self.power_loss(at.node);
        let random = &mut self.disk_random;
        let node = &mut self.nodes[n];
        let Some(disk) = node.disks.get_mut(core) else { return };
        let spoiled = if matches!(trouble, Trouble::FlipBit(_)) {
            disk.flip(random)
        } else if matches!(trouble, Trouble::DropFile(_)) {
            disk.drop_file(random)
        } else if matches!(trouble, Trouble::OldCheckpoint(_)) {
            aged
        } else if matches!(trouble, Trouble::LoseFiles(_)) {
            disk.lose_all()
        } else {
            disk.swap_files(random)
        };
        node.is_spoiled |= spoiled.is_some();
        self.tell(at.node, || format!("{} is spoiled: {spoiled:?}", at.core));
    }

    /// One of the groups that splits have made of this one, or itself.
    pub(crate) fn relative(&mut self, group: GroupId) -> GroupId {
        let all = self.ranges.relatives(group);
        // Where there is no choice nothing is drawn.
        if all.len() > 1 { all[self.node_random.place(all.len())] } else { group }
    }

    /// Cuts a range at one of the keys that clients use, if it holds one that can be cut at.
    fn cut_somewhere(&mut self, family: GroupId) {
        let group = self.relative(family);
        let bounds = self.ranges.bounds(group);
        let families: Vec<GroupId> = match &self.config.cluster {
            Some(_) => self.config.group_ids().collect(),
            None => vec![family],
        };
        let keys = families.iter().flat_map(|family| client_keys(&self.config, *family));
        let keys: Vec<Bytes> = keys.collect();
        let able: Vec<&Bytes> = keys.iter().filter(|key| bounds.can_split_at(key)).collect();
        if let Some(at) = able.get(self.node_random.place(able.len().max(1))) {
            self.cut_range(group, (*at).clone());
        }
    }

    /// Nodes that are not gone for good.
    pub(crate) fn able_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(|node| !node.is_gone).map(|node| node.id)
    }

    /// Whether most of these are not gone for good, and have what they had on disk: no operator asks for others.
    pub(crate) fn keep_a_quorum(&self, group: GroupId, voters: &[NodeId]) -> bool {
        let is_sound = |node| !self.config.spoils_by_members || self.is_sound(node, group);
        let stays = |node: &&NodeId| !self.nodes[self.place(**node)].is_gone && is_sound(**node);
        voters.iter().filter(stays).count() * 2 > voters.len()
    }

    /// A change of members that a group may be asked for now: one joins, leaves, or is replaced.
    fn change_members(&mut self, group: GroupId) {
        let Some(leader) = self.leader(group) else { return };
        let Some(now) = self.configuration(leader, group) else { return };
        let mut voters = now.voters.clone();
        let mut learners = now.learners.clone();
        // Where a node's disk may yet be lost, two voters would be too few.
        let may_lose = self.config.faults.iter().any(|fault| fault.trouble.spoils().is_some());
        let least = if may_lose { 3 } else { 2 };
        let others: Vec<NodeId> = self.able_nodes().filter(|node| !voters.contains(node)).collect();
        let joins = others.get(self.node_random.place(others.len().max(1))).copied();
        let leaves = voters[self.node_random.place(voters.len())];
        let kind = self.node_random.below(4);
        if let Some(joins) = joins {
            let is_able = !self.nodes[self.place(joins)].is_spoiled;
            learners.retain(|node| *node != joins);
            match kind {
                0 if is_able => learners.push(joins),
                1 | 2 if is_able => voters.push(joins),
                _ => {}
            }
        }
        if kind >= 2 && voters.len() > least {
            voters.retain(|node| *node != leaves);
        }
        if !self.keep_a_quorum(group, &voters) {
            return;
        }
        if self.config.has_moves() || self.config.loses_quorum {
            // Replicas that have left are ended, survivors may stand back: who joins must learn first.
            self.bring_to(group, voters);
        } else {
            self.ask(leader, group, Ask::Members { group, voters, learners });
        }
    }

    /// All faults end: ways are free, disks sound and quick, every process runs.
    pub fn calm(&mut self) {
        self.are_faults_over = true;
        self.trace.push(self.now, || What::Calm);
        self.weather = Weather::CALM;
        self.free_all_ways();
        let (now, bound) = (self.now, u64::from(self.config.limits.drift_per_mille_max));
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            node.crash_after = None;
            node.stuck.fill(0);
            node.disks.iter_mut().for_each(|disk| disk.trouble = DiskTrouble::default());
            let rate = self.config.clock_rates.get(n).copied().unwrap_or(1000);
            node.clock.set_rate(now, rate.clamp(1000 - bound, 1000 + bound));
            let id = node.id;
            if node.pauses > 0 {
                node.pauses = 1;
                self.resume(id);
            }
            self.start(n);
            for c in 0..usize::from(self.nodes[n].cores) {
                self.wake(n, c);
            }
        }
    }
}
