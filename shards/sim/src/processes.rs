//! Processes start over what the disks hold, and end in every way: killed, or with the machine.

use oarlock_shard::SharedSupport;
use oarlock_shard::pulse::{PulseAgent, PulseConfig};
use oarlock_shard::support_table::{SupportTable, TableConfig};
use oarlock_types::{Incarnation, NodeId};

use crate::node::{CLUSTER, Core, Process};
use crate::oracle::Breach;
use crate::recover::{Parts, recover};
use crate::trace::What;
use crate::world::{BEAT_US, Event, World};

impl World {
    /// Starts a node's process, unless it runs.
    pub(crate) fn start(&mut self, n: usize) {
        if self.nodes[n].process.is_some() {
            return;
        }
        let now = self.now;
        let seed = self.node_random.bits();
        let node = &mut self.nodes[n];
        node.life += 1;
        node.incarnation = node.incarnation.next();
        let (id, life, mono) = (node.id, node.life, node.clock.mono(now));
        let cores = self.config.cores;
        let peers: Vec<(NodeId, u16)> =
            self.config.node_ids().filter(|peer| *peer != id).map(|peer| (peer, cores)).collect();
        let table = SharedSupport::new(SupportTable::new(&TableConfig {
            node: id,
            incarnation: node.incarnation,
            cores,
            cores_max: cores,
            origin: oarlock_types::Mono(0),
            peers: &peers,
        }));
        let agent =
            PulseAgent::new(PulseConfig::new(CLUSTER, &self.config.limits, seed), &table, mono);
        let mut running = Vec::new();
        let mut told = Vec::new();
        for c in 0..usize::from(cores) {
            let parts = Parts {
                config: &self.config,
                addr: node.addr(c),
                is_new: node.incarnation == Incarnation(1),
                support: SharedSupport::clone(&table),
                seed: seed ^ (c as u64) << 32,
                now: mono,
            };
            let back = recover(&parts, &mut node.disks[c]);
            assert!(
                back.told.is_empty() || node.is_spoiled,
                "a sound disk is not called damaged: {}: {:?} at {now} us",
                node.id,
                back.told
            );
            told.extend(back.told);
            running.push(Core::new(back.shard));
        }
        let first_pulse = node.clock.real(agent.next_due()).max(now + 1);
        node.process = Some(Process {
            table,
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
    }

    /// All that came back is shown to the oracle; what did not is lost for good.
    fn look_at_start(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(process) = &node.process else { return };
        for group in self.config.group_ids() {
            let core = &process.cores[usize::from(self.config.core_of(group).get())];
            let (raft, state) = (core.shard.raft(group), core.shard.applied_state(group));
            let (Some(raft), Some(state)) = (raft, state) else {
                // One that was created and had nothing on disk yet may never have been there.
                let seen = self.oracle.seen(node.id, group);
                let was_served = seen.is_some_and(|seen| seen.durable.get() > 0);
                let disk = &node.disks[usize::from(self.config.core_of(group).get())];
                let is_excused = node.is_spoiled || disk.lost.contains(&group);
                assert!(
                    !was_served || is_excused,
                    "what is on disk comes back: {} lost its replica of {group} at {} us although \
                     nothing spoiled its disk",
                    node.id,
                    self.now
                );
                self.oracle.replica_lost(node.id, group);
                continue;
            };
            if let Err(Breach { property, text }) = self.oracle.look(node.id, group, raft, state) {
                panic!("{property}: {text} (at the start, {} us)", self.now);
            }
            let at = node.addr(usize::from(self.config.core_of(group).get()));
            self.trace.replica(self.now, at, group, raft);
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
            self.nodes[n].disks[c].finish_alone(job);
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
        for group in self.config.group_ids() {
            self.oracle.replica_lost(id, group);
        }
        self.tell(id, || "has blank disks".to_owned());
    }
}
