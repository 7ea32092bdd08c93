//! What processes of this machine have used, from `/proc`: CPU time, memory, and bytes that they had written
//! to disks; and what the loopback device has carried for anybody. What the kernel does for a process in threads of its own is not in it: a file system's journal, which
//! a write that makes a file longer goes through, is in what [`Disk`] counts, with all else that the device was
//! asked for. Reads only.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What the kernel counts a device's work in, whatever its blocks are.
const SECTOR_BYTES: u64 = 512;

/// What a process, all its threads together, has used since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Time on a CPU.
    pub cpu_s: f64,
    /// Bytes that it had written to storage, also those that wait in the page cache.
    pub written_bytes: u64,
    /// Memory that it holds, as it is when it is looked at.
    pub resident_bytes: u64,
}

impl Usage {
    /// Looks at a process.
    ///
    /// # Errors
    /// If there is none of this number, or it is somebody else's.
    pub fn of(pid: u32) -> io::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        let strange = || io::Error::other(format!("/proc/{pid} says what is not understood"));
        let ticks = ticks(&read("stat")?).ok_or_else(strange)?;
        let written_bytes = written(&read("io")?).ok_or_else(strange)?;
        let pages = read("statm")?.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let resident_bytes = pages.ok_or_else(strange)? * rustix::param::page_size() as u64;
        let cpu_s = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(Self { cpu_s, written_bytes, resident_bytes })
    }

    fn since(self, before: Self) -> Self {
        Self {
            cpu_s: (self.cpu_s - before.cpu_s).max(0.0),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

/// What the loopback device has carried since the machine's start, for anybody, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loopback {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl Loopback {
    /// Until now.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/net/dev")?;
        carried(&text).ok_or_else(|| io::Error::other("/proc/net/dev tells nothing of loopback"))
    }

    /// From then to now.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            packets: self.packets.saturating_sub(before.packets),
        }
    }
}

fn carried(devices: &str) -> Option<Loopback> {
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix("lo:"))?;
    let mut fields = line.split_whitespace().map(str::parse);
    Some(Loopback { bytes: fields.next()?.ok()?, packets: fields.next()?.ok()? })
}

/// The device of a folder's file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    stat: PathBuf,
}

impl Disk {
    /// The device that `folder` lies on.
    ///
    /// # Errors
    /// If there is no such folder, or it is on no block device.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let told = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
        };
        let device = fs::metadata(folder).map_err(told)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let disk = Self { stat: format!("/sys/dev/block/{major}:{minor}/stat").into() };
        disk.written_bytes().map_err(told)?;
        Ok(disk)
    }

    /// Bytes that were written to it since the machine's start, by anybody.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn written_bytes(&self) -> io::Result<u64> {
        let told = |why: &str| io::Error::other(format!("{}: {why}", self.stat.display()));
        let stat = fs::read_to_string(&self.stat).map_err(|error| told(&error.to_string()))?;
        let sectors = stat.split_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok());
        sectors.map(|sectors| sectors * SECTOR_BYTES).ok_or_else(|| told("it is not understood"))
    }
}

/// User and system time in ticks: the name before them may hold anything, also brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn written(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// What was used in a window: by the generator, and by the processes that were named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// The generator itself.
    pub generator: Usage,
    /// Each process by its number.
    pub processes: Vec<(u32, Usage)>,
    /// Bytes that the disk has written for anybody, if one was named.
    pub disk_written_bytes: Option<u64>,
    /// What loopback has carried for anybody: all traffic, where clients and servers are on this machine alone.
    pub loopback: Loopback,
}

impl Used {
    /// What has been used until now.
    ///
    /// # Errors
    /// If one of the processes is not there.
    pub fn now(pids: &[u32], disk: Option<&Disk>) -> io::Result<Self> {
        let processes =
            pids.iter().map(|pid| Ok((*pid, Usage::of(*pid)?))).collect::<io::Result<Vec<_>>>()?;
        let disk_written_bytes = disk.map(Disk::written_bytes).transpose()?;
        let (generator, loopback) = (Usage::of(std::process::id())?, Loopback::now()?);
        Ok(Self { generator, processes, disk_written_bytes, loopback })
    }

    /// What was used from then to now.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let pairs = self.processes.iter().zip(&before.processes);
        Self {
            generator: self.generator.since(before.generator),
            processes: pairs.map(|((pid, now), (_, then))| (*pid, now.since(*then))).collect(),
            disk_written_bytes: self
                .disk_written_bytes
                .zip(before.disk_written_bytes)
                .map(|(now, then)| now.saturating_sub(then)),
            loopback: self.loopback.since(before.loopback),
        }
    }

    /// All the processes together.
    #[must_use]
    pub fn servers(&self) -> Usage {
        let add = |sum: Usage, (_, usage): &(u32, Usage)| Usage {
            cpu_s: sum.cpu_s + usage.cpu_s,
            written_bytes: sum.written_bytes + usage.written_bytes,
            resident_bytes: sum.resident_bytes + usage.resident_bytes,
        };
        self.processes.iter().fold(Usage::default(), add)
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let process = |(pid, usage): &(u32, Usage)| {
            json!({
                "pid": pid,
                "cpu_s": usage.cpu_s,
                "written_bytes": usage.written_bytes,
                "resident_bytes": usage.resident_bytes,
            })
        };
        let servers = self.servers();
        json!({
            "generator_cpu_s": self.generator.cpu_s,
            "servers_cpu_s": servers.cpu_s,
            "servers_written_bytes": servers.written_bytes,
            "servers_resident_bytes": servers.resident_bytes,
            "loopback_bytes": self.loopback.bytes,
            "loopback_packets": self.loopback.packets,
            "disk_written_bytes": self.disk_written_bytes,
            "processes": self.processes.iter().map(process).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a) b ) 1 (c)) S 1 2 3 4 5 6 7 8 9 10 30 12 99 98 20 0 1";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("42 (short) S 1"), None);
        assert_eq!(written("read_bytes: 5\nwrite_bytes: 4096\n"), Some(4096));
        assert_eq!(written("rchar: 5\n"), None);
        let devices = "face |bytes\n  eth0: 1 2 0\n    lo: 77 3 0 0\n";
        assert_eq!(carried(devices), Some(Loopback { bytes: 77, packets: 3 }));
        assert_eq!(carried("eth0: 1 2 0\n"), None);
    }

    #[test]
    fn what_this_process_uses_is_seen() {
        let pid = std::process::id();
        let before = Used::now(&[pid], None).unwrap();
        let mut sum = 0u64;
        let used = loop {
            sum = (0..1_000_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            let used = Used::now(&[pid], None).unwrap().since(&before);
            if used.servers().cpu_s >= 0.05 {
                break used;
            }
        };
        assert_eq!(used.processes[0].0, pid);
        assert!(used.servers().resident_bytes > 1 << 20, "{used:?}");
        assert!(used.generator.cpu_s >= used.servers().cpu_s - 0.02, "both are this process");
        assert_eq!(used.json()["processes"][0]["pid"], pid);
    }

    #[test]
    fn what_a_disk_writes_is_seen() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = Disk::of(folder.path()).unwrap();
        let before = disk.written_bytes().unwrap();
        let file = fs::File::create(folder.path().join("file")).unwrap();
        std::io::Write::write_all(&mut &file, &[7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        assert!(disk.written_bytes().unwrap() >= before + (1 << 20));
        let error = Disk::of(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.contains("/proc"), "{error}");
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Used::now(&[u32::MAX], None).unwrap_err();
        assert!(error.to_string().contains(&u32::MAX.to_string()), "{error}");
    }
}
