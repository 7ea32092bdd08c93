//! Recovery of a core's log from segments that anything may have happened to.
//!
//! A log is run for a while, so that its frames, recycled segments and states are known; then its
//! segments are damaged. What holds: never a panic; what is recovered was once written, with these
//! very bytes; a group that is not marked is as it was with some frame not older than the newest
//! one that is unhurt, so nothing that was durable is lost in silence; what was sound after one
//! recovery is so after the next; memory is bounded by the segments' length.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oarlock_codec::Record;
use oarlock_raft::{Configuration, Entry, HardState};
use oarlock_types::{GroupId, Lsn, NodeId, SegmentId, Term};
use oarlock_wal::layout::{self, BLOCK_BYTES, FrameKey, SECTOR_BYTES};
use oarlock_wal::{FrameWrite, Recovered, Recovery};

use crate::memory;
use crate::source::Source;
use crate::targets::outcome;

#[path = "../../../shards/wal/tests/support/mod.rs"]
mod bench;

use bench::{Bench, Model, config, recover, state_of};

type Disk = BTreeMap<SegmentId, Vec<u8>>;

/// Segments are read one at a time, and a frame's records are held as values and as an index.
const LOG_FACTOR: usize = 8;
const FIXED_BYTES: usize = 1 << 20;
const CHANGES_MAX: usize = 12;
/// One random record holds fewer.
const RECORD_ENTRIES_MAX: usize = 6;

pub(super) fn run(input: &[u8]) -> u64 {
    let mut source = Source::new(input);
    match source.byte() % 8 {
        0 => forged(source),
        _ => damaged(source),
    }
}

/// A log that ran for a while, and all that it ever wrote.
struct History {
    bench: Bench,
    frames: Vec<FrameWrite>,
    states: BTreeMap<Lsn, Model>,
    written: Written,
}

/// All that was ever appended, also what a later record of the same frame replaced.
#[derive(Default)]
struct Written {
    entries: BTreeMap<GroupId, Vec<Entry>>,
    hard_states: BTreeSet<(GroupId, Term, Option<NodeId>)>,
}

impl Written {
    /// Notes what the newest record may have brought.
    fn note(&mut self, model: &Model) {
        for (group, model) in model {
            let known = self.entries.entry(*group).or_default();
            for entry in model.entries.iter().rev().take(RECORD_ENTRIES_MAX) {
                if !known.contains(entry) {
                    known.push(entry.clone());
                }
            }
            let HardState { term, vote } = model.hard_state;
            self.hard_states.insert((*group, term, vote));
        }
    }
}

fn history(source: &mut Source<'_>) -> History {
    let mut bench = Bench::new(source.short().into());
    let (mut history, mut written) = (Vec::new(), Written::default());
    let mut seal = |bench: &mut Bench| {
        bench.complete();
        bench.prepare();
        history.extend(bench.seal());
    };
    for _ in 0..source.byte() {
        match bench.random.below(12) {
            0..6 => {
                bench.append_random();
                written.note(&bench.model);
            }
            6..9 => seal(&mut bench),
            9 => bench.complete(),
            10 => bench.retire(),
            _ => bench.rewrite(),
        }
    }
    while bench.wal.has_pending() {
        seal(&mut bench);
    }
    bench.complete();
    bench.prepare();
    let states = bench.states.clone();
    history.retain(|frame| bench.disk.contains_key(&frame.segment));
    History { bench, frames: history, states, written }
}

fn damaged(mut source: Source<'_>) -> u64 {
    let History { mut bench, frames, states, written } = history(&mut source);
    let sound = bench.disk.clone();
    let mut disk = sound.clone();
    for _ in 0..CHANGES_MAX {
        if source.is_empty() || disk.is_empty() {
            break;
        }
        change(&mut disk, &mut source);
    }
    let recovered = read(&disk);
    let unhurt = frames.iter().filter(|frame| is_unhurt(frame, &sound, &disk));
    let newest = unhurt.map(|frame| frame.lsn).max().unwrap_or(Lsn(0));
    let last = states.keys().next_back().copied().unwrap_or_default();
    if disk == sound {
        assert_eq!(recovered.damage, [], "a sound log is called damaged");
        assert_eq!(state_of(&recovered), states[&last], "a sound log is not as it was");
    }
    assert_nothing_invented(&recovered, &written);
    assert_no_silent_loss(&recovered, &states, newest);
    let kinds: BTreeSet<_> = recovered.damage.iter().map(kind_of).collect();
    let marked = recovered.groups.values().filter(|group| group.damaged).count();
    go_on(&mut bench, disk, recovered);
    outcome(&(kinds, marked))
}

