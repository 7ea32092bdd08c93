//! Which replicas a start calls lost, by what the log gives back and by what was known before.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_codec::{Record, SplitEntry};
use oarlock_raft::{
    Configuration, Entry, HardState, LogPosition, Payload, SPLIT_BASE, SnapshotMeta,
};
use oarlock_shard::Homes;
use oarlock_shard::homes::NoHome;
use oarlock_shard::losses::{
    Evidence, Losses, Lost, claim_cuts, claim_logged, doubt, give_up, may_hide, may_hide_group,
    note_hiding,
};
use oarlock_shard::rebuild::{Origin, Rebuilt, SplitBase};
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, DiskId, GroupId, Incarnation, Index, NodeId, RangeEpoch,
    SegmentId, Term,
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

/// A log that is being written, and its one segment.
struct Log {
    wal: Wal,
    file: Vec<u8>,
}

impl Log {
    fn new() -> Self {
        let mut wal = Wal::new(config());
        let mut file = vec![0; 64 << 10];
        file[..BLOCK_BYTES].copy_from_slice(&config().segment_header(SegmentId(1)));
        wal.segment_prepared(SegmentId(1));
        Self { wal, file }
    }

    fn create(&mut self, group: GroupId, origin: Origin) {
        let configuration = Configuration::simple([NodeId(1), NodeId(2), NodeId(3)]);
        let details = origin.to_details();
        self.wal.append(&Record::Create { group, configuration, details });
    }

    fn entry(&mut self, group: GroupId, index: u64) {
        let at = LogPosition { term: Term(1), index: Index(index) };
        let payload = Payload::Commands(Bytes::from_static(&[b'x'; 100]));
        self.wal.append_entries(group, &[Entry { at, payload }]);
    }

    /// A checkpoint of so many bytes; the log behind it stays.
    fn checkpoint(&mut self, group: GroupId, position: LogPosition, size_bytes: u64) {
        let configuration = Configuration::simple([NodeId(1), NodeId(2), NodeId(3)]);
        let configuration_index = Index(0);
        let meta = SnapshotMeta { position, configuration, configuration_index, size_bytes };
        let keep_from = position.index.next();
        self.wal.append(&Record::Checkpoint { group, meta, keep_from });
    }

    /// Ends a frame, which takes a block.
    fn frame(&mut self) {
        let mut out = vec![0; config().frame_bytes_max];
        let write = self.wal.seal(&mut out).expect("a frame");
        let from = usize::try_from(write.offset).expect("small");
        self.file[from..from + write.len].copy_from_slice(&out[..write.len]);
        self.wal.durable(write.lsn);
    }

    fn recover(self) -> Recovered {
        let mut recovery = Recovery::new(config());
        recovery.feed(SegmentId(1), &self.file);
        recovery.finish()
    }
}

/// A log of three frames, a block each: A, B and C are made, A gets an entry, B gets one. A was
/// rebuilt in the life that is given.
fn log(rebuilt_in: Option<u64>, harm: impl FnOnce(&mut Vec<u8>)) -> Recovered {
    let mut log = Log::new();
    let rebuilt =
        rebuilt_in.map(|life| Rebuilt { votes_from: Index(1), incarnation: Incarnation(life) });
    for (group, rebuilt) in [(A, rebuilt), (B, None), (C, None)] {
        log.create(group, Origin { rebuilt, ..Origin::first(RangeEpoch(1)) });
    }
    log.frame();
    for group in [A, B] {
        log.entry(group, 1);
        log.frame();
    }
    harm(&mut log.file);
    log.recover()
}

