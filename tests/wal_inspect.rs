//! `oarlock wal inspect` and `oarlock wal verify` on the directory of a stopped node.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use oarlock::disk::data_dir::{DataDir, DataDirOptions};
use oarlock::disk::layout::CoreDir;
use oarlock_codec::Record;
use oarlock_raft::{Configuration, Entry, LogPosition, Payload};
use oarlock_types::{ClusterId, CoreId, GroupId, Index, NodeId, SegmentId, Term};
use oarlock_wal::{Owner, Wal, WalConfig};

/// A data directory whose only core has written three frames of two groups.
fn stopped_node(path: &Path) -> CoreDir {
    let options = DataDirOptions { cluster: ClusterId(7), node: NodeId(1), cores: 1, disk: None };
    let data = DataDir::open(path, &options).unwrap();
    let core = CoreId(0);
    let owner = Owner { cluster: data.cluster(), node: data.node(), disk: data.disk(), core };
    let config = WalConfig { owner, segment_bytes: 32 << 10, frame_bytes_max: 16 << 10 };
    let directory = data.core(core);
    let mut wal = Wal::new(config);
    prepare(&mut wal, &config, &directory);
    for group in [1, 2].map(GroupId) {
        let configuration = Configuration::simple([NodeId(1)]);
        wal.append(&Record::Create { group, configuration, details: Bytes::new() });
    }
    let mut out = vec![0; config.frame_bytes_max];
    for index in 1..=3 {
        for group in [1, 2].map(GroupId) {
            let at = LogPosition { term: Term(1), index: Index(index) };
            wal.append_entries(group, &[Entry { at, payload: Payload::Noop }]);
        }
        let write = wal.seal(&mut out).unwrap();
        let file = OpenOptions::new().write(true).open(directory.segment(write.segment)).unwrap();
        file.write_all_at(&out[..write.len], write.offset).unwrap();
        wal.durable(write.lsn);
    }
    prepare(&mut wal, &config, &directory);
    directory
}

fn prepare(wal: &mut Wal, config: &WalConfig, directory: &CoreDir) {
    let id = wal.next_segment_wanted().expect("there is none, or half of it is used");
    let mut bytes = config.segment_header(id);
    bytes.resize(32 << 10, 0);
    std::fs::write(directory.segment(id), bytes).unwrap();
    wal.segment_prepared(id);
}

#[track_caller]
fn ends_with(verb: &[&str], path: &Path, code: i32) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    let output = command.arg("wal").args(verb).arg(path).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{out}");
    out
}

#[test]
fn a_sound_log_is_shown_and_verified() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    stopped_node(dir.path());
    let out = ends_with(&["inspect"], dir.path(), 0);
    assert!(out.starts_with("core 0: 2 groups\nsegment"), "{out}");
    assert!(out.contains("0000000000000001       3   1-3"), "{out}");
    assert!(out.contains("unused"), "{out}");
    let json = ends_with(&["inspect", "--json"], dir.path(), 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["cores"][0]["segments"][0]["state"], "ok");
    assert_eq!(json["cores"][0]["durable_lsn"], 3);
    assert_eq!(ends_with(&["verify"], dir.path(), 0), "ok: 2 segments, 3 frames\n");
}

#[test]
fn damage_is_named_with_its_place_and_group() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let core = stopped_node(dir.path());
    let file = OpenOptions::new().read(true).write(true).open(core.segment(SegmentId(1))).unwrap();
    // In the body of the first record of the second frame.
    let place = 8192 + 8 + 48 + 24;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 4], place).unwrap();
    let out = ends_with(&["verify"], dir.path(), 1);
    assert_eq!(
        out,
        "core 0: segment 0000000000000001 at byte 8192: frame 2 was durable and has changed (g1)\n\
         core 0: to rebuild from peers: 1\n\
         damaged: 2 segments, 3 frames\n"
    );
    let out = ends_with(&["inspect"], dir.path(), 0);
    assert!(out.contains("damaged at 8192"), "{out}");
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let core = stopped_node(dir.path());
    std::fs::remove_file(core.segment(SegmentId(1))).unwrap();
    let out = ends_with(&["verify"], dir.path(), 1);
    assert!(
        out.contains("segment 0000000000000001 at byte 0: the segment file is missing"),
        "{out}"
    );
}

#[test]
fn what_is_no_stopped_nodes_directory_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    assert!(!ends_with(&["verify"], &dir.path().join("nothing"), 2).is_empty());
    stopped_node(dir.path());
    let options = DataDirOptions { cluster: ClusterId(7), node: NodeId(1), cores: 1, disk: None };
    let running = DataDir::open(dir.path(), &options).unwrap();
    let out = ends_with(&["verify"], dir.path(), 2);
    assert!(out.contains("its node runs; stop it first"), "{out}");
    drop(running);
}
