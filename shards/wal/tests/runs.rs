//! How much is read at once, in a log of ordinary size: a few entries cost little, many cost few reads.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_codec::{Record, record};
use oarlock_raft::{Configuration, Entry, LogPosition, Payload};
use oarlock_types::{ClusterId, CoreId, DiskId, GroupId, Index, Lsn, NodeId, SegmentId, Term};
use oarlock_wal::layout::{self, BLOCK_BYTES};
use oarlock_wal::{FrameSpan, Owner, Recovery, Wal, WalConfig};

const FRAME_BYTES: usize = 64 << 10;
/// An entry of so many bytes fills a frame of that length.
const ENTRY_BYTES: usize = 63_000;

struct Log {
    wal: Wal,
    files: BTreeMap<SegmentId, Vec<u8>>,
}

fn config(segment_bytes: u64) -> WalConfig {
    let owner = Owner { cluster: ClusterId(7), node: NodeId(1), disk: DiskId(9), core: CoreId(0) };
    WalConfig { owner, segment_bytes, frame_bytes_max: 512 << 10 }
}

impl Log {
    fn new(segment_bytes: u64) -> Self {
        let mut log = Self { wal: Wal::new(config(segment_bytes)), files: BTreeMap::new() };
        log.prepare();
        log
    }

    fn prepare(&mut self) {
        while let Some(id) = self.wal.next_segment_wanted() {
            let mut file = vec![0; usize::try_from(self.wal.segment_bytes()).expect("small")];
            file[..BLOCK_BYTES].copy_from_slice(&self.wal_config().segment_header(id));
            self.files.insert(id, file);
            self.wal.segment_prepared(id);
        }
    }

    fn wal_config(&self) -> WalConfig {
        config(self.wal.segment_bytes())
    }

    fn append(&mut self, group: u64, index: u64, bytes: usize) {
        let at = LogPosition { term: Term(1), index: Index(index) };
        let payload = Payload::Commands(Bytes::from(vec![b'x'; bytes]));
        self.wal.append_entries(GroupId(group), &[Entry { at, payload }]);
    }

    /// Writes what waits, and tells the length of each frame.
    fn flush(&mut self) -> Vec<usize> {
        let mut frames = Vec::new();
        while let Some(bytes) = self.wal.next_frame_bytes() {
            let mut out = vec![0; bytes];
            let write = self.wal.seal(&mut out).expect("a segment is ready");
            let from = usize::try_from(write.offset).expect("small");
            let file = self.files.get_mut(&write.segment).expect("it was prepared");
            file[from..from + write.len].copy_from_slice(&out);
            self.wal.durable(write.lsn);
            self.prepare();
            frames.push(write.len);
        }
        frames
    }

    fn bytes(&self, span: &FrameSpan) -> &[u8] {
        let from = usize::try_from(span.offset).expect("small");
        &self.files[&span.segment][from..from + span.len]
    }
}

#[test]
fn a_few_entries_are_found_without_reading_many() {
    let mut log = Log::new(4 << 20);
    for index in 1..=10 {
        log.append(1, index, ENTRY_BYTES);
        assert_eq!(log.flush(), [FRAME_BYTES]);
    }
    let mut from = Index(1);
    let mut found = Vec::new();
    while let Some(read) = log.wal.locate(GroupId(1), from, Index(10)) {
        found.push((read.from.get(), read.to.get(), read.span.len));
        from = read.to.next();
    }
    // 256 KiB are four frames.
    assert_eq!(found, [(1, 4, 256 << 10), (5, 8, 256 << 10), (9, 10, 128 << 10)]);
}

/// A frame is read as a whole: what stands in one is found at once, however long the frame is.
#[test]
fn one_long_frame_is_one_read() {
    let mut log = Log::new(4 << 20);
    for index in 1..=5 {
        log.append(1, index, ENTRY_BYTES);
    }
    let frames = log.flush();
    assert!(frames.len() == 1 && frames[0] > 256 << 10, "{frames:?}");
    let read = log.wal.locate(GroupId(1), Index(1), Index(5)).expect("it is there");
    assert_eq!((read.to, read.span.len), (Index(5), frames[0]));
}

