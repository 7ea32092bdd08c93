//! Nodes that are started with another number of cores. Production's own code says which replica goes to which core
//! and what of the logs is carried ([`oarlock_shard::relocation`]); here are the disks, and what an end between any two
//! steps leaves of them, as production's `src/disk/relocation.rs` has it.

use oarlock_shard::relocation::{NewCore, Obstacle, OldCore, records, relocate};
use oarlock_types::{CoreId, NodeId};
use oarlock_wal::{Addition, Wal};

use crate::cluster::NodeTrouble;
use crate::config::Config;
use crate::disk::Disk;
use crate::faults::{Fault, Trouble};
use crate::node::Node;
use crate::quorum_loss::add;
use crate::random::Stream;
use crate::recover::read;
use crate::world::{Event, World};

/// Of a thousand seeds in so many nodes are started with other numbers of cores.
const SHARE_PER_MILLE: u64 = 250;
/// The most cores that one is started with.
const DRAWN_MAX: u64 = 4;
/// Of a thousand starts that bring replicas to other cores so many end on the way.
const CUT_SHORT_PER_MILLE: u64 = 400;
/// A start ends on the way behind this many steps at most.
const STEPS_MAX: u64 = 12;
/// So much of a log is written at a time.
const PIECE_BYTES: usize = 8 << 10;

/// Whether a seed changes numbers of cores.
pub(crate) fn is_drawn(seed: u64) -> bool {
    Stream::new(seed, 40).per_mille(SHARE_PER_MILLE)
}

impl Config {
    /// Nodes are started with other numbers of cores, now and then. Drawn apart from the rest.
    pub(crate) fn change_cores(&mut self, seed: u64) {
        let mut random = Stream::new(seed, 41);
        let interval_us = [300_000, 1_000_000, 3_000_000][random.place(3)];
        let mut number = self.faults.iter().map(|fault| fault.number + 1).max().unwrap_or(0);
        // Nodes that are to join, too: nobody has their ids before.
        let joins = self.faults.iter().filter(|fault| {
            let trouble = &fault.trouble;
            matches!(trouble, Trouble::Node(NodeTrouble::Join | NodeTrouble::Replace(_)))
        });
        let nodes = self.nodes + joins.count() as u64;
        let mut at_us = 200_000;
        loop {
            at_us += random.within(1, 2 * interval_us);
            if at_us >= self.duration_us {
                return;
            }
            let (node, cores) = (NodeId(1 + random.below(nodes)), draw_cores(&mut random));
            let lasts_us = random.within(1000, 300_000);
            let trouble = Trouble::ChangeCores(node, cores, draw_end(&mut random));
            self.faults.push(Fault { number, at_us, lasts_us, trouble });
            number += 1;
        }
    }
}

fn draw_cores(random: &mut Stream) -> u16 {
    u16::try_from(random.within(1, DRAWN_MAX)).expect("invariant: few cores")
}

/// Behind how many steps a start ends, if it does.
fn draw_end(random: &mut Stream) -> Option<u64> {
    random.per_mille(CUT_SHORT_PER_MILLE).then(|| random.below(STEPS_MAX))
}

/// What came of a run's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreChanges {
    /// Starts at whose end all replicas were on other numbers of cores than before.
    pub done: u64,
    /// Starts that died on the way.
    pub cut_short: u64,
    /// Starts that were refused: a log was not whole, or there was no room.
    pub refused: u64,
}

/// What a change has made beside the disks.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// Those of the new cores; where one is in place, what was there before.
    disks: Vec<Disk>,
    /// These are what counts.
    is_decided: bool,
    /// Which are in the places of the old ones, and not for certain before all are.
    in_place: Vec<bool>,
    /// They are for certain.
    is_synced: bool,
}

/// Why a start came to no end.
enum Halt {
    /// The process died.
    Died,
    /// The number of cores can not be changed now.
    Refused(Box<Obstacle>),
    /// The disk is full.
    NoRoom,
}

/// Steps that are left until the process dies.
struct Steps(u64);

impl Steps {
    fn one(&mut self) -> Result<(), Halt> {
        self.0 = self.0.checked_sub(1).ok_or(Halt::Died)?;
        Ok(())
    }
}

impl Folder {
    /// Puts a core's new disk in the place of the old one, if it is not there yet.
    fn put_in_place(&mut self, c: usize, disks: &mut Vec<Disk>) {
        if std::mem::replace(&mut self.in_place[c], true) {
            return;
        }
        if disks.len() == c {
            disks.push(Disk::new(self.disks[c].config));
        }
        // What is wrong with the disk is not of the directory.
        self.disks[c].trouble = disks[c].trouble;
        std::mem::swap(&mut self.disks[c], &mut disks[c]);
    }

    /// Power is lost: what was put in place may be where it was.
    fn lose_power(&mut self, disks: &mut [Disk], random: &mut Stream) {
        for (c, is_there) in self.in_place.iter_mut().enumerate() {
            if *is_there && !self.is_synced && random.per_mille(500) {
                *is_there = false;
                std::mem::swap(&mut self.disks[c], &mut disks[c]);
            }
        }
    }
}

