//! Properties of recovery: whatever a log went through, it comes back exactly; whatever the disk
//! did to it, it says so.

mod support;

use oarlock_types::{GroupId, Lsn, Random, SegmentId};
use oarlock_wal::layout::BLOCK_BYTES;
use oarlock_wal::{Affected, DamageKind};
use proptest::prelude::*;
use support::{Bench, assert_state, config, recover, recover_up_to, state_of};

/// Runs a log for a while: appends, writes, compaction, recycling.
fn run(bench: &mut Bench, steps: u64) {
    for _ in 0..steps {
        match bench.random.below(12) {
            0..6 => bench.append_random(),
            6 | 7 => {
                bench.seal();
            }
            8 | 9 => {
                bench.complete();
                bench.prepare();
            }
            10 => bench.retire(),
            _ => {
                bench.rewrite();
            }
        }
    }
}

fn filled(seed: u64, steps: u64) -> Bench {
    let mut bench = Bench::new(seed);
    run(&mut bench, steps);
    bench.flush();
    bench
}

fn at(n: u64) -> usize {
    usize::try_from(n).expect("small")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Crash after crash, with torn writes of every shape, compaction and recycling in between:
    /// the log comes back with all that was durable, and with nothing else.
    #[test]
    fn comes_back_exactly_after_every_crash(seed: u64) {
        let mut bench = Bench::new(seed);
        for _ in 0..6 {
            let steps = bench.random.below(120);
            run(&mut bench, steps);
            bench.crash();
            let recovered = bench.restart();
            bench.resume(recovered);
            bench.check_reads();
        }
        bench.flush();
        bench.check_reads();
        let live = bench.wal.live_bytes();
        prop_assert_eq!(live.values().sum::<u64>(), bench.wal.needed_bytes());
        let again = bench.restart();
        prop_assert_eq!(live, again.wal.live_bytes());
        for group in bench.model.keys() {
            prop_assert_eq!(bench.wal.group_log_range(*group), again.wal.group_log_range(*group));
            prop_assert_eq!(bench.wal.group_log_bytes(*group), again.wal.group_log_bytes(*group));
        }
    }

    /// A log that was cut at a block (what follows was never written) gives the state of its last
    /// whole frame, at every block.
    #[test]
    fn every_prefix_gives_the_state_of_its_last_whole_frame(seed: u64) {
        let mut bench = Bench::new(seed);
        let mut ends: Vec<(SegmentId, usize, Lsn)> = Vec::new();
        for _ in 0..60 {
            bench.append_random();
            if bench.random.below(2) == 0 && let Some(write) = bench.seal() {
                bench.complete();
                bench.prepare();
                ends.push((write.segment, at(write.offset) + write.len, write.lsn));
            }
        }
        let whole = bench.disk.clone();
        for id in whole.keys() {
            for block in 1..at(config().segment_bytes) / BLOCK_BYTES {
                let cut = (*id, block * BLOCK_BYTES);
                let mut disk = whole.clone();
                for (segment, file) in &mut disk {
                    if segment > id {
                        file[BLOCK_BYTES..].fill(0);
                    } else if segment == id {
                        file[cut.1..].fill(0);
                    }
                }
                let lasting = ends.iter().filter(|(segment, end, _)| (*segment, *end) <= cut);
                let lsn = lasting.map(|(_, _, lsn)| *lsn).max().unwrap_or(Lsn(0));
                let recovered = recover(&disk);
                prop_assert_eq!(&recovered.damage, &[]);
                prop_assert_eq!(recovered.wal.durable_lsn(), lsn);
                assert_state(&recovered, &bench.states[&lsn]);
            }
        }
    }

    /// A cut inside a sector, which a disk should not leave, is at worst reported; a group that is
    /// not marked is as it was with the last frame or before it.
    #[test]
    fn a_cut_at_any_byte_invents_nothing(seed: u64, cut: prop::sample::Index) {
        let bench = filled(seed, 60);
        let Some(last) = bench.last_write else { return Ok(()) };
        let mut disk = bench.disk.clone();
        let file = disk.get_mut(&last.segment).expect("it was written");
        let from = at(last.offset) + cut.index(last.len);
        file[from..].fill(0);
        let recovered = recover(&disk);
        let (before, after) = (&bench.states[&Lsn(last.lsn.get() - 1)], &bench.states[&last.lsn]);
        let state = state_of(&recovered);
        if recovered.damage.is_empty() {
            prop_assert!(state == *before || state == *after);
        }
        for (group, known) in &recovered.groups {
            let found = Some(&state[group]);
            prop_assert!(
                known.damaged || found == before.get(group) || found == after.get(group)
            );
        }
    }

    /// One bit flipped anywhere is reported or does no harm; a group that is not marked is whole.
    #[test]
    fn a_flipped_bit_is_reported_or_harmless(seed: u64, places in prop::collection::vec(any::<(u64, u64, u8)>(), 40)) {
        let bench = filled(seed, 160);
        let last = bench.wal.durable_lsn();
        let ids: Vec<SegmentId> = bench.disk.keys().copied().collect();
        for (segment, byte, bit) in places {
            let id = ids[at(segment % ids.len() as u64)];
            let used = config().segment_bytes;
            let mut disk = bench.disk.clone();
            let file = disk.get_mut(&id).expect("it is there");
            file[at(byte % used)] ^= 1 << (bit % 8);
            let recovered = recover(&disk);
            let state = state_of(&recovered);
            if recovered.damage.is_empty() {
                prop_assert_eq!(&state, &bench.states[&last]);
            }
            for (group, known) in &recovered.groups {
                if !known.damaged {
                    prop_assert_eq!(Some(&state[group]), bench.states[&last].get(group));
                }
            }
            for group in bench.states[&last].keys() {
                prop_assert!(
                    recovered.groups.contains_key(group) || recovered.suspicion.of_unlisted(*group)
                );
            }
        }
    }

    /// A stretch of rubbish inside the log is reported; a group that is not marked is whole. Only
    /// the last frame may be taken for one that was never written.
    #[test]
    fn rubbish_is_reported(seed: u64, place: prop::sample::Index, length in 1_u64..3000) {
        let bench = filled(seed, 160);
        let Some(last) = bench.last_write else { return Ok(()) };
        let mut disk = bench.disk.clone();
        let id = *disk.keys().nth(place.index(disk.len())).expect("in range");
        let mut dice = Random::new(seed ^ 1);
        let file = disk.get_mut(&id).expect("it is there");
        let from = at(dice.below(config().segment_bytes - length));
        for byte in &mut file[from..from + at(length)] {
            *byte = u8::try_from(dice.below(256)).expect("a byte");
        }
        let recovered = recover(&disk);
        let state = state_of(&recovered);
        let after = &bench.states[&last.lsn];
        let hit_last = id == last.segment
            && from < at(last.offset) + last.len
            && from + at(length) > at(last.offset);
        let before = if hit_last { &bench.states[&Lsn(last.lsn.get() - 1)] } else { after };
        if recovered.damage.is_empty() {
            prop_assert!(state == *before || state == *after);
        }
        for (group, known) in &recovered.groups {
            let found = Some(&state[group]);
            prop_assert!(
                known.damaged || found == before.get(group) || found == after.get(group)
            );
        }
    }

    /// A segment that is gone, short, of another core or misnamed is named, and nothing is vouched
    /// for that it may have held.
    #[test]
    fn a_segment_that_is_not_the_one_is_named(seed: u64, place: prop::sample::Index, kind in 0..4_u8) {
        let bench = filled(seed, 200);
        let Some(last) = bench.last_write else { return Ok(()) };
        let mut disk = bench.disk.clone();
        let used: Vec<SegmentId> =
            disk.keys().copied().filter(|id| *id <= last.segment).collect();
        let id = used[place.index(used.len())];
        let oldest_needed = bench.wal.live_bytes().into_keys().next();
        match kind {
            0 => { disk.remove(&id); }
            1 => { disk.get_mut(&id).expect("there").truncate(at(config().segment_bytes) / 2); }
            2 => {
                let mut other = config();
                other.owner.node = oarlock_types::NodeId(2);
                let file = disk.get_mut(&id).expect("there");
                file[..BLOCK_BYTES].copy_from_slice(&other.segment_header(id));
            }
            _ => {
                let file = disk.get_mut(&id).expect("there");
                file[..BLOCK_BYTES].copy_from_slice(&config().segment_header(SegmentId(999)));
            }
        }
        let newest = bench.disk.keys().next_back().copied();
        let recovered = recover_up_to(&disk, newest);
        let needed = oldest_needed.is_some_and(|oldest| id >= oldest);
        if needed || kind > 0 {
            let named = recovered.damage.iter().any(|damage| {
                let DamageKind::MissingSegments { count } = damage.kind else {
                    return damage.segment == id;
                };
                let first = damage.segment.get();
                (first..first + count).contains(&id.get())
            });
            prop_assert!(named);
        }
        let state = state_of(&recovered);
        for (group, known) in &recovered.groups {
            if !known.damaged && (needed || kind > 0) {
                prop_assert_eq!(Some(&state[group]), bench.states[&last.lsn].get(group));
            }
        }
    }
}

