//! What the disks do in their own time: writes of the log, one for each core, and the jobs of the
//! node's one worker, in order.

use crate::between::carry_out;
use crate::disk::{Disk, Writing};
use crate::node::Job;
use crate::world::{Event, World};

/// What making a segment takes in jobs.
const PREPARE_JOBS: u64 = 4;
/// The longest that a slow disk takes for one thing: what is on its way when the fault ends is not
/// to hold a node up long after.
const SLOWEST_US: u64 = 2_000_000;
/// How often a stalled disk is looked at: the stall may have been taken away.
const STALL_LOOK_US: u64 = 50_000;

/// Does a job whose process is gone.
pub(crate) fn finish_alone(disks: &mut [Disk], c: usize, job: Job) {
    match job {
        Job::Shard(_, job) => drop(carry_out(disks, c, job)),
        Job::Prepare(segment) => drop(disks[c].prepare(segment)),
        Job::Recycle(segment) => disks[c].recycle(segment),
        Job::Map(_) => {} // the node's, not this core's
    }
}

impl Disk {
    fn slowness(&self) -> u64 {
        self.trouble.slowness.max(1)
    }
}

impl World {
    /// A frame of the log goes to the disk.
    pub(crate) fn write(&mut self, n: usize, c: usize, writing: Writing) {
        self.next_write += 1;
        let write = self.next_write;
        let disk = &mut self.nodes[n].disks[c];
        let us = self.weather.wal_us / 2 + self.disk_random.below(self.weather.wal_us);
        let at = self.now + 1 + (us * disk.slowness()).min(SLOWEST_US);
        disk.writes.insert(write, writing);
        self.at(at, Event::WalLands { n, c, write });
    }

    pub(crate) fn wal_lands(&mut self, n: usize, c: usize, write: u64) {
        let now = self.now;
        let node = &mut self.nodes[n];
        let Some(disk) = node.disks.get_mut(c).filter(|disk| disk.writes.contains_key(&write))
        else {
            return; // the power failed meanwhile
        };
        if disk.trouble.wal_stalled_until > now {
            let at = disk.trouble.wal_stalled_until.min(now + STALL_LOOK_US);
            self.at(at, Event::WalLands { n, c, write });
            return;
        }
        if disk.trouble.wal_fails && node.process.is_some() {
            // What is on the disk now nobody knows; the log is told, and the process stops.
            disk.tear(&mut self.disk_random);
            if let Some(process) = &mut node.process {
                process.cores[c].shard.wal().fail();
            }
            self.end(n, false, "stops: a write of its log failed");
            self.start_later(n);
            return;
        }
        let Some(Writing { frame, life, .. }) = disk.land(write) else { return };
        if life == node.life
            && let Some(process) = &mut node.process
        {
            process.cores[c].durable = Some(frame.lsn);
            self.wake(n, c);
        }
    }

    /// Somebody starts the process again.
    pub(crate) fn start_later(&mut self, n: usize) {
        let at = self.now + 1000 + self.node_random.below(1_000_000);
        let life = self.nodes[n].life;
        self.at(at, Event::Start { n, life });
    }

    pub(crate) fn start_job(&mut self, n: usize, c: usize, job: Job) {
        let Some(process) = &mut self.nodes[n].process else { return };
        process.worker.push_back((c, job));
        if !process.worker_busy {
            process.worker_busy = true;
            self.work_on(n);
        }
    }

    fn work_on(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some((c, job)) = node.process.as_ref().and_then(|p| p.worker.front()) else { return };
        let parts = if matches!(job, Job::Prepare(_)) { PREPARE_JOBS } else { 1 };
        let slowness = node.disks[*c].slowness();
        let us = self.weather.file_us / 2 + self.disk_random.below(self.weather.file_us);
        let (at, life) = (self.now + 1 + (us * parts * slowness).min(SLOWEST_US), node.life);
        self.at(at, Event::WorkerDone { n, life });
    }

    pub(crate) fn worker_done(&mut self, n: usize) {
        let (now, life) = (self.now, self.nodes[n].life);
        let is_paused = self.nodes[n].pauses > 0;
        let node = &mut self.nodes[n];
        let Some(process) = &mut node.process else { return };
        let Some((c, _)) = process.worker.front() else { return };
        let c = *c;
        let disk = &node.disks[c];
        let until = disk.trouble.files_stalled_until.max(if is_paused { now + 1000 } else { 0 });
        if until > now {
            let until = until.min(now + STALL_LOOK_US);
            self.at(until, Event::WorkerDone { n, life });
            return;
        }
        let Some((_, job)) = process.worker.pop_front() else { return };
        let core = &mut process.cores[c];
        match job {
            Job::Shard(token, job) => {
                let done = carry_out(&mut node.disks, c, job);
                core.done.extend(done.map(|done| (token, done)));
            }
            Job::Prepare(segment) => {
                let made = node.disks[c].prepare(segment);
                core.prepared.push((segment, made));
            }
            Job::Recycle(segment) => node.disks[c].recycle(segment),
            // Its level counts once a restart would find it.
            Job::Map(copy) => {
                process.table.raise_level(copy.level);
                if let Some(keeper) = core.driving.as_mut().and_then(|d| d.keeper.as_mut()) {
                    keeper.set_durable_members(copy.members.len());
                }
                node.map_copy = Some(*copy);
            }
        }
        process.worker_busy = !process.worker.is_empty();
        let goes_on = process.worker_busy;
        self.wake(n, c);
        if goes_on {
            self.work_on(n);
        }
    }
}