impl Node {
    /// Brings what the disks hold to the number of cores that is wanted.
    fn bring_home(
        &mut self,
        config: &Config,
        steps: &mut Steps,
        random: &mut Stream,
    ) -> Result<(), Halt> {
        self.finish(steps)?;
        if self.cores == self.wanted_cores {
            return Ok(());
        }
        let old = self.disks.iter().map(as_read).collect();
        let new = relocate(old, self.incarnation, self.wanted_cores)
            .map_err(|obstacle| Halt::Refused(Box::new(obstacle)))?;
        steps.one()?;
        if self.disks.iter().any(|disk| disk.trouble.full) {
            return Err(Halt::NoRoom);
        }
        let folder = self.folder.insert(Folder::default());
        for (core, new) in (0..).map(CoreId).zip(new) {
            let fresh = Self::fresh_disk(config, (self.id, self.disk_id), core);
            folder.disks.push(written(fresh, new, &self.disks, random));
            folder.in_place.push(false);
            steps.one()?;
        }
        folder.is_decided = true;
        steps.one()?;
        self.finish(steps)
    }

    /// Ends what was decided, or drops what was not.
    fn finish(&mut self, steps: &mut Steps) -> Result<(), Halt> {
        let Some(folder) = self.folder.as_mut().filter(|folder| folder.is_decided) else {
            self.folder = None;
            return Ok(());
        };
        let count = folder.disks.len();
        for c in 0..count {
            folder.put_in_place(c, &mut self.disks);
            steps.one()?;
        }
        self.disks.truncate(count);
        folder.is_synced = true;
        steps.one()?;
        self.cores = u16::try_from(count).expect("invariant: few cores");
        steps.one()?;
        self.folder = None;
        Ok(())
    }

    /// Ends what a start had decided before it died.
    pub(crate) fn end_core_change(&mut self) {
        let is_ended = self.finish(&mut Steps(u64::MAX)).is_ok();
        assert!(is_ended, "invariant: nobody dies");
    }
}

/// What production reads of a core.
fn as_read(disk: &Disk) -> OldCore {
    OldCore {
        log: read(disk),
        had_begun: disk.begun.is_some(),
        lost: disk.lost.clone(),
        unnamed: disk.unnamed_losses,
        files: disk.files.keys().copied().collect(),
    }
}

/// The disk of a new core.
fn written(mut disk: Disk, new: NewCore, old: &[Disk], random: &mut Stream) -> Disk {
    for (file, from) in new.files {
        disk.files.insert(file, old[usize::from(from.get())].files[&file].clone());
    }
    let unmade = old.iter().flat_map(|disk| &disk.unmade).copied();
    disk.unmade.extend(unmade.filter(|group| new.groups.contains_key(group)));
    disk.lost = new.lost;
    disk.unnamed_losses = new.unnamed;
    let (mut wal, mut frames) = (Wal::new(disk.config), u64::MAX);
    for (group, found) in new.groups {
        let records = records(group, found, PIECE_BYTES);
        let additions: Vec<Addition> = records.into_iter().map(Addition::Append).collect();
        let is_written = add(&mut disk, &mut wal, &additions, &mut frames, random);
        assert!(is_written, "invariant: no power fails");
    }
    disk
}

impl World {
    /// Has a node start with so many cores from its next start on.
    pub fn set_cores(&mut self, node: NodeId, cores: u16) {
        let n = self.place(node);
        self.nodes[n].wanted_cores = cores;
    }

    /// A node's process ends, to be started with so many cores. That start dies behind so many steps, if it does.
    pub(crate) fn end_for_cores(&mut self, node: NodeId, cores: u16, end: Option<u64>) {
        let n = self.place(node);
        if self.nodes.get(n).is_none_or(|node| node.is_absent) {
            return; // it has not joined
        }
        self.set_cores(node, cores);
        self.nodes[n].cut_short = end;
        self.kill(node);
    }

    /// What came of changes of numbers of cores.
    #[must_use]
    pub fn core_changes(&self) -> CoreChanges {
        self.core_changes
    }

    /// How many cores a node has.
    #[must_use]
    pub fn cores(&self, node: NodeId) -> u16 {
        self.nodes[self.place(node)].cores
    }

    /// Brings a node that starts to the number of cores that is wanted, as far as its process lives; false if it dies.
    pub(crate) fn bring_home(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        if node.folder.is_none() && node.cores == node.wanted_cores {
            return true;
        }
        let (id, before, wanted) = (node.id, node.cores, node.wanted_cores);
        let random = &mut self.core_random;
        let end = node.cut_short.take().filter(|_| !self.are_faults_over);
        let mut steps = Steps(end.unwrap_or(u64::MAX));
        match node.bring_home(&self.config, &mut steps, random) {
            Ok(()) => {
                self.core_changes.done += 1;
                self.tell(id, || format!("has {wanted} cores, not {before}"));
                true
            }
            Err(Halt::Died) => {
                if let Some(folder) = node.folder.as_mut().filter(|_| random.per_mille(500)) {
                    folder.lose_power(&mut node.disks, random);
                }
                if random.per_mille(300) {
                    node.wanted_cores = draw_cores(random);
                }
                node.cut_short = draw_end(random);
                self.core_changes.cut_short += 1;
                let (at, life) = (self.now + 1 + random.below(500_000), node.life);
                self.tell(id, || format!("dies while it changes from {before} to {wanted} cores"));
                self.at(at, Event::Start { n, life });
                false
            }
            Err(Halt::NoRoom) => {
                node.wanted_cores = node.cores;
                self.core_changes.refused += 1;
                self.tell(id, || format!("has no room to change from {before} to {wanted} cores"));
                true
            }
            Err(Halt::Refused(obstacle)) => {
                assert!(
                    node.is_spoiled,
                    "a sound disk is not called damaged: {id} is not brought to {wanted} cores: {obstacle:?}",
                );
                // It is started as before.
                node.wanted_cores = node.cores;
                self.core_changes.refused += 1;
                self.tell(id, || format!("stays on {before} cores: {obstacle:?}"));
                true
            }
        }
    }
}
