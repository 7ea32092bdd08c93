//! Whether a write is on disks before it is acknowledged, seen from outside: one write at a time is
//! sent, and durable writes are counted on each node beside the writes that were acknowledged.
//!
//! A node that writes and then syncs is seen by `strace`, which counts its `fdatasync`, `fsync`,
//! `sync_file_range` and `msync`. Oarlock's and the floor's log is open with `O_DSYNC` and written
//! through io_uring: a completed write is a durable one, and no system call to count. There the
//! flag is looked up on the open file, and the writes are counted by the blocks of 4 KiB that the
//! kernel has written for the process, and by Oarlock's own counter: the lower of the two counts.
//! Both ways leave their trace on the device: the flushes that it was asked for.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oarlock::bench::client::Client;
use oarlock::bench::cluster_map;
use oarlock::bench::usage::Usage;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::generator::{Figure, Generator};
use super::stop::Stop;
use super::system::{Running, System};

const SYSCALLS: &str = "trace=fdatasync,fsync,sync_file_range,msync";
const ONE_AT_A_TIME: &str =
    "--clients 1 --keys 1000 --value-bytes 128 --seconds 1 --warmup-seconds 0 --timeout-seconds 5";
/// The block that a write to a log open with `O_DIRECT` is padded to.
const BLOCK_BYTES: f64 = 4096.0;
/// Attaching and detaching is not done at one moment on all nodes.
const NEARLY: f64 = 0.95;
const O_DSYNC: u32 = 0o10_000;

/// What was seen of one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Durability {
    /// The system.
    pub system: System,
    /// Writes that were acknowledged, one after the other.
    pub writes: f64,
    /// What each node did meanwhile.
    pub nodes: Vec<Node>,
    /// Flushes that the device completed, of all nodes together, which it may join; nothing if the
    /// device is not known.
    pub device_flushes: Option<f64>,
}

/// What one node did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Calls that sync; nothing without `strace`.
    pub syncs: Option<f64>,
    /// Writes to files that are open with `O_DSYNC`; nothing if it has none.
    pub durable_writes: Option<f64>,
}

impl Node {
    fn durable(&self) -> f64 {
        self.syncs.unwrap_or(0.0) + self.durable_writes.unwrap_or(0.0)
    }
}

impl Durability {
    /// Durable writes or syncs of all nodes for each acknowledged write.
    pub fn per_write(&self) -> f64 {
        self.nodes.iter().map(Node::durable).sum::<f64>() / self.writes
    }

    /// Whether a quorum had each write on disk.
    pub fn is_durable(&self) -> bool {
        let quorum = f64::from(self.system.quorum());
        self.writes > 0.0 && self.per_write() >= quorum * NEARLY
    }

    /// What was seen, in a line.
    pub fn told(&self) -> String {
        let node = |node: &Node| {
            let per = |count: Option<f64>, what: &str| {
                count.map(|count| format!("{:.2} {what}", count / self.writes))
            };
            let parts = [per(node.syncs, "syncs"), per(node.durable_writes, "O_DSYNC writes")];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            if parts.is_empty() { "nothing seen".to_owned() } else { parts.join(" and ") }
        };
        let nodes: Vec<String> = self.nodes.iter().map(node).collect();
        let device = self.device_flushes.map_or(String::new(), |flushes| {
            format!("; {:.2} flushes of the device", flushes / self.writes)
        });
        format!("{}{device}", nodes.join("; "))
    }
}

/// Writes one at a time and counts.
///
/// # Errors
/// If a write fails, or a stop is wanted.
pub fn check(
    system: System,
    running: &Running,
    generator: &Generator<'_>,
    folder: &Path,
) -> Result<Durability, Box<dyn Error>> {
    // What the start left to be done.
    generator.stop.rest(Duration::from_secs(1))?;
    let device = Device::of(folder);
    let traces = running
        .pids
        .iter()
        .map(|pid| Trace::attach(*pid, folder, generator.stop))
        .collect::<Result<Vec<_>, _>>()?;
    let before = Written::of(system, running)?;
    let flushes_before = device.as_ref().and_then(Device::flushes);
    let args: Vec<String> = ONE_AT_A_TIME.split(' ').map(str::to_owned).collect();
    let figures = generator.run(system, running, &args)?.figures;
    let flushes = device.as_ref().and_then(Device::flushes);
    let after = Written::of(system, running)?;
    let mut nodes = Vec::new();
    for (at, trace) in traces.into_iter().enumerate() {
        let syncs = trace.map(|trace| trace.detach(generator.stop)).transpose()?;
        let durable_writes =
            has_durable_files(running.pids[at], folder).then(|| after[at].since(before[at]));
        nodes.push(Node { syncs, durable_writes });
    }
    let writes = figures.get(&Figure::Rate).copied().unwrap_or_default();
    let device_flushes = flushes.zip(flushes_before).map(|(after, before)| after - before);
    // The rate is that of one second.
    Ok(Durability { system, writes, nodes, device_flushes })
}

/// What tells writes to logs that sync by a flag on the file, on one node, since its start.
#[derive(Clone, Copy)]
struct Written {
    /// Blocks that the kernel has written for the process.
    blocks: f64,
    /// Writes that the node itself counts; only Oarlock's do.
    own: Option<f64>,
}

impl Written {
    fn of(system: System, running: &Running) -> Result<Vec<Self>, Box<dyn Error>> {
        let mut nodes = Vec::new();
        for (at, pid) in running.pids.iter().enumerate() {
            let blocks = Usage::of(*pid)?.written_bytes as f64 / BLOCK_BYTES;
            let address = running.addresses.get(at).filter(|_| system.is_oarlock());
            let count = |address: &SocketAddr| {
                let mut client = Client::connect(*address, Duration::from_secs(5))?;
                cluster_map::counters(&mut client).map(|counters| counters.wal_frames as f64)
            };
            nodes.push(Self { blocks, own: address.map(count).transpose()? });
        }
        Ok(nodes)
    }