/// What a newer build wrote is told from damage, and a bit that flipped in a version is damage.
#[test]
fn a_newer_version_is_told_from_damage() {
    let bench = filled(3, 40);
    let first = *bench.disk.keys().next().expect("it was written");
    let newer = |found| DamageKind::NewerVersion { found };
    let kinds = |disk: &std::collections::BTreeMap<SegmentId, Vec<u8>>| {
        recover(disk).damage.into_iter().map(|damage| damage.kind).collect::<Vec<_>>()
    };
    let mut disk = bench.disk.clone();
    let file = disk.get_mut(&first).expect("there");
    file[8] = 7;
    assert_eq!(kinds(&disk), [DamageKind::BadHeader]);
    let file = disk.get_mut(&first).expect("there");
    let crc = crc32fast::hash(&file[..72]);
    file[72..76].copy_from_slice(&crc.to_le_bytes());
    assert!(kinds(&disk).contains(&newer(7)));

    // A newer build went on in a segment of this one.
    let mut disk = bench.disk.clone();
    let file = disk.get_mut(&first).expect("there");
    file[BLOCK_BYTES + 12] = 2;
    assert!(!kinds(&disk).contains(&newer(2)));
    seal_first_frame(disk.get_mut(&first).expect("there"));
    assert!(kinds(&disk).contains(&newer(2)));
}

