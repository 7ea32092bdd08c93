//! A disk that fills up: writes get `-DISKFULL`, reads go on, and freed space brings writes back
//! without a restart.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Cluster, Load, Options, PATIENCE, Shape, eventually, folder, wait_for_level};
use oarlock::bench::client::Answer;
use oarlock::bench::processes::poll;
use oarlock_types::FeatureLevel;

const MIB: u64 = 1 << 20;

/// Takes space, at once and without writing it; gives it back when dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn take(folder: &Path, bytes: u64) -> io::Result<Self> {
        let path = folder.join("ballast");
        let file = File::create(&path)?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, bytes)?;
        Ok(Self(path))
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn free_bytes(folder: &Path) -> u64 {
    let stat = rustix::fs::statvfs(folder).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// The disk that others may use at the same time.
struct SharedDisk {
    folder: tempfile::TempDir,
    reserve_bytes: u64,
}

impl SharedDisk {
    /// More than others are likely to take meanwhile.
    const STEP: u64 = 2048 * MIB;

    /// Nothing if too little of it is free; says so.
    fn new(name: &str) -> Option<Self> {
        let folder = folder(name);
        let free = free_bytes(folder.path());
        if free < 3 * Self::STEP {
            eprintln!("left out: this test needs {} MiB of free disk", 3 * Self::STEP / MIB);
            return None;
        }
        Some(Self { folder, reserve_bytes: free - Self::STEP })
    }

    /// With a reserve a little under what is free now.
    fn limits(&self) -> Vec<(&'static str, u64)> {
        vec![("disk_reserve_bytes", self.reserve_bytes)]
    }

    /// Less than the reserve is free.
    fn fill(&self) -> Ballast {
        Ballast::take(self.folder.path(), 2 * Self::STEP).unwrap()
    }
}

/// Writes until the wanted kind of answer comes; each write is of its own.
fn write_until(cluster: &Cluster, id: u64, wanted: &str) {
    let mut number = 0_u64;
    eventually(&format!("{wanted} as the answer to a write"), || {
        number += 1;
        // From range to range.
        let first = char::from(b"abcdefghijklmnopqrstuvwxyz"[(number % 26) as usize]);
        let key = format!("{first}until-{number}");
        let answer = cluster
            .local
            .node(id)
            .client()
            .and_then(|mut client| client.call(&[b"SET", key.as_bytes(), &[b'x'; 512]]))
            .map_err(|error| error.to_string())?;
        let kind = answer.error_kind().unwrap_or("OK");
        if kind == wanted { Ok(()) } else { Err(answer.to_string()) }
    });
}

fn reads_go_on(cluster: &Cluster, id: u64) {
    let mut client = cluster.client(id);
    for key in [&b"kept-1"[..], b"\x90kept-2"] {
        assert_eq!(client.call(&[b"GET", key]).unwrap(), Answer::Bulk(b"value".to_vec()));
    }
}

fn keep_values(cluster: &Cluster, id: u64) {
    let mut client = cluster.client(id);
    for key in [&b"kept-1"[..], b"\x90kept-2"] {
        assert!(client.call(&[b"SET", key, b"value"]).unwrap().is_ok());
    }
}

#[test]
fn when_space_falls_under_the_reserve_writes_are_refused_until_it_is_back() {
    let Some(disk) = SharedDisk::new("reserve") else { return };
    let limits = disk.limits();
    let mut cluster = Cluster::start("disk-full", Options { limits, ..Options::default() });
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(500);
    keep_values(&cluster, 1);
    let ballast = disk.fill();
    write_until(&cluster, 1, "DISKFULL");
    reads_go_on(&cluster, 1);
    reads_go_on(&cluster, 2);
    cluster.wait_for_leaders();
    drop(ballast);
    write_until(&cluster, 1, "OK");
    load.progress(500);
    let (recorded, measured) = load.stop();
    assert!(measured.errors.contains_key("DISKFULL"), "{:?}", measured.errors);
    cluster.verify(recorded);
}

#[test]
fn a_replica_that_finds_no_room_on_the_other_core_stays_and_goes_once_there_is() {
    let Some(disk) = SharedDisk::new("other-core") else { return };
    let limits = disk.limits();
    let cluster = Cluster::start("other-core", Options { ranges: 2, limits, ..Options::default() });
    wait_for_level(&cluster, FeatureLevel::MAX.get());
    keep_values(&cluster, 1);
    let ballast = disk.fill();
    write_until(&cluster, 1, "DISKFULL");
    let status = cluster.status(1).unwrap();
    let range = status.groups.iter().find(|group| group.group > 0).unwrap().group;
    // Each is asked for at another node than its own; one of them leads.
    let orders = [(1, 2), (2, 3), (3, 1)].map(|(node, asked)| {
        let groups = cluster.status(node).unwrap().groups;
        let core = groups.iter().find(|group| group.group == range).unwrap().core;
        (asked, [range, node, 1 - core].map(|number| number.to_string()))
    });
    for (asked, [range, node, to]) in &orders {
        let ask = || {
            let words = ["OARLOCK", "MOVECORE", range, node, to].map(str::as_bytes);
            let answer = cluster.client(*asked).call(&words);
            answer.map(|answer| answer.to_string()).map_err(|error| error.to_string())
        };
        eventually("why it stays", || {
            let answer = ask()?;
            let told =
                "the replica stays for now: the other core did not take it: the disk is full";
            if answer.contains(told) { Ok(()) } else { Err(answer) }
        });
        // However often it is asked for, it is tried once in a while.
        (0..50).for_each(|_| assert!(ask().unwrap().contains("the replica stays for now")));
        let log = cluster.local.node(node.parse().unwrap()).log_tail(100_000);
        assert_eq!(log.matches("does not go to").count(), 1);
    }
    reads_go_on(&cluster, 1);
    drop(ballast);
    for (asked, [range, node, to]) in &orders {
        let args = ["range", "move-core", range, "--node", node, "--to-core", to];
        let (code, text) = cluster.command(*asked, &args);
        assert_eq!(code, Some(0), "{text}");
    }
    write_until(&cluster, 1, "OK");
    reads_go_on(&cluster, 1);
}

/// A small file system in a file. Only root may mount one.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Nothing if this user or machine cannot mount one; says so.
    fn mount(bytes: u64) -> Option<Self> {
        let folder = folder("small-disk");
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let disk = Self { folder };
        fs::create_dir(disk.path()).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status();
        let mounted =
            || Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()).status();
        let ok = |status: io::Result<std::process::ExitStatus>| status.is_ok_and(|s| s.success());
        if ok(made) && ok(mounted()) {
            return Some(disk);
        }
        eprintln!("left out: a file system can be mounted only by root, with mkfs.ext4 and mount");
        None
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The kernel lets go of a killed node's files a moment after the process has ended.
        let unmounted = poll("the end of the last use", PATIENCE, || {
            let output = Command::new("umount").arg(self.path()).output()?;
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            Ok(if output.status.success() || why.contains("not mounted") {
                Ok(())
            } else {
                Err(why)
            })
        });
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.path().display());
        }
    }
}

