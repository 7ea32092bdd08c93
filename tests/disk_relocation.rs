//! The replicas of a node are brought to another number of cores, and nothing is lost or there twice, wherever
//! that is cut short and whatever number is wanted next.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oarlock::disk::data_dir::{DataDir, DataDirError, DataDirOptions, lock_stopped, peek_identity};
use oarlock::disk::identity::Identity;
use oarlock::disk::layout::{CheckpointName, CoreDir};
use oarlock::disk::lost;
use oarlock::disk::relocation::{self, Step};
use oarlock::disk::stopped;
use oarlock_codec::Record;
use oarlock_raft::{
    Configuration, Entry, HardState, LogPosition, Payload, SPLIT_BASE, SnapshotMeta,
};
use oarlock_shard::losses::Lost;
use oarlock_shard::rebuild::{Origin, Rebuilt, SplitBase};
use oarlock_types::{ClusterId, CoreId, GroupId, Incarnation, Index, NodeId, RangeEpoch, Term};
use oarlock_wal::{Addition, Owner, RecoveredGroup, Wal, WalConfig};
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 64 << 10;

fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options(cores: u16) -> DataDirOptions {
    DataDirOptions { cluster: ClusterId(5), node: NodeId(1), cores, disk: None }
}

fn open(path: &Path, cores: u16) -> Result<(), DataDirError> {
    DataDir::open(path, &options(cores)).map(drop)
}

fn at(index: u64) -> LogPosition {
    LogPosition { term: Term(3), index: Index(index) }
}

fn meta(position: LogPosition, size_bytes: u64) -> SnapshotMeta {
    let configuration = Configuration::simple((1..=3).map(NodeId));
    SnapshotMeta { position, configuration, configuration_index: Index(1), size_bytes }
}

/// A replica with a checkpoint at 20, and entries from 15 to 40.
fn replica(group: GroupId, origin: Origin) -> Vec<Record> {
    let configuration = Configuration::simple((1..=3).map(NodeId));
    let payload = || Payload::Commands(Bytes::from(vec![group.get().to_le_bytes()[0]; 900]));
    let entries = (15..=40).map(|index| Entry { at: at(index), payload: payload() }).collect();
    let hard_state = HardState { term: Term(4), vote: Some(NodeId(2)) };
    let size_bytes = group.get();
    vec![
        Record::Create { group, configuration, details: origin.to_details() },
        Record::HardState { group, hard_state },
        Record::Checkpoint { group, meta: meta(at(20), size_bytes), keep_from: Index(15) },
        Record::Entries { group, entries },
    ]
}

/// What a split left, and no checkpoint holds yet.
fn cut_off(group: GroupId, parent: GroupId) -> Vec<Record> {
    let origin = Origin::split(SplitBase { parent, index: Index(30) });
    let configuration = Configuration::simple((1..=3).map(NodeId));
    let hard_state = HardState { term: Term(1), vote: Some(NodeId(1)) };
    let keep_from = Index(u64::MAX);
    let entries = (2..=35).map(|index| Entry { at: at(index), payload: Payload::Noop }).collect();
    vec![
        Record::Create { group, configuration, details: origin.to_details() },
        Record::HardState { group, hard_state },
        Record::Checkpoint { group, meta: meta(SPLIT_BASE, 0), keep_from },
        Record::Entries { group, entries },
    ]
}

fn ended(group: GroupId) -> Vec<Record> {
    let origin = Origin { left: Some(at(17)), ..Origin::first(RangeEpoch(0)) };
    let hard_state = HardState { term: Term(6), vote: None };
    vec![
        Record::Create {
            group,
            configuration: Configuration::default(),
            details: origin.to_details(),
        },
        Record::HardState { group, hard_state },
    ]
}

fn wal(identity: &Identity, core: CoreId) -> Wal {
    let Identity { cluster, node, disk, .. } = *identity;
    let owner = Owner { cluster, node, disk, core };
    Wal::new(WalConfig { owner, segment_bytes: SEGMENT_BYTES, frame_bytes_max: 16 << 10 })
}

