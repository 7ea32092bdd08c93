//! Wrong starts get one clear line on standard error and an exit code that tells what kind of
//! wrong it is; none of them hangs or panics.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Cluster, Options, PROGRAM, eventually, files, folder, turn};
use oarlock::bench::ports::free_addresses;
use oarlock::disk::atomic_file::seal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

const USAGE: i32 = 2;
const CANNOT_START: i32 = 3;

/// One node's configuration, to be made wrong.
struct Start {
    folder: tempfile::TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    data_dir: PathBuf,
    node_id: u64,
    more: &'static str,
}

impl Start {
    fn new(name: &str) -> Self {
        let folder = folder(name);
        let addresses = free_addresses(2).unwrap();
        let data_dir = folder.path().join("data");
        let (client, peer) = (addresses[0], addresses[1]);
        Self { folder, client, peer, data_dir, node_id: 1, more: "" }
    }

    fn config(&self) -> PathBuf {
        let Self { client, peer, data_dir, node_id, more, .. } = self;
        let data_dir = data_dir.display();
        let text = format!(
            "[node]\nnode_id = {node_id}\ndata_dir = \"{data_dir}\"\ncores = 1\n\
             [network]\nclient_listen = \"{client}\"\npeer_listen = \"{peer}\"\n{more}\n"
        );
        let file = self.folder.path().join("oarlock.toml");
        fs::write(&file, text).unwrap();
        file
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--config").arg(self.config());
        command
    }

    #[track_caller]
    fn fails(&self, code: i32, words: &[&str]) {
        fails(self.command(), code, words);
    }
}

/// Runs a start that must fail so, and say so.
#[track_caller]
fn fails(mut command: Command, code: i32, words: &[&str]) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Ended(Some(child.spawn().unwrap()));
    let status = eventually("the end of a start that cannot work", || {
        child.0.as_mut().unwrap().try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
    });
    let output = child.0.take().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let mut lines = text.lines().filter(|line| line.starts_with("oarlock: "));
    let line = lines.next_back().unwrap_or_else(|| panic!("no clear line: {text}"));
    for word in words {
        assert!(line.contains(word), "\"{word}\" is missing: {line}");
    }
}

/// A child that does not outlive its test.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[test]
fn a_bad_configuration() {
    let _turn = turn();
    let start = Start { more: "[limits]\nvalue_byte_max = 7", ..Start::new("unknown-key") };
    start.fails(USAGE, &["value_byte_max", "value_bytes_max"]);
    Start { node_id: 0, ..Start::new("node-zero") }.fails(USAGE, &["node_id"]);
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--config", "/nowhere/oarlock.toml"]);
    fails(command, USAGE, &["/nowhere/oarlock.toml"]);
}

#[test]
fn a_port_that_is_taken() {
    let _turn = turn();
    let start = Start::new("client-port");
    let taken = TcpListener::bind(start.client).unwrap();
    start.fails(CANNOT_START, &[&start.client.to_string()]);
    drop(taken);
    let start = Start::new("peer-port");
    let taken = TcpListener::bind(start.peer).unwrap();
    start.fails(CANNOT_START, &[&start.peer.to_string()]);
    drop(taken);
    let start = Start::new("pulse-port");
    let taken = UdpSocket::bind(start.peer).unwrap();
    start.fails(CANNOT_START, &[&start.peer.to_string()]);
    drop(taken);
}

#[test]
fn a_data_directory_that_is_in_use() {
    let cluster = Cluster::start("in-use", Options { nodes: 1, ranges: 2, ..Options::default() });
    let data_dir = cluster.data_dir(1);
    let start = Start { data_dir: data_dir.clone(), ..Start::new("second") };
    start.fails(CANNOT_START, &[&data_dir.display().to_string(), "in use"]);
    // The first is not disturbed by it.
    assert!(cluster.client(1).call(&[b"SET", b"k", b"v"]).unwrap().is_ok());
}

/// A data directory that was used by node 1 of a cluster of its own.
fn used(name: &str) -> Start {
    let start = Start::new(name);
    let mut child = Ended(Some(start.command().stderr(Stdio::null()).spawn().unwrap()));
    answers(&start, &mut child);
    drop(child);
    start
}

/// Waits until the node answers.
fn answers(start: &Start, child: &mut Ended) {
    eventually("an answer", || {
        if let Some(status) = child.0.as_mut().unwrap().try_wait().unwrap() {
            panic!("the node ended by itself: {status}");
        }
        let answer = oarlock::bench::client::Client::connect(
            start.client,
            std::time::Duration::from_secs(1),
        )
        .and_then(|mut client| client.call(&[b"PING"]));
        answer.map_err(|error| error.to_string())
    });
}

#[test]
fn a_data_directory_of_another_node() {
    let _turn = turn();
    let start = used("another-node");
    let path = start.data_dir.display().to_string();
    let other = Start { node_id: 2, data_dir: start.data_dir.clone(), ..Start::new("two") };
    other.fails(CANNOT_START, &[&path, "node"]);
}