#[test]
fn reads_are_joined_up_to_a_mebibyte() {
    let mut log = Log::new(4 << 20);
    for index in 1..=20 {
        log.append(index, 1, ENTRY_BYTES);
        log.flush();
    }
    let located = |group| log.wal.locate(GroupId(group), Index(1), Index(1)).expect("there");
    let first = located(1);
    let all: Vec<_> = (2..=20).map(located).collect();
    assert_eq!(log.wal.join(&first, &all).len, 1 << 20);
    // Whoever can not be reached keeps nobody else from it.
    assert_eq!(log.wal.join(&first, [&located(20), &located(3)]).len, 3 * FRAME_BYTES);
    assert_eq!(log.wal.join(&first, &[]), first.span);
}

/// Copies come in reads of a mebibyte too. A run that a read holds only the beginning of is none of
/// its matter: the next read holds all of it.
#[test]
fn runs_are_copied_whole() {
    let mut log = Log::new(2 << 20);
    for index in 1..=15 {
        log.append(1, index, ENTRY_BYTES);
        log.flush();
    }
    // One frame with both, and group 2 goes on behind it.
    log.append(1, 16, 30_000);
    log.append(2, 1, 30_000);
    log.flush();
    for index in 2..=4 {
        log.append(2, index, ENTRY_BYTES);
        log.flush();
    }
    while log.wal.segments_count() < 2 {
        log.append(3, 1, ENTRY_BYTES);
        log.flush();
    }
    let needed = log.wal.needed_bytes();
    assert_eq!(log.wal.live_bytes().values().sum::<u64>(), needed);
    let reads = log.wal.straggler_reads();
    let lengths: Vec<usize> = reads.iter().map(|read| read.len).collect();
    assert!(reads.len() > 1 && lengths.iter().all(|len| *len <= 1 << 20), "{lengths:?}");
    let mut copied = 0;
    for read in reads {
        let bytes = log.bytes(&read).to_vec();
        let done = log.wal.rewrite(&read, &bytes).expect("the disk is sound");
        assert_eq!(done.damaged, []);
        copied += done.records_count;
        log.flush();
    }
    assert!(copied > 0);
    assert_eq!(log.wal.retire(), Some(SegmentId(1)), "nothing is left in it");
    for group in [1, 2] {
        let last = log.wal.group_log_range(GroupId(group)).expect("it has entries").1;
        let mut from = Index(1);
        while let Some(read) = log.wal.locate(GroupId(group), from, last) {
            let found = log.wal.entries_of(&read.span, log.bytes(&read.span), &[read]);
            let [Some(Ok(entries))] = &found[..] else { panic!("{found:?}") };
            assert_eq!(entries.first().map(|e| e.at.index), Some(from));
            from = entries.last().expect("not empty").at.index.next();
        }
        assert_eq!(from, last.next());
    }
}

/// Two records that fill a frame to its last byte ride in one; with a few more they do not.
#[test]
fn a_frame_is_filled_to_its_last_byte() {
    let create = |bytes: usize| Record::Create {
        group: GroupId(1),
        configuration: Configuration::default(),
        details: vec![7; bytes].into(),
    };
    let length = |record: &Record| {
        let mut out = Vec::new();
        record::encode(record, false, &mut out);
        out.len()
    };
    let capacity = layout::payload_capacity(config(4 << 20).frame_bytes_max);
    let half = length(&create(200_000));
    let about = capacity - 2 * half + 200_000;
    let mut near = (about - 64..about + 64).rev();
    let fits = near.find(|bytes| length(&create(*bytes)) + half <= capacity);
    let fits = fits.expect("some length fits");
    assert_eq!(length(&create(fits)) + half, capacity, "records come in steps that fill it");
    for (bytes, lsns) in [(fits, [1, 1]), (fits + 8, [1, 2])] {
        let mut log = Log::new(4 << 20);
        let records = [create(200_000), create(bytes)];
        let rides = records.each_ref().map(|record| log.wal.append(record));
        assert_eq!(rides, lsns.map(Lsn));
        let frames = log.flush();
        assert_eq!(frames.len() as u64, lsns[1]);
        let mut recovery = Recovery::new(config(4 << 20));
        log.files.iter().for_each(|(id, file)| recovery.feed(*id, file));
        let recovered = recovery.finish();
        assert_eq!((recovered.damage, recovered.segments[0].records_count), (Vec::new(), 2));
    }
}
