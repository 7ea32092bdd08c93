//! Processes start over what the disks hold, and end in every way: killed, or with the machine.

use oarlock_cluster::{duties, members};
use oarlock_raft::SPLIT_BASE;
use oarlock_shard::pulse::{PulseAgent, PulseConfig};
use oarlock_shard::support_table::{SupportTable, TableConfig};
use oarlock_shard::{Homes, SharedHomes, SharedSupport};
use oarlock_types::{CoreAddr, CoreId, GroupId, Guard, Incarnation, Mono, NodeId};

use crate::driving::Driving;
use crate::letters::Known;
use crate::node::{Ask, CLUSTER, CORES_MAX, Core, Job, Process};
use crate::oracle::{Breach, Seen};
use crate::recover::{Logged, Parts, claim_cut_off, judge_losses, read_log, recover};
use crate::trace::What;
use crate::turn::came_back;
use crate::worker::finish_alone;
use crate::world::{BEAT_US, Event, World};

/// How often a process that starts looks whether the one before still holds the lock.
const LOCK_LOOK_US: u64 = 1000;
/// An operator sees within so long that a node has lost replicas.
const NOTICED_WITHIN_US: u64 = 1_500_000;

impl World {
    /// Starts a node's process, unless it runs; once the writes of the one before have landed.
    pub(crate) fn start(&mut self, n: usize) {
        let node = &self.nodes[n];
        if node.process.is_some() || node.is_absent || node.is_gone {
            return;
        }
        let is_locked = self.nodes[n].disks.iter().any(|disk| !disk.writes.is_empty());
        if is_locked && Guard::LockOutlivesProcess.is_on() {
            // The kernel still has writes of the process before: its rings hold the lock.
            let (at, life) = (self.now + LOCK_LOOK_US, self.nodes[n].life);
            self.at(at, Event::Start { n, life });
            return;
        }
        if !self.bring_home(n) {
            return;
        }
        let now = self.now;
        let seed = self.node_random.bits();
        let known = self.known(n);
        // The copy of the map may tell of some whom it had not met before it ended.
        for node in known.iter().flat_map(|known| &known.nodes) {
            self.make_room(node.id);
        }
        let node = &mut self.nodes[n];
        node.life += 1;
        node.incarnation = node.incarnation.next();
        let (id, life, mono) = (node.id, node.life, node.clock.mono(now));
        let cores = node.cores;
        let table = self.new_table(n, known.as_ref());
        let pulse_seed = if self.config.pulses_in_phase { 0 } else { seed };
        let pulses = PulseConfig::new(CLUSTER, &self.config.limits, pulse_seed);
        let agent = PulseAgent::new(pulses, &table, mono);
        let homes = Homes::new(cores);
        let (running, told) = self.recover_cores(n, (&table, &homes), (seed, mono), known.as_ref());
        let node = &mut self.nodes[n];
        let first_pulse = node.clock.real(agent.next_due()).max(now + 1);
        node.process = Some(Process {
            table,
            homes,
            agent,
            cores: running,
            pulses: Vec::new(),
            worker: std::collections::VecDeque::new(),
            worker_busy: false,
        });
        let incarnation = node.incarnation;
        self.trace.push(now, || What::Started { node: id, incarnation });
        for text in told {
            self.tell(id, || text);
        }
        self.look_at_start(n);
        self.at(first_pulse, Event::PulseDue { n, life });
        for c in 0..usize::from(cores) {
            let at = now + 1 + self.node_random.below(BEAT_US);
            self.wake_at(n, c, at);
        }
        self.reset_links(n);
        self.begin_dialling(n);
        self.plan_rebuilding(n);
    }

    /// The support table of a node that starts and knows these.
    fn new_table(&self, n: usize, known: Option<&Known>) -> SharedSupport {
        let (node, formed) = (&self.nodes[n], self.config.cores);
        let nodes: Vec<NodeId> = match known {
            Some(known) => members::reachable(&known.nodes).map(|node| node.id).collect(),
            None => self.config.node_ids().collect(),
        };
        // Who is not heard of yet has as many cores as it was let in with.
        let others = nodes.into_iter().filter(|peer| *peer != node.id);
        let peers: Vec<(NodeId, u16)> = others.map(|peer| (peer, formed)).collect();
        let table = SharedSupport::new(SupportTable::new(&TableConfig {
            node: node.id,
            incarnation: node.incarnation,
            cores: node.cores,
            cores_max: CORES_MAX,
            origin: Mono(0),
            peers: &peers,
        }));
        if let Some(known) = known {
            table.raise_map_version(known.copy.map.version());
            table.raise_level(known.copy.level);
        }
        table
    }