    /// What both agree on: a block may be of a larger write, and a counter may be wrong.
    fn since(self, before: Self) -> f64 {
        let blocks = self.blocks - before.blocks;
        let own = self.own.zip(before.own).map(|(after, before)| after - before);
        own.map_or(blocks, |own| own.min(blocks))
    }
}

/// Whether a process has a file under a folder open so that a completed write is a durable one.
fn has_durable_files(pid: u32, folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        let is_here = std::fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(folder));
        let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
        let info = std::fs::read_to_string(info).unwrap_or_default();
        is_here && open_flags(&info).is_some_and(|flags| flags & O_DSYNC != 0)
    })
}

fn open_flags(info: &str) -> Option<u32> {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(flags.trim(), 8).ok()
}

/// `strace` at work on one process.
struct Trace {
    child: Child,
    counts: PathBuf,
}

impl Trace {
    /// Nothing where strace is not installed.
    fn attach(pid: u32, folder: &Path, stop: &Stop) -> Result<Option<Self>, Box<dyn Error>> {
        stop.check()?;
        let counts = folder.join(format!("strace-{pid}"));
        let started = Command::new("strace")
            .args(["-f", "-c", "-e", SYSCALLS, "-p", &pid.to_string(), "-o"])
            .arg(&counts)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(child) = started else { return Ok(None) };
        let mut trace = Self { child, counts };
        let mut line = String::new();
        let output = trace.child.stderr.take().ok_or("no output")?;
        let mut output = BufReader::new(output);
        output.read_line(&mut line)?;
        if !line.contains("attached") {
            return Err(format!("strace does not attach: {}", line.trim()).into());
        }
        // Threads that are born and die are told, too; a full pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Ok(Some(trace))
    }

    /// How often it synced.
    fn detach(mut self, stop: &Stop) -> Result<f64, Box<dyn Error>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or("no process")?, Signal::INT)?;
        stop.wait(&mut self.child)?;
        Ok(calls(&std::fs::read_to_string(&self.counts)?))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It has ended by itself unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of the calls in strace's table.
fn calls(table: &str) -> f64 {
    let names = SYSCALLS.trim_start_matches("trace=");
    let calls = |line: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let is_named = cells.last().is_some_and(|last| names.split(',').any(|name| name == *last));
        cells.get(3).filter(|_| is_named)?.parse::<f64>().ok()
    };
    table.lines().filter_map(calls).fold(0.0, |sum, calls| sum + calls)
}

/// The block device that a folder lies on.
pub struct Device {
    sys: PathBuf,
}

impl Device {
    /// Nothing for file systems that do not lie on one.
    pub fn of(folder: &Path) -> Option<Self> {
        let dev = std::fs::metadata(folder).ok()?.dev();
        let major = (dev >> 8) & 0xfff | (dev >> 32) & !0xfff;
        let minor = dev & 0xff | (dev >> 12) & !0xff;
        let sys = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let is_part = sys.join("partition").exists();
        let sys = if is_part { sys.parent()?.to_owned() } else { sys };
        Some(Self { sys })
    }

    /// Its name and whether its cache forgets: only then is there anything to flush.
    pub fn told(&self) -> String {
        let name = self.sys.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cache = std::fs::read_to_string(self.sys.join("queue/write_cache"));
        format!("{name}, cache: {}", cache.as_deref().unwrap_or("unknown").trim())
    }

    fn flushes(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(self.sys.join("stat")).ok()?;
        stat.split_whitespace().nth(15)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_out_of_the_table() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     90.00    0.000123          12        10           fdatasync\n \
                     10.00    0.000010           5         3         1 fsync\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.000133                    13           total\n";
        assert_eq!(calls(table), 13.0);
        assert!(calls("").is_sign_positive(), "nothing was called, not less than nothing");
    }

    #[test]
    fn the_lower_of_both_counts_is_believed() {
        let written = |blocks, own| Written { blocks, own };
        assert_eq!(written(110.0, None).since(written(10.0, None)), 100.0);
        assert_eq!(written(110.0, Some(60.0)).since(written(10.0, Some(10.0))), 50.0);
        assert_eq!(written(20.0, Some(60.0)).since(written(10.0, Some(10.0))), 10.0);
    }

    #[test]
    fn flags_are_octal() {
        assert_eq!(open_flags("pos:\t0\nflags:\t0150002\nmnt_id:\t1\n"), Some(0o150_002));
        assert!(open_flags("flags:\t0150002\n").unwrap() & O_DSYNC != 0);
        assert_eq!(open_flags("pos:\t0\n"), None);
    }

    #[test]
    fn a_quorum_decides() {
        let node = |syncs, durable_writes| Node { syncs, durable_writes };
        let nodes = vec![node(Some(100.0), None), node(Some(60.0), None), node(Some(40.0), None)];
        let mut seen =
            Durability { system: System::Etcd, writes: 100.0, nodes, device_flushes: Some(150.0) };
        assert!(seen.is_durable(), "two of three, whichever they are");
        assert!(seen.told().ends_with("0.40 syncs; 1.50 flushes of the device"));
        seen.nodes[1].syncs = Some(10.0);
        assert!(!seen.is_durable());
        seen.nodes[1].durable_writes = Some(100.0);
        assert!(seen.is_durable());
        seen.system = System::Redis;
        seen.nodes.truncate(1);
        assert!(seen.is_durable(), "one process acknowledges alone");
        seen.writes = 0.0;
        assert!(!seen.is_durable(), "nothing was written");
    }
}