/// A log of four frames: A is made and gets four entries, of which the third cut B off, and the first
/// entry behind B's base cut C off; A has a checkpoint up to `saved`, if it is given.
fn cut_log(saved: Option<u64>, last: u64, harm: impl FnOnce(&mut Log)) -> Recovered {
    let mut log = Log::new();
    log.create(A, Origin::first(RangeEpoch(1)));
    log.frame();
    for index in 1..=last {
        log.entry(A, index);
    }
    log.frame();
    for (child, parent, index) in [(B, A, Index(3)), (C, B, Index(2))] {
        log.create(child, Origin::split(SplitBase { parent, index }));
        log.checkpoint(child, SPLIT_BASE, 0);
        log.entry(child, 2);
    }
    log.frame();
    if let Some(index) = saved {
        log.checkpoint(A, LogPosition { term: Term(1), index: Index(index) }, 100);
        log.frame();
    }
    harm(&mut log);
    log.recover()
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

/// What a split made can be made again from the entry that cut the range, and from nothing else.
#[test]
fn a_replica_whose_state_nothing_can_make_again_is_lost() {
    let lost = |saved, last| judge(&cut_log(saved, last, |_| {}), &Lost::new()).news;
    for (saved, last) in [(None, 3), (None, 4), (Some(1), 3), (Some(2), 3), (Some(2), 4)] {
        assert_eq!(lost(saved, last), [], "saved up to {saved:?}, {last} entries");
    }
    // And what depends on it is lost with it.
    for (saved, last) in [(None, 1), (None, 2), (Some(3), 3), (Some(3), 4), (Some(4), 4)] {
        assert_eq!(lost(saved, last), [B, C], "saved up to {saved:?}, {last} entries");
    }
}

#[test]
fn what_a_split_made_and_a_checkpoint_holds_needs_nothing_else() {
    let later = LogPosition { index: Index(2), ..SPLIT_BASE };
    for (position, size_bytes, expected) in
        [(SPLIT_BASE, 0, vec![B, C]), (SPLIT_BASE, 1, vec![]), (later, 0, vec![])]
    {
        let recovered = cut_log(None, 2, |log| {
            log.checkpoint(B, position, size_bytes);
            log.frame();
            // C's state is made of B's entry 2, which is still in the log.
            log.entry(B, 2);
            log.entry(B, 3);
            log.frame();
        });
        let news = judge(&recovered, &Lost::new()).news;
        let expected = if position == later { vec![C] } else { expected };
        assert_eq!(news, expected, "{position} {size_bytes}");
    }
}

/// Whatever took the cut range's replica, and whenever, took what it would have made.
#[test]
fn what_a_lost_range_would_have_made_is_lost_with_it() {
    let sound = cut_log(None, 3, |_| {});
    let losses = judge(&sound, &lost_in(&[A], 3));
    assert_eq!((losses.known, losses.news, losses.destroyed), (vec![A], vec![B, C], vec![]));
    let expected = lost_in(&[A], 3).into_iter().chain(lost_in(&[B, C], 5)).collect::<Lost>();
    assert_eq!(losses.lost, expected);
    // What was known already is no news.
    let losses = judge(&sound, &lost_in(&[A, B], 3));
    assert_eq!((losses.known, losses.news), (vec![A, B], vec![C]));
    // Damage that this start finds, in the entries of A alone.
    let damaged = cut_log(None, 3, |log| log.file[BLOCK_BYTES * 2 + 120] ^= 1);
    let losses = judge(&damaged, &Lost::new());
    assert_eq!((losses.news, losses.destroyed), (vec![A, B, C], vec![A]));
    // And one of which the log says nothing.
    let gone = cut_log(None, 3, |log| {
        log.wal.append(&Record::Destroy { group: A });
        log.frame();
    });
    assert_eq!(judge(&gone, &Lost::new()).news, [B, C]);
}

/// A's log as a core has it to which it has come so often, with its hard state if all of it came.
fn residence(residence: u64, is_whole: bool) -> Recovered {
    let mut log = Log::new();
    log.create(A, Origin { residence, ..Origin::first(RangeEpoch(1)) });
    log.checkpoint(A, LogPosition { term: Term(1), index: Index(3) }, 100);
    log.entry(A, 4);
    if is_whole {
        let hard_state = HardState { term: Term(1), vote: None };
        log.wal.append(&Record::HardState { group: A, hard_state });
    }
    log.frame();
    log.recover()
}

/// Who is right of two cores, each with its log and what it has lost, and what each of them is to forget.
fn of_two(mut logs: [Recovered; 2], mut lost: [Lost; 2]) -> (Option<CoreId>, [Vec<GroupId>; 2]) {
    let homes = Homes::new(2);
    for core in [1, 0] {
        let number = CoreId(u16::try_from(core).expect("two"));
        claim_logged(&homes, number, &logs[core], &lost[core]).expect("one is right");
    }
    let given_up = [0, 1].map(|core| {
        let number = CoreId(u16::try_from(core).expect("two"));
        give_up(&homes, number, &mut logs[core], &mut lost[core])
    });
    (homes.core_of(A), given_up)
}

#[test]
fn a_replica_that_is_in_two_logs_is_where_it_came_last_and_came_whole() {
    let nothing = || [Lost::new(), Lost::new()];
    let (old, new) = (Some(CoreId(0)), Some(CoreId(1)));
    let both = of_two([residence(1, true), residence(2, true)], nothing());
    assert_eq!(both, (new, [vec![A], Vec::new()]), "the old log has not forgotten it yet");
    let part = of_two([residence(1, true), residence(2, false)], nothing());
    assert_eq!(part, (old, [Vec::new(), vec![A]]), "it never came there whole");
    let back = of_two([residence(3, true), residence(2, true)], nothing());
    assert_eq!(back, (old, [Vec::new(), vec![A]]), "it has come back since");
    let lost = of_two([residence(7, true), residence(2, true)], [Lost::new(), lost_in(&[A], 4)]);
    assert_eq!(lost, (new, [vec![A], Vec::new()]), "it was found lost there since");
}

#[test]
fn a_log_hides_no_replica_that_it_has_forgotten_behind_all_damage() {
    let mut log = Log::new();
    [A, B].iter().for_each(|group| log.create(*group, Origin::first(RangeEpoch(1))));
    log.frame();
    log.entry(A, 1);
    log.frame();
    log.wal.append(&Record::Destroy { group: A });
    log.frame();
    break_frame(&mut log.file, 2);
    let recovered = log.recover();
    assert!(may_hide(&recovered, true), "some may have been made there");
    let hidden = [A, C].map(|group| may_hide_group(&recovered, true, group));
    assert_eq!(hidden, [false, true], "A has gone for good");
}

/// The files of one core's log were put back after another core had found its replicas lost, and maybe rebuilt them.
#[test]
fn what_is_back_is_lost_if_another_log_may_hide_what_became_of_it() {
    let lost_beside = |other: Recovered| {
        let homes = Homes::new(2);
        let back = log(None, |_| {});
        for (core, log) in [(CoreId(0), &back), (CoreId(1), &other)] {
            claim_logged(&homes, core, log, &Lost::new()).expect("one is right");
            note_hiding(&homes, core, log, true);
        }
        let mut before = Lost::new();
        doubt(&homes, CoreId(0), &back, &mut before, NOW);
        let evidence = Evidence {
            recovered: &back,
            held: &[],
            had_begun: true,
            before: &before,
            incarnation: NOW,
        };
        Losses::judge(&evidence).lost
    };
    let other = |harm: fn(&mut Log)| {
        let mut log = Log::new();
        log.create(GroupId(9), Origin::first(RangeEpoch(1)));
        log.frame();
        log.entry(GroupId(9), 1);
        log.frame();
        log.entry(GroupId(9), 2);
        log.frame();
        harm(&mut log);
        log.recover()
    };
    assert_eq!(lost_beside(other(|_| {})), Lost::new(), "it shows all that it has");
    let hurt = other(|log| break_frame(&mut log.file, 2));
    assert_eq!(lost_beside(hurt), lost_in(&[A, B, C], 5));
    assert_eq!(lost_beside(Recovery::new(config()).finish()), lost_in(&[A, B, C], 5), "it is gone");
    let settled = other(|log| {
        log.wal.append(&Record::Destroy { group: B });
        log.frame();
        break_frame(&mut log.file, 2);
    });
    assert_eq!(lost_beside(settled), lost_in(&[A, C], 5), "it has none of B for certain");
}

/// It was not applied before the start, or its state is made again now.
#[test]
fn what_an_entry_of_a_log_cuts_off_has_its_home_there_from_the_start() {
    let mut log = Log::new();
    for (parent, child) in [(A, B), (C, GroupId(4))] {
        log.create(parent, Origin::first(RangeEpoch(1)));
        let split = SplitEntry {
            at: Bytes::from_static(b"m"),
            child,
            leader: NodeId(1),
            configuration: Configuration::simple([NodeId(1), NodeId(2), NodeId(3)]),
            lives: Vec::new(),
        };
        let at = LogPosition { term: Term(1), index: Index(1) };
        let payload = Payload::Split(split.encode());
        log.wal.append_entries(parent, &[Entry { at, payload }]);
    }
    log.frame();
    let recovered = log.recover();
    let homes_of = |children: [GroupId; 2], lost: &Lost, logged: Option<GroupId>| {
        let homes = Homes::new(2);
        let own = CoreId(1);
        claim_logged(&homes, own, &recovered, lost).expect("it is alone");
        logged.iter().for_each(|group| assert!(homes.claim(*group, CoreId(0))));
        claim_cuts(&homes, CoreAddr::new(NodeId(1), own), &recovered, lost);
        children.map(|child| homes.claim_any(child))
    };
    let children = [B, GroupId(4)];
    let taken = |core| Err(NoHome::Taken(CoreId(core)));
    assert_eq!(homes_of(children, &Lost::new(), None), [taken(1), taken(1)]);
    assert_eq!(homes_of(children, &Lost::new(), Some(B)), [taken(0), taken(1)], "it has gone on");
    assert_eq!(homes_of(children, &lost_in(&[A], 2), None), [Ok(CoreId(0)), taken(1)]);
}
