//! A stopped node's files are damaged: when it starts again it says what and where, and nothing
//! that its peers have is lost or changed by it.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Cluster, Load, Options, Shape, eventually, files};
use oarlock::bench::cluster_map;
use oarlock::bench::processes::LocalCluster;
use oarlock::bench::verify::Recorded;
use oarlock::disk::layout::CoreDir;
use oarlock::disk::segments::newest_marked;
use oarlock_types::{CoreId, SegmentId};

const BLOCK: usize = 4096;
const DAMAGED: u64 = 3;
/// No frame of these tests is longer.
const FRAME_BYTES_MAX: u64 = 1 << 20;

/// A cluster whose node 3 was killed after some load; what was written is on all three.
fn stopped(name: &str, limits: Vec<(&'static str, u64)>) -> (Cluster, Recorded) {
    let options = Options { cores: 1, ranges: 4, limits, ..Options::default() };
    let mut cluster = Cluster::start(name, options);
    let load = Load::start(&cluster, &Shape { value_bytes: 512, ..Shape::default() });
    load.progress(3000);
    let (recorded, _) = load.stop();
    let committed = cluster.local.committed(DAMAGED).unwrap();
    cluster.wait_for_applied(DAMAGED, &committed);
    cluster.kill(DAMAGED);
    (cluster, recorded)
}

/// The last block of a file that is not all zeros.
fn used_blocks(file: &Path) -> u64 {
    let mut file = File::open(file).unwrap();
    let mut block = [0; BLOCK];
    let (mut at, mut used) = (0, 0);
    while file.read_exact(&mut block).is_ok() {
        at += 1;
        if block != [0; BLOCK] {
            used = at;
        }
    }
    used
}

/// The segment that holds most, and how many of its blocks are used.
fn fullest_segment(cluster: &Cluster, id: u64) -> (PathBuf, u64) {
    let segments = files(&cluster.data_dir(id), "wal-", ".seg").into_iter();
    let counted = segments.map(|file| {
        let used = used_blocks(&file);
        (file, used)
    });
    counted.max_by_key(|(_, used)| *used).unwrap()
}

/// Starts the damaged node and waits until its log names the file; it may then end or stay.
fn starts_and_names(cluster: &mut Cluster, file: &Path) -> String {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let log = cluster.local.node(DAMAGED).log_file();
    let before = fs::read(&log).unwrap().len();
    cluster.restart(DAMAGED);
    eventually("the node names the damaged file", || {
        let text = fs::read(&log).unwrap();
        let text = String::from_utf8_lossy(&text[before..]).into_owned();
        match text.lines().find(|line| line.contains(&name)) {
            Some(line) => Ok(line.to_owned()),
            None => Err(format!("it says so far:\n{text}")),
        }
    })
}

/// The groups of which a node serves a replica.
fn groups(local: &LocalCluster, id: u64) -> Result<Vec<u64>, String> {
    let status = local.node(id).client().and_then(|mut client| cluster_map::status(&mut client));
    let status = status.map_err(|error| error.to_string())?;
    Ok(status.groups.into_iter().map(|group| group.group).collect())
}

/// Checks that the damaged node serves exactly these of its replicas, now and after another start:
/// what the log no longer shows must not be forgotten.
#[track_caller]
fn serves_only(cluster: &mut Cluster, is_served: impl Fn(u64) -> bool) {
    let all = cluster.eventually("a status of a sound node", |local| groups(local, 1));
    let wanted: Vec<u64> = all.into_iter().filter(|group| is_served(*group)).collect();
    for start in ["the first", "the second"] {
        let served =
            cluster.eventually("a status of the damaged node", |local| groups(local, DAMAGED));
        assert_eq!(served, wanted, "after {start} start");
        // Those that it serves are not held up by the others.
        let mut committed = cluster.local.committed(DAMAGED).unwrap();
        committed.retain(|group, _| is_served(*group));
        if !committed.is_empty() {
            cluster.wait_for_applied(DAMAGED, &committed);
        }
        cluster.kill(DAMAGED);
        cluster.restart(DAMAGED);
    }
}

/// The others serve everything, with the damaged node there or not.
fn nothing_is_lost(mut cluster: Cluster, recorded: Recorded) {
    let shape = Shape { value_bytes: 512, ..Shape::default() };
    let load = Load::go_on(&cluster, &shape, recorded);
    load.progress(500);
    let (recorded, _) = load.stop();
    cluster.kill(DAMAGED);
    cluster.wait_for_leaders_without(DAMAGED);
    cluster.verify(recorded);
}

/// Flips one bit in the middle of a file; its place.
fn flip_a_bit(file: &Path, used: u64) -> u64 {
    assert!(used > 20, "{used} blocks are used: enough to have a middle");
    let at = used / 2 * BLOCK as u64 + 100;
    let mut file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&byte).unwrap();
    at
}

