//! A data directory is opened by its own node only, one at a time, and counts its starts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use oarlock::disk::buffer::AlignedBytes;
use oarlock::disk::data_dir::{DataDir, DataDirError, DataDirOptions, peek_identity};
use oarlock::disk::layout::CheckpointName;
use oarlock::disk::probe;
use oarlock_types::{
    ClusterId, CoreId, DiskId, GroupId, Incarnation, Index, NodeId, SegmentId, Term,
};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options() -> DataDirOptions {
    DataDirOptions { cluster: ClusterId(5), node: NodeId(1), cores: 2, disk: None }
}

fn refusal(path: &Path, options: &DataDirOptions) -> String {
    let text = DataDir::open(path, options).unwrap_err().to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[test]
fn a_new_directory_is_made_and_its_starts_are_counted() {
    let parent = directory();
    let path = parent.path().join("a/b");
    let first = DataDir::open(&path, &options()).unwrap();
    assert!(first.is_new());
    assert_eq!(first.incarnation(), Incarnation(1));
    assert_eq!((first.cluster(), first.node()), (ClusterId(5), NodeId(1)));
    assert!(first.core(CoreId(1)).checkpoints().is_dir());
    let disk = first.disk();
    drop(first);

    let second = DataDir::open(&path, &options()).unwrap();
    assert!(!second.is_new());
    assert_eq!(second.incarnation(), Incarnation(2));
    assert_eq!(second.disk(), disk, "the disk stays the same");
    assert_eq!(peek_identity(&path).unwrap().incarnation, Incarnation(2));

    let other = DataDir::open(&parent.path().join("c"), &options()).unwrap();
    assert_ne!(other.disk(), disk, "another directory is another disk");
}

#[test]
fn a_directory_in_use_names_the_process_that_holds_it() {
    let path = directory();
    let _held = DataDir::open(path.path(), &options()).unwrap();
    let text = refusal(path.path(), &options());
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
}

/// As that of a process that was killed while the disk stood still.
#[test]
fn a_lock_that_outlives_its_process_is_waited_for() {
    let path = directory();
    drop(DataDir::open(path.path(), &options()).unwrap());
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let file = path.path().join("lock");
    fs::write(&file, format!("{}\n", ended.id())).unwrap();
    let lock = File::open(&file).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();

    let (opened, is_open) = mpsc::channel();
    let directory = path.path().to_owned();
    let opener =
        thread::spawn(move || opened.send(DataDir::open(&directory, &options()).map(drop)));
    let early = is_open.recv_timeout(Duration::from_millis(200));
    assert!(early.is_err(), "it is opened while writes are under way: {early:?}");
    drop(lock);
    is_open.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    opener.join().unwrap().unwrap();
}

#[test]
fn what_is_not_this_nodes_is_refused_and_left_alone() {
    let path = directory();
    drop(DataDir::open(path.path(), &options()).unwrap());
    for (wanted, words) in [
        (
            DataDirOptions { node: NodeId(2), ..options() },
            "belongs to node n1, but this is node n2",
        ),
        (DataDirOptions { cluster: ClusterId(6), ..options() }, "belongs to cluster-5, but"),
        (DataDirOptions { node: NodeId(2), cores: 3, ..options() }, "belongs to node n1, but"),
    ] {
        let text = refusal(path.path(), &wanted);
        assert!(text.contains(words), "{text}");
    }
    let mine = DataDir::open(path.path(), &options()).unwrap();
    assert_eq!(mine.incarnation(), Incarnation(2), "the refused starts changed nothing");
}

#[test]
fn a_newer_format_and_damage_are_told_apart() {
    let path = directory();
    drop(DataDir::open(path.path(), &options()).unwrap());
    let identity = path.path().join("identity");
    let text = fs::read_to_string(&identity).unwrap();

    fs::write(&identity, text.replace("format_version = 1", "format_version = 2")).unwrap();
    let newer = refusal(path.path(), &options());
    assert!(newer.contains("has format 2, but this program reads format 1"), "{newer}");

    fs::write(&identity, text.replace("node = 1", "node = 2")).unwrap();
    let damaged = refusal(path.path(), &options());
    assert!(damaged.contains("identity is damaged or missing"), "{damaged}");

    fs::write(&identity, [0xff; 10]).unwrap();
    assert!(refusal(path.path(), &options()).contains("identity is damaged or missing"));

    fs::remove_file(&identity).unwrap();
    let missing = refusal(path.path(), &options());
    assert!(missing.contains("although the directory holds data"), "{missing}");
}

#[test]
fn what_cannot_be_a_data_directory_is_refused() {
    let parent = directory();
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(refusal(&file, &options()).contains("file is not a directory"));
    assert!(refusal(&file.join("below"), &options()).contains("is not a directory"));
}

#[test]
fn a_file_system_in_memory_is_refused() {
    let path = TempDir::new_in("/dev/shm").expect("/dev/shm is a tmpfs on every Linux");
    let text = refusal(path.path(), &options());
    assert!(text.contains("is on tmpfs, which keeps its files in memory"), "{text}");
    probe::direct_io(directory().path()).unwrap();
}

#[test]
fn what_a_kill_left_unfinished_does_not_matter() {
    let path = directory();
    let core = {
        let data = DataDir::open(path.path(), &options()).unwrap();
        data.core(CoreId(0))
    };
    let name = CheckpointName { group: GroupId(1), index: Index(2), term: Term(3) };
    // Killed while it wrote the new identity, a segment, a checkpoint; and before their renames.
    let unfinished = [
        path.path().join("identity.tmp"),
        core.preparing(SegmentId(9)),
        core.checkpoint_part(name),
    ];
    for file in &unfinished {
        fs::write(file, "half").unwrap();
    }
    let kept = [core.segment(SegmentId(1)), core.spare(SegmentId(2)), core.checkpoint(name)];
    for file in &kept {
        fs::write(file, "whole").unwrap();
    }
    let data = DataDir::open(path.path(), &options()).unwrap();
    assert_eq!(data.incarnation(), Incarnation(2));
    assert!(unfinished.iter().all(|file| !file.exists()), "what was unfinished is gone");
    assert!(kept.iter().all(|file| file.exists()), "what was finished is there");
    assert_eq!(core.checkpoint_list().unwrap(), [(name, 5)]);

    // Killed before the first identity was in place: the directory is still blank.
    let blank = directory();
    fs::write(blank.path().join("identity.tmp"), "half").unwrap();
    fs::write(blank.path().join("lock"), "99999999\n").unwrap();
    assert_eq!(DataDir::open(blank.path(), &options()).unwrap().incarnation(), Incarnation(1));
}

const KILLED_IN: &str = "OARLOCK_TEST_KILLED_IN";

/// No incarnation is ever used twice, wherever in a start the process is killed.
#[test]
fn incarnations_rise_through_kills() {
    if let Ok(path) = std::env::var(KILLED_IN) {
        loop {
            println!(
                "started {}",
                DataDir::open(Path::new(&path), &options()).unwrap().incarnation()
            );
        }
    }
    let path = directory();
    let mut highest = Incarnation(0);
    for round in 1..=8usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "incarnations_rise_through_kills", "--nocapture"])
            .env(KILLED_IN, path.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let seen: Vec<u64> = lines
            .filter_map(|line| line.split("started i").nth(1)?.parse().ok())
            .take(round * 3)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen.len(), round * 3, "the child ran until it was killed");
        for incarnation in seen.into_iter().map(Incarnation) {
            assert!(incarnation > highest, "{incarnation} came after {highest}");
            highest = incarnation;
        }
    }
    assert!(DataDir::open(path.path(), &options()).unwrap().incarnation() > highest);
}

