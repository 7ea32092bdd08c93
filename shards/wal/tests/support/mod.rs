//! A log on a pretended disk beside a model of what it must hold. Shared by the tests of this
//! crate; one per test case.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_codec::Record;
use oarlock_raft::{Configuration, Entry, HardState, LogPosition, Payload, SnapshotMeta};
use oarlock_types::{
    ClusterId, CoreId, DiskId, FeatureLevel, GroupId, Index, Lsn, NodeId, Random, SegmentId, Term,
};
use oarlock_wal::layout::{BLOCK_BYTES, SECTOR_BYTES};
use oarlock_wal::{FrameWrite, Owner, Recovered, Recovery, Wal, WalConfig};

/// Small, so that a short test fills many segments.
pub(crate) fn config() -> WalConfig {
    let owner = Owner { cluster: ClusterId(7), node: NodeId(1), disk: DiskId(9), core: CoreId(0) };
    WalConfig { owner, segment_bytes: 48 << 10, frame_bytes_max: 16 << 10 }
}

pub(crate) fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    // Never zero: a frame that ends with a block of zeros is whole without it.
    let fill = u8::try_from(1 + (index * 31 + term) % 251).expect("at most 251");
    Entry {
        at: LogPosition { term: Term(term), index: Index(index) },
        payload: Payload::Commands(Bytes::from(vec![fill; bytes])),
    }
}

/// What a group must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelGroup {
    pub(crate) details: Bytes,
    pub(crate) hard_state: HardState,
    pub(crate) checkpoint: Option<SnapshotMeta>,
    pub(crate) entries: Vec<Entry>,
}

impl ModelGroup {
    pub(crate) fn checkpoint_index(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |meta| meta.position.index.get())
    }

    pub(crate) fn last(&self) -> u64 {
        self.entries.last().map_or(self.checkpoint_index(), |entry| entry.at.index.get())
    }

    fn first(&self) -> u64 {
        self.entries.first().map_or(self.checkpoint_index() + 1, |entry| entry.at.index.get())
    }
}

/// All groups, as of one frame.
pub(crate) type Model = BTreeMap<GroupId, ModelGroup>;

fn apply(model: &mut Model, record: &Record) {
    let group = record.group();
    match record {
        Record::Destroy { .. } => {
            model.remove(&group);
        }
        Record::Create { details, .. } => {
            model.insert(group, ModelGroup { details: details.clone(), ..ModelGroup::default() });
        }
        Record::HardState { hard_state, .. } => {
            model.get_mut(&group).expect("created").hard_state = *hard_state;
        }
        Record::Checkpoint { meta, keep_from, .. } => {
            let group = model.get_mut(&group).expect("created");
            group.checkpoint = Some(meta.clone());
            group.entries.retain(|entry| entry.at.index >= *keep_from);
        }
        Record::Entries { entries, .. } => {
            let group = model.get_mut(&group).expect("created");
            let first = entries[0].at.index;
            group.entries.retain(|entry| entry.at.index < first);
            group.entries.extend(entries.iter().cloned());
        }
    }
}

/// A running log, its disk, and the states that it must be able to come back to.
pub(crate) struct Bench {
    pub(crate) wal: Wal,
    pub(crate) disk: BTreeMap<SegmentId, Vec<u8>>,
    pub(crate) model: Model,
    pub(crate) states: BTreeMap<Lsn, Model>,
    pub(crate) in_flight: Option<(FrameWrite, Vec<u8>)>,
    pub(crate) random: Random,
    pub(crate) last_write: Option<FrameWrite>,
    /// Files out of use, with the last id that each had.
    spares: Vec<(SegmentId, Vec<u8>)>,
    term: u64,
}

impl Bench {
    pub(crate) fn new(seed: u64) -> Self {
        let mut bench = Self {
            wal: Wal::new(config()),
            disk: BTreeMap::new(),
            model: Model::new(),
            states: BTreeMap::from([(Lsn(0), Model::new())]),
            in_flight: None,
            random: Random::new(seed),
            last_write: None,
            spares: Vec::new(),
            term: 1,
        };
        bench.choose_form();
        bench.prepare();
        bench
    }