/// Makes the head of a segment's first frame check again.
fn seal_first_frame(file: &mut [u8]) {
    let owner = config().owner;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&owner.cluster.get().to_le_bytes());
    crc.update(&owner.node.get().to_le_bytes());
    crc.update(&owner.disk.get().to_le_bytes());
    crc.update(&owner.core.get().to_le_bytes());
    let mut crc = crc32fast::Hasher::new_with_initial(crc.finalize());
    crc.update(&file[BLOCK_BYTES + 8..BLOCK_BYTES + 52]);
    let crc = crc.finalize();
    file[BLOCK_BYTES + 52..BLOCK_BYTES + 56].copy_from_slice(&crc.to_le_bytes());
}

/// So is a record of a kind that only a newer build has, and one whose content is none that this one knows.
#[test]
fn a_record_of_a_newer_build_is_told_from_damage() {
    let mut bench = Bench::new(1);
    bench.append(&oarlock_codec::Record::Destroy { group: GroupId(7) });
    bench.flush();
    let payload = BLOCK_BYTES + 56..BLOCK_BYTES + 80;
    // An unknown kind; entries without a body.
    for (kind, is_told) in [(5, false), (6, true), (1, true)] {
        let mut disk = bench.disk.clone();
        let file = disk.get_mut(&SegmentId(1)).expect("it was written");
        let record = &mut file[payload.clone()];
        record[16] = kind;
        let crc = crc32fast::hash(&record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(record);
        file[BLOCK_BYTES + 44..BLOCK_BYTES + 48].copy_from_slice(&crc.to_le_bytes());
        seal_first_frame(file);
        let damage = recover(&disk).damage;
        assert_eq!(damage.len(), usize::from(is_told), "{damage:?}");
        for damage in damage {
            assert_eq!(damage.kind, DamageKind::UnknownRecord { lsn: Lsn(1) });
            assert_eq!(damage.affected, Affected::Groups(vec![GroupId(7)]));
        }
    }
}

/// Damage is forgotten for a group that the log creates afresh behind it.
#[test]
fn a_rebuilt_group_is_whole_again() {
    let mut bench = Bench::new(1);
    let create = |group| oarlock_codec::Record::Create {
        group,
        configuration: oarlock_raft::Configuration::default(),
        details: bytes::Bytes::new(),
    };
    for group in [GroupId(1), GroupId(2)] {
        bench.append(&create(group));
        bench.flush();
    }
    let first = bench.disk.get_mut(&SegmentId(1)).expect("it was written");
    first[BLOCK_BYTES..BLOCK_BYTES + 512].fill(0x55);
    let recovered = recover(&bench.disk);
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!(recovered.damage[0].kind, DamageKind::CorruptFrame { lsn: Lsn(1) });
    assert_eq!(recovered.damage[0].affected, Affected::All);
    assert!(recovered.suspicion.of_unlisted(GroupId(1)));
    // Its creation stands behind the damage: nothing of it was lost.
    assert!(!recovered.groups[&GroupId(2)].damaged);
    bench.resume(recovered);
    bench.append(&create(GroupId(1)));
    bench.flush();
    let recovered = recover(&bench.disk);
    assert!(!recovered.groups[&GroupId(1)].damaged && !recovered.groups[&GroupId(2)].damaged);
    assert!(!recovered.suspicion.of_unlisted(GroupId(1)));
    assert!(recovered.suspicion.of_unlisted(GroupId(3)));
}

/// The oldest segment of a log whose beginning was given up holds no frame any more: nothing comes
/// before it that would tell, but the newest frame says that it is needed.
#[test]
fn an_oldest_segment_without_its_frames_is_told() {
    let mut seeds = (0..100).map(|seed| filled(seed, 200));
    let needed = |bench: &Bench| bench.wal.live_bytes().into_keys().next();
    let mut bench = seeds
        .find(|bench| needed(bench).is_some_and(|id| id > SegmentId(1)))
        .expect("some log gave up its first segment");
    // The newest frame names what is needed by now.
    bench.append(&oarlock_codec::Record::Create {
        group: GroupId(99),
        configuration: oarlock_raft::Configuration::default(),
        details: bytes::Bytes::new(),
    });
    bench.flush();
    let oldest = needed(&bench).expect("99 lives");
    bench.disk.get_mut(&oldest).expect("it is there")[BLOCK_BYTES..].fill(0);
    let recovered = recover(&bench.disk);
    let named =
        |damage: &oarlock_wal::Damage| damage.segment == oldest && damage.affected == Affected::All;
    assert!(recovered.damage.iter().any(named), "{:?}", recovered.damage);
    assert!(recovered.suspicion.of_unlisted(GroupId(7)));
}

/// A file whose name is wrong is told at once, however far ahead its name is: in time and in memory
/// that do not grow with the distance.
/// A write that went to another place than it should: over the first frame of a log whose beginning was
/// given up. Nothing before that place says which frame was there.
#[test]
fn a_frame_where_the_first_one_was_is_told() {
    let mut tried = 0;
    for seed in 0..40 {
        let (mut bench, mut frames) = (Bench::new(seed), Vec::new());
        for _ in 0..100 {
            match bench.random.below(12) {
                0..7 => bench.append_random(),
                7..10 => {
                    bench.complete();
                    bench.prepare();
                    frames.extend(bench.seal());
                }
                10 => bench.retire(),
                _ => bench.rewrite(),
            }
        }
        bench.complete();
        let oldest = *bench.disk.keys().next().unwrap();
        let there: Vec<_> = frames.iter().filter(|frame| frame.segment == oldest).collect();
        if oldest == SegmentId(1) || there.len() < 4 {
            continue;
        }
        let begin = at(there[0].offset);
        for (moved, is_left) in
            there[1..there.len() - 1].iter().flat_map(|f| [(f, false), (f, true)])
        {
            let mut disk = bench.disk.clone();
            let file = disk.get_mut(&oldest).unwrap();
            let own = at(moved.offset)..at(moved.offset) + moved.len;
            let piece = file[own.clone()].to_vec();
            if !is_left {
                file[own].fill(0);
            }
            file[begin..begin + moved.len].copy_from_slice(&piece);
            let damage = recover(&disk).damage;
            let is_told = damage.iter().any(|damage| damage.affected == Affected::All);
            assert!(is_told, "seed {seed}, {} at {begin}, left {is_left}: {damage:?}", moved.lsn);
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
}

#[test]
fn segments_that_are_missing_are_told_as_one() {
    for far in [SegmentId(1 << 60), SegmentId(u64::MAX)] {
        let mut bench = filled(5, 40);
        let next = bench.disk.keys().next_back().expect("it was written").next();
        bench.disk.insert(far, vec![0; at(config().segment_bytes)]);
        let recovered = recover(&bench.disk);
        let count = far.get() - next.get();
        let missing: Vec<_> = recovered
            .damage
            .iter()
            .filter(|damage| damage.kind == DamageKind::MissingSegments { count })
            .map(|damage| damage.segment)
            .collect();
        assert_eq!(missing, [next]);
        assert!(recovered.groups.values().all(|group| group.damaged));
    }
}

/// A prepared segment that is cut short or another's may have held anything. What is written later
/// is not written there or before it, where every start would call it lost.
#[test]
fn the_log_goes_on_behind_a_damaged_segment_that_was_not_used() {
    let newest = |bench: &Bench| *bench.disk.keys().next_back().expect("it was written");
    let is_unused = |bench: &Bench| bench.last_write.is_some_and(|w| w.segment < newest(bench));
    let steps = (40..80).find(|steps| is_unused(&filled(4, *steps)));
    let steps = steps.expect("half of a segment is used, and the next one prepared");
    let sound = filled(4, steps);
    let used = newest(&sound);
    let mut short = sound.disk[&used].clone();
    short.truncate(at(config().segment_bytes) - BLOCK_BYTES);
    goes_on_behind(filled(4, steps), used, short);
    let unused = sound.disk[&used].clone();
    goes_on_behind(filled(4, steps), used.next(), unused);
}

fn goes_on_behind(mut bench: Bench, id: SegmentId, file: Vec<u8>) {
    bench.disk.insert(id, file);
    let recovered = recover(&bench.disk);
    let groups: Vec<GroupId> = recovered.groups.keys().copied().collect();
    let known: Vec<_> = recovered.damage.iter().map(|damage| damage.segment).collect();
    assert_eq!(known, [id]);
    bench.states.insert(recovered.wal.durable_lsn(), bench.model.clone());
    bench.resume(recovered);
    for group in groups {
        bench.append(&oarlock_codec::Record::Destroy { group });
    }
    let group = GroupId(99);
    bench.append(&oarlock_codec::Record::Create {
        group,
        configuration: oarlock_raft::Configuration::default(),
        details: bytes::Bytes::new(),
    });
    bench.flush();
    let recovered = recover(&bench.disk);
    assert!(!recovered.groups[&group].damaged, "{:?}", recovered.damage);
}

/// The last write of a dead process lands after the next one has read the log: it stays void.
#[test]
fn a_write_that_lands_late_is_void() {
    let mut bench = Bench::new(2);
    bench.append_random();
    bench.flush();
    bench.append_random();
    bench.seal();
    let late = bench.in_flight.clone().expect("sealed");
    let recovered = bench.restart();
    bench.resume(recovered);
    let file = bench.disk.get_mut(&late.0.segment).expect("it was written");
    file[at(late.0.offset)..at(late.0.offset) + late.0.len].copy_from_slice(&late.1);
    bench.append_random();
    bench.flush();
    let recovered = recover(&bench.disk);
    assert_eq!(recovered.damage, []);
    assert_eq!(recovered.wal.durable_lsn(), Lsn(2));
    assert_state(&recovered, &bench.model);
}