    /// Recovers a node's cores from their disks; with what they tell of damage.
    fn recover_cores(
        &mut self,
        n: usize,
        (table, homes): (&SharedSupport, &SharedHomes),
        (seed, mono): (u64, Mono),
        known: Option<&Known>,
    ) -> (Vec<Core>, Vec<String>) {
        let config = &self.config;
        let node = &mut self.nodes[n];
        let parts = |c: usize| Parts {
            config,
            addr: CoreAddr::new(node.id, CoreId(u16::try_from(c).expect("invariant: few cores"))),
            is_new: node.incarnation == Incarnation(1),
            support: SharedSupport::clone(table),
            homes: SharedHomes::clone(homes),
            seed: seed ^ (c as u64) << 32,
            now: mono,
            incarnation: node.incarnation,
            map: known.map(|known| &known.copy.map),
        };
        let by_map = match known {
            Some(known) => known.copy.map.groups_of(node.id).map(|range| range.group).collect(),
            None => node.placed.clone(),
        };
        let parts: Vec<Parts<'_>> = (0..node.disks.len()).map(parts).collect();
        let disks = &mut node.disks;
        let mut logs: Vec<Logged> =
            parts.iter().zip(&*disks).map(|(parts, disk)| read_log(parts, disk)).collect();
        for ((parts, disk), logged) in parts.iter().zip(&mut *disks).zip(&mut logs) {
            judge_losses(parts, disk, logged, &by_map);
        }
        for ((parts, disk), logged) in parts.iter().zip(&*disks).zip(&logs) {
            claim_cut_off(parts, disk, logged);
        }
        let mut running = Vec::new();
        let mut told = Vec::new();
        for ((parts, disk), logged) in parts.iter().zip(disks).zip(logs) {
            let back = recover(parts, disk, logged, &by_map);
            assert!(
                back.told.is_empty() || node.is_spoiled,
                "a sound disk is not called damaged: {}: {:?} at {} us",
                node.id,
                back.told,
                self.now
            );
            told.extend(back.told);
            let mut core = Core::new(parts.addr.core, back.shard, SharedHomes::clone(homes));
            if let (Some(cluster), Some(known)) = (&config.cluster, known) {
                let addr = (parts.addr, config);
                core.driving = Some(Box::new(Driving::new(addr, cluster, known, table, homes)));
            }
            running.push(core);
        }
        (running, told)
    }

    /// Somebody will see that replicas are lost, and ask for them to be rebuilt.
    fn plan_rebuilding(&mut self, n: usize) {
        let node = &self.nodes[n];
        let life = node.life;
        let cores = node.process.iter().flat_map(|process| &process.cores);
        if cores.flat_map(|core| core.shard.rebuild_stages()).next().is_some() {
            let at = self.now + 1000 + self.node_random.below(NOTICED_WITHIN_US);
            self.at(at, Event::Rebuild { n, life });
        }
        if self.config.cluster.is_some() && self.is_to_replace(self.nodes[n].id) {
            self.write_duty(self.nodes[n].id, Some(duties::DRAINING));
        }
    }

    /// All replicas that a node has lost are to be rebuilt, but those that nobody misses. The operator looks at these
    /// again: a group may take the node in later. On a node that is to be replaced they wait until it is drained:
    /// else placement would bring ranges there whose other voters are too few once one of them is cut.
    pub(crate) fn rebuild(&mut self, n: usize) {
        let node = &self.nodes[n];
        let (id, life) = (node.id, node.life);
        let cores = node.process.iter().flat_map(|process| &process.cores);
        let lost = cores.flat_map(|core| core.shard.rebuild_stages()).map(|(group, _)| group);
        let keeps_map = self.config.cluster.is_some();
        let is_early = keeps_map && self.is_to_replace(id) && !self.is_drained(id);
        let (left, due): (Vec<GroupId>, Vec<GroupId>) =
            lost.partition(|group| is_early || self.is_left_lost(id, *group));
        for group in due {
            self.ask(id, group, Ask::Rebuild(group));
        }
        if left.iter().any(|group| !self.ranges.has_ended(*group)) {
            self.at(self.now + NOTICED_WITHIN_US, Event::Rebuild { n, life });
        }
    }