fn write(path: &Path, core: u16, records: impl IntoIterator<Item = Record>) {
    let (identity, core) = (peek_identity(path).unwrap(), CoreId(core));
    let mut wal = wal(&identity, core);
    let additions: Vec<Addition> = records.into_iter().map(Addition::Append).collect();
    stopped::add(&CoreDir::new(path, core), core, &identity, &mut wal, &additions).unwrap();
}

fn write_checkpoint(path: &Path, core: u16, group: GroupId) {
    let name = CheckpointName { group, index: Index(20), term: Term(3) };
    let content = vec![7; usize::try_from(group.get()).unwrap()];
    fs::write(CoreDir::new(path, CoreId(core)).checkpoint(name), content).unwrap();
}

/// A data directory of two cores with something of everything, of which the second core has much less.
fn used(path: &Path) {
    open(path, 2).unwrap();
    let first = Origin::first(RangeEpoch(2));
    let rebuilt = Rebuilt { votes_from: Index(31), incarnation: Incarnation(1) };
    let rebuilt = Origin { rebuilt: Some(rebuilt), ..first };
    let core_0 = (0..8).map(|group| replica(GroupId(group), first));
    let born = [cut_off(GroupId(100), GroupId(7)), cut_off(GroupId(101), GroupId(100))];
    write(path, 0, core_0.chain(born).flatten());
    let core_1 = [replica(GroupId(10), first), replica(GroupId(11), rebuilt), ended(GroupId(12))];
    write(path, 1, core_1.into_iter().flatten());
    (0..8).for_each(|group| write_checkpoint(path, 0, GroupId(group)));
    // Of one that is lost, and of one that nobody knows.
    [10, 11, 20, 66].into_iter().for_each(|group| write_checkpoint(path, 1, GroupId(group)));
    let lost = Lost::from([(GroupId(20), Incarnation(1))]);
    lost::write(&CoreDir::new(path, CoreId(1)), &lost).unwrap();
}

/// All that a directory holds, wherever it is.
#[derive(Debug, PartialEq)]
struct Contents {
    groups: BTreeMap<GroupId, RecoveredGroup>,
    lost: Lost,
    files: BTreeMap<CheckpointName, Vec<u8>>,
    unnamed: Option<Incarnation>,
}

/// What a start finds: nothing is there twice or damaged, and files are where their replicas are.
fn contents(path: &Path, cores: u16) -> (Contents, BTreeMap<GroupId, CoreId>) {
    let identity = peek_identity(path).unwrap();
    assert_eq!(identity.cores, cores);
    let (mut homes, mut groups, mut all_lost) = (BTreeMap::new(), BTreeMap::new(), Lost::new());
    let mut files = BTreeMap::new();
    let mut unnamed = None;
    for core in (0..cores).map(CoreId) {
        let directory = CoreDir::new(path, core);
        let log = stopped::read_log(&directory, core, &identity).unwrap();
        assert_eq!(log.damage, []);
        assert_eq!(directory.has_begun(), !log.segments.is_empty(), "{core}");
        let lost = lost::read(&directory).unwrap();
        for group in log.groups.keys().chain(lost.keys()) {
            assert_eq!(homes.insert(*group, core), None, "{group} is there twice");
        }
        groups.extend(log.groups);
        all_lost.extend(lost);
        unnamed = unnamed.max(lost::unnamed(&directory, identity.incarnation));
        for (name, _) in directory.checkpoint_list().unwrap() {
            let content = fs::read(directory.checkpoint(name)).unwrap();
            assert_eq!(files.insert(name, content), None);
            assert!(homes.get(&name.group).is_none_or(|home| *home == core), "{name}");
        }
    }
    let names = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut found: BTreeSet<String> = fs::read_dir(path).unwrap().map(names).collect();
    found.retain(|name| name.contains("core") || name.contains("relocation"));
    let own = (0..cores).flat_map(|core| [format!("core-{core}"), format!("core-{core}.begun")]);
    assert!(found.is_subset(&own.collect()), "{found:?}");
    (Contents { groups, lost: all_lost, files, unnamed }, homes)
}