fn kind_of(damage: &oarlock_wal::Damage) -> String {
    let text = format!("{:?}", damage.kind);
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}

fn read(disk: &Disk) -> Recovered {
    let bytes: usize = disk.values().map(Vec::len).sum();
    memory::bounded(FIXED_BYTES + bytes * LOG_FACTOR, || recover(disk))
}

fn is_unhurt(frame: &FrameWrite, sound: &Disk, disk: &Disk) -> bool {
    let Ok(at) = usize::try_from(frame.offset) else { return false };
    let bytes = |disk: &Disk| {
        disk.get(&frame.segment).and_then(|file| file.get(at..at + frame.len)).map(<[u8]>::to_vec)
    };
    bytes(sound) == bytes(disk)
}

/// One thing that happens to a disk.
fn change(disk: &mut Disk, source: &mut Source<'_>) {
    let kind = source.byte() % 15;
    let ids: Vec<SegmentId> = disk.keys().copied().collect();
    let (id, other) = (ids[source.below(ids.len())], ids[source.below(ids.len())]);
    let length = disk[&id].len();
    let (at, count) = (source.below(length), 1 + source.below(length));
    let unit = if kind.is_multiple_of(2) { BLOCK_BYTES } else { SECTOR_BYTES };
    let from = at / unit * unit;
    let end = from.saturating_add(unit).min(length);
    let Some(file) = disk.get_mut(&id) else { return };
    match kind {
        0 if at < length => file[at] ^= 1 << source.below(8),
        1 if at < length => file[at] = source.byte(),
        2 | 3 => file[from..end].fill(0),
        4 => file[from..].fill(0),
        5 => file[from..end].fill(0xff),
        6 | 7 => {
            // A block or sector is where another should be, in this segment or another.
            let piece = file[from..end].to_vec();
            let Some(target) = disk.get_mut(&other) else { return };
            let to = source.below(target.len()) / unit * unit;
            let count = piece.len().min(target.len() - to);
            target[to..to + count].copy_from_slice(&piece[..count]);
        }
        8 | 9 => {
            let to = source.below(length) / unit * unit;
            if to.abs_diff(from) >= unit && to + unit <= length && from + unit <= length {
                for byte in 0..unit {
                    file.swap(from + byte, to + byte);
                }
            }
        }
        10 => file.truncate(from),
        11 => drop(disk.remove(&id)),
        12 => {
            let whole = file.clone();
            disk.insert(other, whole);
        }
        13 => {
            // A file has a wrong name, however far away.
            let whole = file.clone();
            disk.remove(&id);
            disk.insert(SegmentId(1 << source.below(64)), whole);
        }
        _ => {
            let mut state = u32::from(source.byte()) | 1;
            for byte in file.iter_mut().skip(at).take(count.min(3000)) {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = state.to_le_bytes()[3];
            }
        }
    }
}

fn assert_nothing_invented(recovered: &Recovered, written: &Written) {
    for (group, found) in &recovered.groups {
        let known = written.entries.get(group).map(Vec::as_slice).unwrap_or_default();
        let unknown = found.entries.iter().find(|entry| !known.contains(entry));
        assert!(unknown.is_none(), "{group} has an entry that nobody wrote: {unknown:?}");
        let HardState { term, vote } = found.hard_state;
        let is_known = found.hard_state == HardState::default()
            || written.hard_states.contains(&(*group, term, vote));
        assert!(is_known, "{group} has a vote that nobody gave: {:?}", found.hard_state);
    }
}

fn assert_no_silent_loss(recovered: &Recovered, states: &BTreeMap<Lsn, Model>, newest: Lsn) {
    let found = state_of(recovered);
    let possible = || states.range(newest..).map(|(_, state)| state);
    if recovered.damage.is_empty() {
        assert!(possible().any(|state| *state == found), "damage behind {newest} is not told");
    }
    for (group, known) in &recovered.groups {
        let is_so = || possible().any(|state| state.get(group) == found.get(group));
        assert!(
            known.damaged || is_so(),
            "{group} lost or got something in silence ({newest} is unhurt): {:?}",
            recovered.damage
        );
    }
    let all: BTreeSet<GroupId> = states.values().flat_map(|state| state.keys().copied()).collect();
    for group in all.into_iter().filter(|group| !recovered.groups.contains_key(group)) {
        let may_be_gone = || possible().any(|state| !state.contains_key(&group));
        assert!(
            recovered.suspicion.of_unlisted(group) || may_be_gone(),
            "{group} is gone in silence ({newest} is unhurt): {:?}",
            recovered.damage
        );
    }
}