    /// Entries are packed from here on, or not: a log holds both.
    fn choose_form(&mut self) {
        let level = if self.below(2) == 0 { FeatureLevel::FIRST } else { FeatureLevel::PACKED };
        self.wal.set_feature_level(level);
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn size(&mut self, bound: u64) -> usize {
        usize::try_from(self.random.below(bound)).expect("small")
    }

    /// Makes the segments that are wanted, out of retired ones as they are where there are any.
    pub(crate) fn prepare(&mut self) {
        while let Some(id) = self.wal.next_segment_wanted() {
            let length = usize::try_from(config().segment_bytes).expect("small");
            // As the disk does it: never for an id that the file had before.
            self.spares.retain(|(former, _)| *former < id);
            let spare = self.spares.pop().map(|(_, file)| file);
            let mut file = spare.unwrap_or_else(|| vec![0; length]);
            file[..BLOCK_BYTES].copy_from_slice(&config().segment_header(id));
            self.disk.insert(id, file);
            self.wal.segment_prepared(id);
        }
    }

    pub(crate) fn append(&mut self, record: &Record) {
        let lsn = self.wal.append(record);
        apply(&mut self.model, record);
        self.states.insert(lsn, self.model.clone());
    }

    /// One random record that a shard could write.
    pub(crate) fn append_random(&mut self) {
        let group = GroupId(self.below(4));
        let Some(known) = self.model.get(&group).cloned() else {
            let details = Bytes::from(self.below(1000).to_string());
            let configuration = Configuration::simple([NodeId(1), NodeId(2), NodeId(3)]);
            self.append(&Record::Create { group, configuration, details });
            return;
        };
        self.term += self.below(2);
        let record = match self.below(20) {
            0 => Record::Destroy { group },
            1..4 => {
                let vote = Some(NodeId(1 + self.below(3)));
                Record::HardState { group, hard_state: HardState { term: Term(self.term), vote } }
            }
            4..7 => {
                let (low, last) = (known.checkpoint_index(), known.last());
                let index = low + self.below(last - low + 1);
                let (index, keep_from) = if self.below(4) == 0 {
                    (last + self.below(5), Index(u64::MAX))
                } else {
                    let first = known.first().min(index + 1);
                    (index, Index(first + self.below(index + 2 - first)))
                };
                let position = LogPosition { term: Term(self.term), index: Index(index) };
                let meta = SnapshotMeta { position, ..SnapshotMeta::default() };
                Record::Checkpoint { group, meta, keep_from }
            }
            _ => {
                let low = known.checkpoint_index().max(known.first().saturating_sub(1)) + 1;
                let end = known.last() + 1;
                let back = if self.below(3) == 0 { self.below(end - low + 1) } else { 0 };
                let first = (end - back).max(low);
                let count = 1 + self.below(5);
                let term = self.term;
                let entries = (first..first + count).map(|i| entry(i, term, self.size(700)));
                let entries = entries.collect();
                Record::Entries { group, entries }
            }
        };
        self.append(&record);
    }

    /// Hands the next frame to the disk, which has not written it yet.
    pub(crate) fn seal(&mut self) -> Option<FrameWrite> {
        let mut out = vec![0xEE; config().frame_bytes_max];
        let write = self.wal.seal(&mut out)?;
        out.truncate(write.len);
        self.in_flight = Some((write, out));
        self.last_write = Some(write);
        Some(write)
    }

    /// The disk has written the frame in flight.
    pub(crate) fn complete(&mut self) {
        let Some((write, bytes)) = self.in_flight.take() else { return };
        self.put(&write, &bytes, |_| true);
        self.wal.durable(write.lsn);
    }

    fn put(&mut self, write: &FrameWrite, bytes: &[u8], mut landed: impl FnMut(usize) -> bool) {
        let file = self.disk.get_mut(&write.segment).expect("prepared");
        let at = usize::try_from(write.offset).expect("small");
        for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if landed(number) {
                let at = at + number * SECTOR_BYTES;
                file[at..at + sector.len()].copy_from_slice(sector);
            }
        }
    }

    pub(crate) fn flush(&mut self) {
        self.complete();
        self.prepare();
        while self.seal().is_some() {
            self.complete();
            self.prepare();
        }
        assert!(!self.wal.has_pending(), "segments are always prepared here");
    }

    /// Recycles what is no longer needed.
    pub(crate) fn retire(&mut self) {
        while let Some(id) = self.wal.retire() {
            let file = self.disk.remove(&id).expect("it was there");
            self.spares.push((id, file));
        }
        self.prepare();
    }