/// A copy of a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// The served replicas of each core.
fn counts(homes: &BTreeMap<GroupId, CoreId>, cores: u16) -> Vec<usize> {
    let served = |group: &&GroupId| ![12, 20].contains(&group.get());
    let on = |core| homes.keys().filter(served).filter(|group| homes[*group] == core).count();
    (0..cores).map(CoreId).map(on).collect()
}

#[test]
fn whatever_the_number_of_cores_all_is_there_once() {
    let folder = folder();
    let path = folder.path();
    used(path);
    lost::note_unnamed(&CoreDir::new(path, CoreId(1)), Incarnation(2)).unwrap();
    let (before, _) = contents(path, 2);
    for cores in [3, 5, 1, 4, 4, 2] {
        open(path, cores).unwrap();
        let (now, homes) = contents(path, cores);
        assert_eq!(now, before, "{cores} cores");
        let family = [7, 100, 101].map(|group| homes[&GroupId(group)]);
        assert!(family.iter().all(|core| *core == family[0]), "{family:?}");
        let counts = counts(&homes, cores);
        assert_eq!(counts.iter().sum::<usize>(), 12);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        // Three of them stay together.
        let uneven = if cores > 3 { 2 } else { 1 };
        assert!(most - least <= uneven, "{cores} cores: {counts:?}");
    }
}

/// Ends the work behind a step, as the end of the process would. Whether it came that far.
fn cut_short(path: &Path, cores: u16, steps: usize) -> bool {
    let identity = peek_identity(path).unwrap();
    let mut left = steps;
    let mut after = |_: Step| {
        left = left.checked_sub(1).ok_or(DataDirError::NothingThere { path: PathBuf::new() })?;
        Ok(())
    };
    let identity = relocation::finish(path, identity, &mut after);
    identity.and_then(|found| relocation::carry_out(path, found, cores, &mut after)).is_err()
}

#[test]
fn what_is_cut_short_behind_any_step_comes_to_an_end_with_any_number() {
    let (origin, folder) = (folder(), folder());
    used(origin.path());
    let (before, _) = contents(origin.path(), 2);
    for to in [3, 1] {
        for steps in 0.. {
            let path = folder.path().join(format!("{to}-{steps}"));
            copy(origin.path(), &path);
            let was_cut = cut_short(&path, to, steps);
            for next in [1, 2, 4] {
                let again = folder.path().join(format!("{to}-{steps}-{next}"));
                copy(&path, &again);
                // What comes next may be cut short as well.
                cut_short(&again, next, steps / 2);
                open(&again, next).unwrap();
                assert_eq!(contents(&again, next).0, before, "{to} after {steps}, then {next}");
                fs::remove_dir_all(&again).unwrap();
            }
            fs::remove_dir_all(&path).unwrap();
            if !was_cut {
                assert!(steps >= 6, "{steps}");
                break;
            }
        }
    }
}

#[test]
fn a_directory_that_was_removed_in_part_is_replaced_by_the_new_one() {
    let folder = folder();
    let path = folder.path();
    used(path);
    let (before, _) = contents(path, 2);
    // Reading and writing for three cores are done; the decision is the last.
    assert!(cut_short(path, 3, 4));
    assert!(relocation::is_half_done(path));
    let refusals = [
        lock_stopped(path).unwrap_err().to_string(),
        oarlock::cli::wal::inspect(path).unwrap_err().to_string(),
    ];
    for refusal in refusals {
        assert!(refusal.contains("was interrupted: start it once more"), "{refusal}");
    }
    for core in [0, 1] {
        let directory = CoreDir::new(path, CoreId(core));
        fs::remove_dir_all(directory.checkpoints()).unwrap();
        fs::remove_file(&directory.segments().unwrap()[0].1).unwrap();
    }
    open(path, 3).unwrap();
    assert_eq!(contents(path, 3).0, before);
    drop(lock_stopped(path).unwrap());
}

#[test]
fn what_says_which_logs_count_is_not_guessed() {
    let folder = folder();
    used(folder.path());
    assert!(cut_short(folder.path(), 3, 4));
    fs::write(folder.path().join("relocation/decided"), "cores = 4\n").unwrap();
    let refusal = open(folder.path(), 3).unwrap_err().to_string();
    assert!(refusal.contains("decided is damaged"), "{refusal}");
}