#[test]
fn a_data_directory_of_a_newer_format() {
    let _turn = turn();
    let start = used("newer");
    let identity = start.data_dir.join("identity");
    let text = fs::read_to_string(&identity).unwrap();
    let newer = text.replacen("format_version = 1", "format_version = 999", 1);
    assert_ne!(newer, text);
    fs::write(&identity, newer).unwrap();
    start.fails(CANNOT_START, &[&start.data_dir.display().to_string(), "format", "999"]);
}

#[test]
fn a_copy_of_the_map_of_a_newer_format() {
    let _turn = turn();
    let start = used("newer-map");
    let copy = start.data_dir.join("map");
    fs::write(&copy, seal("oarlock map 2\nversion = 12\n")).unwrap();
    start.fails(CANNOT_START, &[&copy.display().to_string(), "`oarlock map 2`", "newer build"]);
}

/// Gives a header the next version, with a checksum (its last four bytes) that vouches for it.
fn make_newer(file: &Path, version_at: usize, header_bytes: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[version_at] += 1;
    let crc_at = header_bytes - 4;
    let crc = crc32fast::hash(&bytes[..crc_at]);
    bytes[crc_at..header_bytes].copy_from_slice(&crc.to_le_bytes());
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_log_of_a_newer_format() {
    let _turn = turn();
    let start = Start::new("newer-log");
    let mut child = Ended(Some(start.command().stderr(Stdio::null()).spawn().unwrap()));
    let segment = eventually("a segment of the log", || {
        files(&start.data_dir, "wal-", ".seg").pop().ok_or_else(|| "there is none".to_owned())
    });
    answers(&start, &mut child);
    drop(child);
    let before = fs::read(&segment).unwrap();
    make_newer(&segment, 8, 76);
    let newer = fs::read(&segment).unwrap();
    start.fails(CANNOT_START, &[&segment.display().to_string(), "format 2", "newer build"]);
    // The newer build finds everything as it left it: nothing was written, nothing remembered.
    assert_eq!(fs::read(&segment).unwrap(), newer);
    assert_eq!(files(&start.data_dir, "lost", ""), Vec::<PathBuf>::new());
    fs::write(&segment, before).unwrap();
    let mut child = Ended(Some(start.command().stderr(Stdio::null()).spawn().unwrap()));
    answers(&start, &mut child);
}

#[test]
fn a_damaged_identity() {
    let _turn = turn();
    let start = used("damaged");
    let identity = start.data_dir.join("identity");
    let text = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, text.replacen("incarnation = ", "incarnation = 4", 1)).unwrap();
    start.fails(CANNOT_START, &["identity", "damaged"]);
}

#[test]
fn too_low_a_limit_of_locked_memory() {
    let _turn = turn();
    let start = Start::new("memlock");
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -l 64 && exec \"$0\" serve --config \"$1\"");
    command.arg(PROGRAM).arg(start.config());
    fails(command, CANNOT_START, &["RLIMIT_MEMLOCK", "65536"]);
}

/// Runs a start under a filter of system calls, as a container's profile would.
fn fails_without(
    filter: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
    command: Command,
    words: &[&str],
) {
    let program: BpfProgram = SeccompFilter::new(
        filter,
        SeccompAction::Allow,
        SeccompAction::Errno(u32::try_from(errno).unwrap()),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap()
    .try_into()
    .unwrap();
    // A filter can never be taken off a thread again: it gets one of its own, and so its child.
    std::thread::scope(|scope| {
        let body = || {
            seccompiler::apply_filter(&program).unwrap();
            fails(command, CANNOT_START, words);
        };
        scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn no_io_uring() {
    let _turn = turn();
    for (errno, words) in [
        (libc::ENOSYS, ["io_uring is not available", "seccomp"]),
        (libc::EPERM, ["io_uring is forbidden", "sysctl"]),
    ] {
        let start = Start::new("no-uring");
        let filter = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
        fails_without(filter, errno, start.command(), &words);
    }
}

#[test]
fn a_file_system_without_o_direct() {
    let _turn = turn();
    let start = Start::new("no-direct");
    let flags = u64::try_from(libc::O_DIRECT).unwrap();
    let direct = |argument: u8| {
        let equal = SeccompCmpOp::MaskedEq(flags);
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, equal, flags);
        vec![SeccompRule::new(vec![condition.unwrap()]).unwrap()]
    };
    let filter = BTreeMap::from([(libc::SYS_openat, direct(2)), (libc::SYS_open, direct(1))]);
    fails_without(filter, libc::EINVAL, start.command(), &["O_DIRECT"]);
}

#[test]
fn a_file_system_in_memory() {
    let _turn = turn();
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        eprintln!("left out: there is no /dev/shm here");
        return;
    }
    let folder = tempfile::tempdir_in(memory).unwrap();
    let start = Start { data_dir: folder.path().join("data"), ..Start::new("memory") };
    start.fails(CANNOT_START, &["memory", "durable"]);
}