#[test]
fn a_full_file_system_neither_corrupts_nor_wedges_a_node() {
    let Some(disk) = SmallDisk::mount(768 * MIB) else { return };
    let data = disk.path().join("data");
    let options = Options {
        nodes: 1,
        cores: 1,
        ranges: 2,
        limits: vec![("disk_reserve_bytes", 32 * MIB), ("compact_log_bytes_min", 65_536)],
        data_dir: Some(data),
        ..Options::default()
    };
    let mut cluster = Cluster::start("small-disk", options);
    keep_values(&cluster, 1);
    // More than the reserve is taken: also what is running has no room to finish.
    let free = free_bytes(&disk.path());
    let ballast = Ballast::take(&disk.path(), free - MIB).unwrap();
    write_until(&cluster, 1, "DISKFULL");
    reads_go_on(&cluster, 1);
    drop(ballast);
    write_until(&cluster, 1, "OK");
    // What filled the log before it was refused has not hurt it.
    cluster.kill_all();
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    reads_go_on(&cluster, 1);
    // The node must be gone before its file system is.
    drop(cluster);
}

#[test]
fn a_log_that_gets_no_further_segment_refuses_writes_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(640 * MIB) else { return };
    let options = Options {
        nodes: 1,
        cores: 1,
        ranges: 2,
        // Nothing is held back: the disk is full only when the log cannot grow.
        limits: vec![("disk_reserve_bytes", 0)],
        data_dir: Some(disk.path().join("data")),
        ..Options::default()
    };
    let mut cluster = Cluster::start("no-segment", options);
    keep_values(&cluster, 1);
    let ballast = Ballast::take(&disk.path(), free_bytes(&disk.path()) - MIB).unwrap();
    let value = vec![b'x'; 900 << 10];
    let mut client = cluster.client(1);
    let written = (0..400u32)
        .take_while(|number| {
            let key = format!("large-{}", number % 8);
            let answer = client.call(&[b"SET", key.as_bytes(), &value]).unwrap();
            assert!(answer.is_ok() || answer.error_kind() == Some("DISKFULL"), "{answer}");
            answer.is_ok()
        })
        .count();
    assert!((1..400).contains(&written), "{written} large values were written");
    reads_go_on(&cluster, 1);
    let log = std::fs::read_to_string(cluster.local.node(1).log_file()).unwrap();
    let complaints = log.lines().filter(|line| line.contains("no room on the disk")).count();
    assert!((1..20).contains(&complaints), "it is said, and not again and again: {complaints}");
    drop(ballast);
    write_until(&cluster, 1, "OK");
    cluster.kill_all();
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    reads_go_on(&cluster, 1);
    drop(cluster);
}