/// Every file below a directory, but what says who uses it.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn a_log_that_is_not_whole_is_left_to_a_start_with_the_old_number() {
    type Spoil = fn(&Path);
    let spoil: [(Spoil, &str); 5] = [
        (|segment| flip(segment, 5000), "start the node with 2 cores, have what it does not serve"),
        (|segment| flip(segment, 9), "core-1/wal-0000000000000001.seg"),
        (|segment| fs::remove_file(segment).unwrap(), "core-1"),
        (|segment| fs::remove_dir_all(segment.parent().unwrap()).unwrap(), "its log is missing"),
        (newer, "in format 2, and this build reads up to 1"),
    ];
    for (spoil, words) in spoil {
        let folder = folder();
        let path = folder.path();
        used(path);
        spoil(&CoreDir::new(path, CoreId(1)).segments().unwrap()[0].1);
        fs::create_dir_all(CoreDir::new(path, CoreId(1)).checkpoints()).unwrap();
        let before = files(path);
        for cores in [1, 3] {
            let refusal = open(path, cores).unwrap_err().to_string();
            assert!(refusal.contains(words) && !refusal.contains('\n'), "{refusal}");
        }
        assert!(files(path) == before, "a refused start changes nothing: {words}");
        open(path, 2).unwrap();
    }
}

fn flip(segment: &Path, at: usize) {
    let mut bytes = fs::read(segment).unwrap();
    bytes[at] ^= 0x10;
    fs::write(segment, bytes).unwrap();
}

/// Gives a segment's header the next version, with a checksum that vouches for it.
fn newer(segment: &Path) {
    let mut bytes = fs::read(segment).unwrap();
    bytes[8] += 1;
    let crc = crc32fast::hash(&bytes[..72]);
    bytes[72..76].copy_from_slice(&crc.to_le_bytes());
    fs::write(segment, bytes).unwrap();
}

#[test]
fn of_two_cores_that_have_a_group_the_one_that_has_it_last_is_right_or_neither() {
    let folder = folder();
    let path = folder.path();
    open(path, 2).unwrap();
    let first = Origin::first(RangeEpoch(2));
    let rebuilt = Rebuilt { votes_from: Index(31), incarnation: Incarnation(1) };
    let right = replica(GroupId(1), Origin { rebuilt: Some(rebuilt), ..first });
    write(path, 0, [replica(GroupId(1), first), replica(GroupId(2), first)].concat());
    write(path, 1, right);
    for (core, group) in [(0, 1), (0, 2), (1, 1)] {
        write_checkpoint(path, core, GroupId(group));
    }
    open(path, 1).unwrap();
    let (now, _) = contents(path, 1);
    assert_eq!(Origin::from_details(&now.groups[&GroupId(1)].details).rebuilt, Some(rebuilt));
    assert_eq!(now.groups.len(), 2);

    let folder = self::folder();
    open(folder.path(), 2).unwrap();
    [0, 1].into_iter().for_each(|core| write(folder.path(), core, replica(GroupId(1), first)));
    let refusal = open(folder.path(), 1).unwrap_err().to_string();
    assert!(refusal.contains("c0 and c1 both have a replica of g1"), "{refusal}");
}

#[test]
fn a_core_on_another_disk_is_not_put_in_the_place_of_one_here() {
    let folder = folder();
    let path = folder.path().join("data");
    open(&path, 2).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(path.join("core-1"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, path.join("core-1")).unwrap();
    let refusal = open(&path, 1).unwrap_err().to_string();
    assert!(refusal.contains("core-1 is a link, or a disk of its own"), "{refusal}");
    open(&path, 2).unwrap();
}

#[test]
fn a_node_that_never_wrote_anything_changes_its_cores_too() {
    let folder = folder();
    for cores in [2, 3, 1] {
        open(folder.path(), cores).unwrap();
        assert_eq!(contents(folder.path(), cores).0.groups.len(), 0);
    }
}