    /// Copies what holds the oldest segment to the head.
    pub(crate) fn rewrite(&mut self) {
        for read in self.wal.straggler_reads() {
            let file = &self.disk[&read.segment];
            let at = usize::try_from(read.offset).expect("small");
            let bytes = file[at..at + read.len].to_vec();
            let done = self.wal.rewrite(&read, &bytes).expect("the disk is sound");
            assert!(done.damaged.is_empty(), "the disk is sound");
            if self.wal.has_pending() {
                // A copy says what holds already.
                let last = self.states.keys().next_back().copied().unwrap_or_default();
                let newest = self.wal_newest_lsn();
                for lsn in last.get() + 1..=newest.get() {
                    self.states.insert(Lsn(lsn), self.model.clone());
                }
            }
        }
    }

    fn wal_newest_lsn(&mut self) -> Lsn {
        // Entries of no group are no record: this only tells where the next would go.
        self.wal.append_entries(GroupId(0), &[])
    }

    /// Power fails: of the frame in flight a random set of sectors lands.
    pub(crate) fn crash(&mut self) {
        if let Some((write, bytes)) = self.in_flight.take() {
            let kind = self.below(4);
            let seed = self.random.next_u64();
            let mut dice = Random::new(seed);
            let prefix = dice.below(bytes.len().div_ceil(SECTOR_BYTES) as u64 + 1);
            self.put(&write, &bytes, |number| match kind {
                0 => false,
                1 => (number as u64) < prefix,
                2 => (number as u64) >= prefix,
                _ => dice.below(2) == 0,
            });
        }
    }

    /// Starts again from the disk and checks that nothing durable is missing and nothing invented.
    pub(crate) fn restart(&mut self) -> Recovered {
        let durable = self.wal.durable_lsn();
        let sealed = self.last_write.map_or(Lsn(0), |write| write.lsn);
        let recovered = recover(&self.disk);
        assert_eq!(recovered.damage, [], "a crash is no damage");
        let now = recovered.wal.durable_lsn();
        assert!(durable <= now && now <= sealed.max(durable), "{durable} <= {now} <= {sealed}");
        assert_state(&recovered, &self.states[&now]);
        recovered
    }

    /// Goes on with a recovered log.
    pub(crate) fn resume(&mut self, recovered: Recovered) {
        self.wal = recovered.wal;
        self.choose_form();
        let now = self.wal.durable_lsn();
        self.states.retain(|lsn, _| *lsn <= now);
        self.model = self.states[&now].clone();
        self.in_flight = None;
        self.last_write = None;
        self.prepare();
    }

    /// Every entry can be read back through the index.
    pub(crate) fn check_reads(&self) {
        for (group, known) in &self.model {
            let (Some(first), Some(last)) = (known.entries.first(), known.entries.last()) else {
                continue;
            };
            let mut found = Vec::new();
            let mut from = first.at.index;
            while let Some(read) = self.wal.locate(*group, from, last.at.index) {
                let at = usize::try_from(read.span.offset).expect("small");
                let bytes = &self.disk[&read.span.segment][at..at + read.span.len];
                for entries in self.wal.entries_of(&read.span, bytes, &[read]) {
                    found.extend(entries.expect("it is come to").expect("the disk is sound"));
                }
                from = read.to.next();
            }
            assert_eq!(found, known.entries, "{group}");
        }
    }
}

pub(crate) fn recover(disk: &BTreeMap<SegmentId, Vec<u8>>) -> Recovered {
    recover_up_to(disk, None)
}

/// Reads a log of which it is known which segment was prepared last.
pub(crate) fn recover_up_to(
    disk: &BTreeMap<SegmentId, Vec<u8>>,
    newest: Option<SegmentId>,
) -> Recovered {
    let mut recovery = Recovery::new(config());
    if let Some(newest) = newest {
        recovery.expect_up_to(newest);
    }
    for (id, bytes) in disk {
        recovery.feed(*id, bytes);
    }
    recovery.finish()
}

pub(crate) fn state_of(recovered: &Recovered) -> Model {
    let groups = recovered.groups.iter().map(|(id, group)| {
        let model = ModelGroup {
            details: group.details.clone(),
            hard_state: group.hard_state,
            checkpoint: group.checkpoint.clone(),
            entries: group.entries.clone(),
        };
        (*id, model)
    });
    groups.collect()
}

pub(crate) fn assert_state(recovered: &Recovered, wanted: &Model) {
    assert_eq!(&state_of(recovered), wanted);
    assert!(recovered.groups.values().all(|group| !group.damaged));
}