/// The log goes on as a node would let it: what is damaged is given up, something new is written,
/// and all of that is there after the next start.
fn go_on(bench: &mut Bench, disk: Disk, recovered: Recovered) {
    let newer = |damage: &oarlock_wal::Damage| {
        ["NewerVersion", "UnknownRecord"].contains(&kind_of(damage).as_str())
    };
    if recovered.damage.iter().any(newer) {
        return;
    }
    let damaged: Vec<GroupId> =
        recovered.groups.iter().filter(|(_, group)| group.damaged).map(|(id, _)| *id).collect();
    let mut wanted = state_of(&recovered);
    let now = recovered.wal.durable_lsn();
    bench.disk = disk;
    bench.states = BTreeMap::from([(now, wanted.clone())]);
    bench.resume(recovered);
    for group in damaged {
        wanted.remove(&group);
        bench.append(&Record::Destroy { group });
    }
    let group = GroupId(99);
    let details = Bytes::from_static(b"made after the damage");
    bench.append(&Record::Create { group, configuration: Configuration::default(), details });
    bench.flush();
    wanted.insert(group, bench.model[&group].clone());
    let again = read(&bench.disk);
    assert_eq!(state_of(&again), wanted, "it is not as it was left: {:?}", again.damage);
    let marked = again.groups.iter().find(|(_, group)| group.damaged);
    assert!(marked.is_none(), "{marked:?} was sound a start before: {:?}", again.damage);
}

/// Whole frames with right checksums around any records: what only a bug writes. No panic, and
/// memory is bounded.
fn forged(mut source: Source<'_>) -> u64 {
    let config = config();
    let first = SegmentId(1 + u64::from(source.byte() % 3));
    let second = SegmentId(first.get() + 1 + u64::from(source.byte() % 3));
    let mut recovery = Recovery::new(config);
    let length = usize::try_from(config.segment_bytes).unwrap_or(0);
    let mut lsn = Lsn(u64::from(source.byte() % 4));
    let segments = [first, second].map(|id| {
        let mut file = vec![0; length];
        file[..BLOCK_BYTES].copy_from_slice(&config.segment_header(id));
        let key = FrameKey::new(&config.owner, id);
        let mut at = BLOCK_BYTES;
        for _ in 0..source.byte() % 4 {
            let oldest = SegmentId(u64::from(source.byte() % 4));
            let mut payload = records(&mut source);
            payload.truncate(layout::payload_capacity(config.frame_bytes_max));
            if at + layout::frame_bytes(payload.len()) > length {
                break;
            }
            let count = source.byte().into();
            at += layout::write_frame(key, lsn, oldest, count, &payload, &mut file[at..]);
            lsn = Lsn(lsn.get() + u64::from(source.byte() % 8 / 6 + 1));
        }
        (id, file)
    });
    let recovered = memory::bounded(FIXED_BYTES + 2 * length * LOG_FACTOR, || {
        for (id, file) in &segments {
            recovery.feed(*id, file);
        }
        recovery.finish()
    });
    let kinds: BTreeSet<_> = recovered.damage.iter().map(kind_of).collect();
    outcome(&(kinds, recovered.groups.len()))
}

/// A row of sound records in any order, or of records whose bodies are anything.
fn records(source: &mut Source<'_>) -> Vec<u8> {
    let mut row = Vec::new();
    for _ in 0..source.byte() % 6 {
        let group = GroupId(u64::from(source.byte() % 3));
        let start = row.len();
        let number = u64::from(source.byte());
        let record = match source.byte() % 6 {
            0 => Record::Destroy { group },
            1 => Record::Create {
                group,
                configuration: Configuration::default(),
                details: Bytes::new(),
            },
            2 => Record::HardState { group, hard_state: Default::default() },
            3 => Record::Checkpoint {
                group,
                meta: Default::default(),
                keep_from: oarlock_types::Index(number),
            },
            _ => {
                let first = if number == 255 { u64::MAX } else { number };
                Record::Entries { group, entries: vec![bench::entry(first % 1000, 1, 20)] }
            }
        };
        oarlock_codec::record::encode(&record, source.byte() % 4 == 3, &mut row);
        let mut body = row.split_off(start);
        if source.byte() % 4 == 3 {
            let mut changed = body.split_off(24);
            Source::new(source.piece()).damage(&mut changed);
            changed.resize(changed.len().next_multiple_of(8), 0);
            body[0..4].copy_from_slice(&u32::try_from(changed.len()).unwrap_or(0).to_le_bytes());
            body[4..8].copy_from_slice(&crc32fast::hash(&changed).to_le_bytes());
            let crc = crc32fast::hash(&body[..20]);
            body[20..24].copy_from_slice(&crc.to_le_bytes());
            body.extend_from_slice(&changed);
        }
        row.append(&mut body);
    }
    row
}
