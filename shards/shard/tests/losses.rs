//! Which replicas a start calls lost, by what the log gives back and by what was known before.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_codec::Record;
use oarlock_raft::{Configuration, Entry, LogPosition, Payload};
use oarlock_shard::losses::{Evidence, Losses, Lost};
use oarlock_shard::rebuild::{Origin, Rebuilt};
use oarlock_types::{
    ClusterId, CoreId, DiskId, GroupId, Incarnation, Index, NodeId, RangeEpoch, SegmentId, Term,
};
use oarlock_wal::layout::BLOCK_BYTES;
use oarlock_wal::{Owner, Recovered, Recovery, Wal, WalConfig};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);
const C: GroupId = GroupId(3);
/// This life of the node.
const NOW: Incarnation = Incarnation(5);

fn config() -> WalConfig {
    let owner = Owner { cluster: ClusterId(7), node: NodeId(1), disk: DiskId(9), core: CoreId(0) };
    WalConfig { owner, segment_bytes: 64 << 10, frame_bytes_max: 16 << 10 }
}

/// A log of three frames, a block each: A, B and C are made, A gets an entry, B gets one. A was
/// rebuilt in the life that is given.
fn log(rebuilt_in: Option<u64>, harm: impl FnOnce(&mut Vec<u8>)) -> Recovered {
    let mut wal = Wal::new(config());
    let mut file = vec![0; 64 << 10];
    file[..BLOCK_BYTES].copy_from_slice(&config().segment_header(SegmentId(1)));
    wal.segment_prepared(SegmentId(1));
    let mut frame = |wal: &mut Wal| {
        let mut out = vec![0; config().frame_bytes_max];
        let write = wal.seal(&mut out).expect("a frame");
        let from = usize::try_from(write.offset).expect("small");
        file[from..from + write.len].copy_from_slice(&out[..write.len]);
        wal.durable(write.lsn);
    };
    let rebuilt =
        rebuilt_in.map(|life| Rebuilt { votes_from: Index(1), incarnation: Incarnation(life) });
    for (group, rebuilt) in [(A, rebuilt), (B, None), (C, None)] {
        let details = Origin { epoch: RangeEpoch(1), rebuilt, base: None, left: None }.to_details();
        let configuration = Configuration::simple([NodeId(1), NodeId(2), NodeId(3)]);
        wal.append(&Record::Create { group, configuration, details });
    }
    frame(&mut wal);
    for group in [A, B] {
        let at = LogPosition { term: Term(1), index: Index(1) };
        let payload = Payload::Commands(Bytes::from_static(&[b'x'; 100]));
        wal.append_entries(group, &[Entry { at, payload }]);
        frame(&mut wal);
    }
    harm(&mut file);
    let mut recovery = Recovery::new(config());
    recovery.feed(SegmentId(1), &file);
    recovery.finish()
}

fn judge(recovered: &Recovered, before: &Lost) -> Losses {
    let held = &[A, B, C];
    Losses::judge(&Evidence { recovered, held, had_begun: true, before, incarnation: NOW })
}

fn lost_in(groups: &[GroupId], life: u64) -> Lost {
    groups.iter().map(|group| (*group, Incarnation(life))).collect()
}

/// A frame's head can not be read.
fn break_frame(file: &mut [u8], number: usize) {
    file[BLOCK_BYTES * number + 28] ^= 1;
    file[BLOCK_BYTES * number + 29] ^= 1;
}

#[test]
fn nothing_is_lost_of_a_sound_log() {
    let losses = judge(&log(None, |_| {}), &Lost::new());
    let nothing = Losses {
        lost: Lost::new(),
        known: Vec::new(),
        news: Vec::new(),
        destroyed: Vec::new(),
        is_log_missing: false,
        has_unnamed: false,
    };
    assert_eq!(losses, nothing);
}

#[test]
fn damage_to_one_group_costs_that_group_alone() {
    let recovered = log(None, |file| file[BLOCK_BYTES * 2 + 120] ^= 1);
    let losses = judge(&recovered, &Lost::new());
    assert_eq!((losses.lost, losses.news), (lost_in(&[A], 5), vec![A]));
    assert_eq!((losses.known, losses.destroyed), (Vec::new(), vec![A]));
}

#[test]
fn damage_that_may_concern_any_group_leaves_the_log_as_it_is() {
    let losses = judge(&log(None, |file| break_frame(file, 2)), &Lost::new());
    assert!(losses.has_unnamed);
    assert_eq!((losses.lost, losses.news), (lost_in(&[A, B, C], 5), vec![A, B, C]));
    assert_eq!(losses.destroyed, Vec::new());
}

/// A group that the log does not show any more may have been in what is gone.
#[test]
fn a_group_that_is_held_and_not_shown_is_lost() {
    let recovered = log(None, |file| break_frame(file, 1));
    assert!(!recovered.groups.contains_key(&C));
    let losses = judge(&recovered, &Lost::new());
    assert_eq!(losses.news, [A, B, C]);
    let evidence = Evidence {
        recovered: &recovered,
        held: &[A, B],
        had_begun: true,
        before: &Lost::new(),
        incarnation: NOW,
    };
    assert_eq!(Losses::judge(&evidence).news, [A, B], "C is not held here");
}

#[test]
fn what_was_found_lost_stays_so_until_it_is_rebuilt() {
    let before = lost_in(&[A], 3);
    for (rebuilt_in, is_lost) in [(None, true), (Some(2), true), (Some(3), false), (Some(4), false)]
    {
        let losses = judge(&log(rebuilt_in, |_| {}), &before);
        let expected = if is_lost { before.clone() } else { Lost::new() };
        assert_eq!(losses.lost, expected, "rebuilt in {rebuilt_in:?}");
        assert_eq!(losses.known.is_empty(), !is_lost);
        assert_eq!(losses.news, Vec::new());
    }
    // One that was rebuilt and is damaged again is lost.
    let again = judge(&log(Some(4), |file| file[BLOCK_BYTES * 2 + 120] ^= 1), &before);
    assert!(again.lost.contains_key(&A));
}

#[test]
fn what_is_known_already_is_no_news() {
    let recovered = log(None, |file| file[BLOCK_BYTES * 2 + 120] ^= 1);
    let losses = judge(&recovered, &lost_in(&[A, C], 3));
    assert_eq!((losses.known, losses.news), (vec![A, C], Vec::new()));
    assert_eq!(losses.lost.keys().copied().collect::<Vec<_>>(), [A, C]);
}

#[test]
fn a_log_that_had_begun_and_is_not_there_is_gone() {
    let none = Recovery::new(config()).finish();
    let before = BTreeMap::new();
    for had_begun in [true, false] {
        let (recovered, held, before, incarnation) = (&none, &[A, B][..], &before, NOW);
        let evidence = Evidence { recovered, held, had_begun, before, incarnation };
        let losses = Losses::judge(&evidence);
        assert_eq!(losses.is_log_missing, had_begun);
        assert_eq!(losses.news, if had_begun { vec![A, B] } else { Vec::new() });
    }
    assert!(!judge(&log(None, |_| {}), &Lost::new()).is_log_missing);
}