    /// All that came back is shown to the oracle; what did not is lost for good.
    fn look_at_start(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(process) = &node.process else { return };
        let mut made_again: Vec<(usize, GroupId)> = Vec::new();
        for group in self.ranges.groups() {
            let at = node.home(&self.config, group);
            let core = &process.cores[usize::from(at.core.get())];
            let (raft, state) = (core.shard.raft(group), core.shard.applied_state(group));
            let (Some(raft), Some(state)) = (raft, state) else {
                let is_known = core.shard.rebuild_stages().any(|(lost, _)| lost == group);
                // A node's copy of the map may be older than the replica: then nobody can name it.
                let is_unnamed = self.config.cluster.is_some() && self.is_to_replace(node.id);
                if is_known || is_unnamed || node.is_outcast {
                    self.oracle.replica_lost(node.id, group, is_known || node.is_outcast);
                    continue;
                }
                // One that was created and had nothing on disk yet may never have been there. What a
                // split makes of its parent counts as durable before it is: it can be made again.
                let seen = self.oracle.seen(node.id, group);
                let is_made = |seen: &Seen| {
                    seen.durable == SPLIT_BASE.index && self.config.formed(group).is_none()
                };
                assert!(
                    seen.is_none_or(|seen| seen.durable.get() == 0 || is_made(seen)),
                    "what was served comes back or is known to be lost: {} neither has its replica \
                     of {group} nor misses it at {} us",
                    node.id,
                    self.now
                );
                self.oracle.replica_never_was(node.id, group);
                continue;
            };
            if node.disks[usize::from(at.core.get())].unmade.contains(&group) {
                self.oracle.replica_rebuilt(node.id, group);
                made_again.push((usize::from(at.core.get()), group));
            } else if self.oracle.is_lost(node.id, group)
                && !node.is_outcast
                && !self.oracle.replica_is_back(node.id, group, raft)
            {
                came_back(&mut self.oracle, node.id, group, &core.shard);
            }
            if let Err(Breach { property, text }) =
                self.oracle.look(self.now, (node.id, group), raft, state)
            {
                panic!("{property}: {text} (at the start, {} us)", self.now);
            }
            self.trace.replica(self.now, at, group, raft);
        }
        for (c, group) in made_again {
            self.nodes[n].disks[c].unmade.remove(&group);
        }
    }

    /// A node's process ends at once: killed, or with the power.
    pub(crate) fn end(&mut self, n: usize, by_power_loss: bool, why: &str) {
        let Some(process) = self.nodes[n].process.take() else { return };
        let id = self.nodes[n].id;
        self.trace.ended(self.now, id, why, by_power_loss);
        // The job at hand may have been done, or not.
        if let Some((c, job)) = process.worker.into_iter().next()
            && self.disk_random.per_mille(500)
        {
            match job {
                Job::Map(copy) => self.nodes[n].map_copy = Some(*copy),
                job @ (Job::Shard(..) | Job::Prepare(_) | Job::Recycle(_)) => {
                    finish_alone(&mut self.nodes[n].disks, c, job);
                }
            }
        }
        let mono = 1_000_000 + self.disk_random.below(100_000_000);
        let node = &mut self.nodes[n];
        for disk in &mut node.disks {
            disk.abandon_parts();
            if by_power_loss {
                disk.lose_power(&mut self.disk_random);
            }
            disk.trouble.wal_fails = false;
        }
        if by_power_loss {
            node.clock.restart(self.now, mono);
        }
        node.crash_after = None;
        let life = node.life;
        self.oracle.process_ended(id);
        self.end_links(n, by_power_loss);
        self.requests_lost(n, life);
    }

    /// Gives a node empty disks; its process must have ended.
    pub(crate) fn blank(&mut self, n: usize) {
        let disk = u128::from(self.node_random.bits()) << 64 | u128::from(n as u64 + 1);
        let node = &mut self.nodes[n];
        node.blank(&self.config, disk);
        node.is_spoiled = true;
        node.is_outcast = true;
        let id = node.id;
        for group in self.ranges.groups() {
            self.oracle.replica_lost(id, group, true);
        }
        self.tell(id, || "has blank disks".to_owned());
    }
}
