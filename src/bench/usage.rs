//! What processes of this machine have used, from `/proc`: CPU time, and bytes that they had written
//! to disks. Reads only; what the kernel does for a process in threads of its own is not in it.

use std::fs;
use std::io;

use serde_json::{Value, json};

/// What a process, all its threads together, has used since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Time on a CPU.
    pub cpu_s: f64,
    /// Bytes that it had written to storage, also those that wait in the page cache.
    pub written_bytes: u64,
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
        let cpu_s = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(Self { cpu_s, written_bytes })
    }

    fn since(self, before: Self) -> Self {
        Self {
            cpu_s: (self.cpu_s - before.cpu_s).max(0.0),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
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
}

impl Used {
    /// What has been used until now.
    ///
    /// # Errors
    /// If one of the processes is not there.
    pub fn now(pids: &[u32]) -> io::Result<Self> {
        let processes =
            pids.iter().map(|pid| Ok((*pid, Usage::of(*pid)?))).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { generator: Usage::of(std::process::id())?, processes })
    }

    /// What was used from then to now.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let pairs = self.processes.iter().zip(&before.processes);
        Self {
            generator: self.generator.since(before.generator),
            processes: pairs.map(|((pid, now), (_, then))| (*pid, now.since(*then))).collect(),
        }
    }

    /// All the processes together.
    #[must_use]
    pub fn servers(&self) -> Usage {
        let add = |sum: Usage, (_, usage): &(u32, Usage)| Usage {
            cpu_s: sum.cpu_s + usage.cpu_s,
            written_bytes: sum.written_bytes + usage.written_bytes,
        };
        self.processes.iter().fold(Usage::default(), add)
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let process = |(pid, usage): &(u32, Usage)| json!({"pid": pid, "cpu_s": usage.cpu_s, "written_bytes": usage.written_bytes});
        let servers = self.servers();
        json!({
            "generator_cpu_s": self.generator.cpu_s,
            "servers_cpu_s": servers.cpu_s,
            "servers_written_bytes": servers.written_bytes,
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
    }

    #[test]
    fn what_this_process_uses_is_seen() {
        let pid = std::process::id();
        let before = Used::now(&[pid]).unwrap();
        let mut sum = 0u64;
        let used = loop {
            sum = (0..1_000_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            let used = Used::now(&[pid]).unwrap().since(&before);
            if used.servers().cpu_s >= 0.05 {
                break used;
            }
        };
        assert_eq!(used.processes[0].0, pid);
        assert!(used.generator.cpu_s >= used.servers().cpu_s - 0.02, "both are this process");
        assert_eq!(used.json()["processes"][0]["pid"], pid);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Used::now(&[u32::MAX]).unwrap_err();
        assert!(error.to_string().contains(&u32::MAX.to_string()), "{error}");
    }
}