/// Runs the program; what it printed, and whether it ended with 0.
fn oarlock(args: &[&str]) -> (String, bool) {
    let output = Command::new(common::PROGRAM).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

/// Rebuilds all damaged replicas of the node under load, and then does without another node.
fn is_rebuilt(mut cluster: Cluster, recorded: Recorded) {
    let shape = Shape { value_bytes: 512, ..Shape::default() };
    let load = Load::go_on(&cluster, &shape, recorded);
    load.progress(200);
    let address = cluster.local.node(1).client_address.to_string();
    let all = cluster.eventually("a status of a sound node", |local| groups(local, 1));
    let node = DAMAGED.to_string();
    let sound = ["replica", "rebuild", "--addr", &address, "--node", "1", "--range", "1"];
    let (text, ok) = oarlock(&sound);
    assert!(!ok && text.contains("not damaged"), "{text}");
    let rebuild = [
        "replica",
        "rebuild",
        "--addr",
        &address,
        "--node",
        &node,
        "--all-damaged",
        "--timeout-s",
        "60",
    ];
    let (text, ok) = oarlock(&rebuild);
    assert!(ok && text.contains("rebuilt"), "{text}");
    load.progress(200);
    let (recorded, _) = load.stop();
    // It is whole, now and after another start.
    for _ in 0..2 {
        assert_eq!(groups(&cluster.local, DAMAGED).unwrap(), all);
        cluster.kill(DAMAGED);
        cluster.restart_and_catch_up(DAMAGED);
    }
    cluster.kill(1);
    cluster.wait_for_leaders_without(1);
    let load = Load::go_on(&cluster, &shape, recorded);
    load.progress(500);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn replicas_with_a_flipped_bit_are_rebuilt_and_the_cluster_does_without_another_node() {
    let (mut cluster, recorded) = stopped("rebuild", Vec::new());
    let (segment, used) = fullest_segment(&cluster, DAMAGED);
    flip_a_bit(&segment, used);
    starts_and_names(&mut cluster, &segment);
    is_rebuilt(cluster, recorded);
}

#[test]
fn a_core_whose_log_lost_its_end_is_rebuilt_from_checkpoints() {
    let limits = vec![("compact_log_bytes_min", 65_536), ("compact_tail_bytes", 0)];
    let (mut cluster, recorded) = stopped("rebuild-core", limits);
    let (segment, used) = fullest_segment(&cluster, DAMAGED);
    File::options().write(true).open(&segment).unwrap().set_len(used / 2 * BLOCK as u64).unwrap();
    starts_and_names(&mut cluster, &segment);
    is_rebuilt(cluster, recorded);
}

#[test]
fn a_core_whose_directory_is_gone_votes_for_nobody_and_is_rebuilt() {
    let (mut cluster, recorded) = stopped("gone", Vec::new());
    let directory = cluster.data_dir(DAMAGED).join("core-0");
    fs::remove_dir_all(&directory).unwrap();
    starts_and_names(&mut cluster, &directory);
    serves_only(&mut cluster, |_| false);
    is_rebuilt(cluster, recorded);
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_log_is_named_with_its_place() {
    let (mut cluster, recorded) = stopped("bit", Vec::new());
    let (segment, used) = fullest_segment(&cluster, DAMAGED);
    let at = flip_a_bit(&segment, used);
    let line = starts_and_names(&mut cluster, &segment);
    let place = line.split_once(" at byte ").expect("it says where").1.split(':').next().unwrap();
    let place: u64 = place.parse().unwrap();
    assert!((at.saturating_sub(FRAME_BYTES_MAX)..=at).contains(&place), "{at} was changed: {line}");
    let concerned = line.rsplit_once('(').expect("it says whom it concerns").1.to_owned();
    let is_served = |group: u64| {
        let named = concerned.trim_end_matches(')').split(", ").any(|g| g == format!("g{group}"));
        !(named || concerned.starts_with("all"))
    };
    serves_only(&mut cluster, is_served);
    nothing_is_lost(cluster, recorded);
}

#[test]
fn a_truncated_segment_is_named() {
    let (mut cluster, recorded) = stopped("truncated", Vec::new());
    let (segment, used) = fullest_segment(&cluster, DAMAGED);
    File::options().write(true).open(&segment).unwrap().set_len(used / 2 * BLOCK as u64).unwrap();
    starts_and_names(&mut cluster, &segment);
    serves_only(&mut cluster, |_| false);
    nothing_is_lost(cluster, recorded);
}

#[test]
fn a_segment_of_another_node_is_named_and_not_believed() {
    let (mut cluster, recorded) = stopped("foreign", Vec::new());
    let (segment, _) = fullest_segment(&cluster, DAMAGED);
    cluster.kill(1);
    let (foreign, _) = fullest_segment(&cluster, 1);
    fs::copy(foreign, &segment).unwrap();
    cluster.restart(1);
    starts_and_names(&mut cluster, &segment);
    serves_only(&mut cluster, |_| false);
    nothing_is_lost(cluster, recorded);
}

/// Nothing that is left tells whether anything was written to them.
#[test]
fn the_newest_segments_are_missed_when_they_are_gone() {
    let (mut cluster, recorded) = stopped("newest-gone", Vec::new());
    // A log goes on in another segment after each start.
    cluster.restart_and_catch_up(DAMAGED);
    let directory = CoreDir::new(&cluster.data_dir(DAMAGED), CoreId(0));
    eventually("another segment", || {
        let newest = newest_marked(&directory);
        let is_another = newest.is_some_and(|newest| newest > SegmentId(1));
        if is_another { Ok(()) } else { Err(format!("{newest:?} is newest")) }
    });
    cluster.kill(DAMAGED);
    let mut segments = files(&cluster.data_dir(DAMAGED), "wal-", ".seg");
    segments.sort();
    let behind = segments.split_off(1);
    behind.iter().for_each(|file| fs::remove_file(file).unwrap());
    let line = starts_and_names(&mut cluster, behind.first().expect("there are two"));
    assert!(line.contains("missing"), "{line}");
    serves_only(&mut cluster, |_| false);
    nothing_is_lost(cluster, recorded);
}

#[test]
fn a_missing_checkpoint_is_named() {
    let limits = vec![("compact_log_bytes_min", 65_536), ("compact_tail_bytes", 0)];
    let (mut cluster, recorded) = stopped("checkpoint", limits);
    let mut checkpoints = files(&cluster.data_dir(DAMAGED), "g", ".ckpt");
    checkpoints.retain(|file| !file.file_name().unwrap().to_string_lossy().starts_with("g0-"));
    let missing = checkpoints.pop().expect("logs were cut, so there are checkpoints");
    fs::remove_file(&missing).unwrap();
    let line = starts_and_names(&mut cluster, &missing);
    let name = missing.file_stem().unwrap().to_string_lossy().into_owned();
    let group: u64 = name[1..].split('-').next().unwrap().parse().unwrap();
    assert!(line.contains(&format!("g{group} is not served")), "{line}");
    serves_only(&mut cluster, |other| other != group);
    nothing_is_lost(cluster, recorded);
}

#[test]
fn a_torn_tail_is_cut_and_the_node_goes_on() {
    let (mut cluster, recorded) = stopped("torn", Vec::new());
    let segments = files(&cluster.data_dir(DAMAGED), "wal-", ".seg");
    let newest = segments.iter().rfind(|file| used_blocks(file) > 0).unwrap();
    let used = used_blocks(newest);
    let mut file = File::options().write(true).open(newest).unwrap();
    file.seek(SeekFrom::Start((used - 1) * BLOCK as u64)).unwrap();
    file.write_all(&[0; BLOCK / 2]).unwrap();
    drop(file);
    cluster.restart_and_catch_up(DAMAGED);
    nothing_is_lost(cluster, recorded);
}