#[test]
fn the_disks_of_peers_are_remembered() {
    let path = directory();
    let data = DataDir::open(path.path(), &options()).unwrap();
    let mut peers = data.peer_disks().unwrap();
    assert_eq!(peers.known_disk(NodeId(2)), None);
    peers.remember_disk(NodeId(2), DiskId(u128::MAX)).unwrap();
    peers.remember_disk(NodeId(3), DiskId(1)).unwrap();
    peers.remember_disk(NodeId(3), DiskId(2)).unwrap();

    let again = data.peer_disks().unwrap();
    assert_eq!(again.known_disk(NodeId(2)), Some(DiskId(u128::MAX)));
    assert_eq!(again.known_disk(NodeId(3)), Some(DiskId(2)), "the last one counts");

    let file = path.path().join("peers");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen('f', "e", 1)).unwrap();
    assert!(matches!(data.peer_disks(), Err(DataDirError::PeersDamaged { .. })));
}

#[test]
fn segments_are_read_in_order_one_at_a_time() {
    let path = directory();
    let data = DataDir::open(path.path(), &options()).unwrap();
    let core = data.core(CoreId(1));
    for id in [16, 2, 300].map(SegmentId) {
        fs::write(core.segment(id), format!("segment {id}")).unwrap();
    }
    fs::write(core.path().join("wal-1.seg"), "not a segment's name").unwrap();
    let (mut reads, mut bytes, mut found) =
        (data.read_segments(CoreId(1)).unwrap(), AlignedBytes::default(), Vec::new());
    while let Some((id, _)) = reads.next_into(&mut bytes).unwrap() {
        assert_eq!(bytes.as_slice(), format!("segment {id}").as_bytes());
        found.push(id);
    }
    assert_eq!(found, [2, 16, 300].map(SegmentId));
}
