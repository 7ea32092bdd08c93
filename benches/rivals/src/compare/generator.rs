//! Runs `oarlock bench` as a process of its own, and takes the figures out of what it wrote.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::load::VALUE_BYTES;
use super::stop::Stop;
use super::system::{Running, System};

/// What is told of a run, by the names in `compare.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Answers per second.
    Rate,
    /// Microseconds from the intended time of sending, of all operations.
    P50Us,
    /// The same.
    P99Us,
    /// The same.
    P999Us,
    /// The same.
    MaxUs,
    /// Operations that failed, or were not answered in time.
    Errors,
    /// CPU time of all servers for each operation.
    CpuUs,
    /// Of the generator's threads, for each operation.
    GeneratorCpuUs,
    /// The generator's CPU time as a share of the servers'.
    GeneratorShare,
    /// Bytes that all servers had written, for each byte of keys and values that was acknowledged.
    WrittenPerByte,
    /// Bytes that the disk wrote, the file system's journal among them, for each such byte.
    DiskPerByte,
    /// Memory of all servers at the end.
    MemoryMib,
    /// Bytes that loopback carried for each operation: between servers, and to and from the generator.
    LoopbackBytes,
    /// p99 of reads.
    ReadsP99Us,
    /// p50 of writes.
    WritesP50Us,
    /// p99 of reads as a multiple of the p50 of writes beside them.
    ReadsToWrites,
    /// The highest rate that held.
    HighestRate,
    /// p99 of writes before a node was killed.
    BeforeP99Us,
    /// p99 of writes while it caught up.
    ReturnP99Us,
    /// The second as a multiple of the first.
    ReturnToBefore,
    /// How long it took from the start of its process until it had caught up.
    ReturnS,
    /// Groups that were seen to come by snapshot.
    Snapshots,
}

/// The figures of one run.
pub type Figures = BTreeMap<Figure, f64>;

/// One run of `oarlock bench`.
pub struct Outcome {
    /// Its figures.
    pub figures: Figures,
    /// Latency by percentile.
    pub curve: Vec<(f64, f64)>,
}

/// Puts load on a system.
pub struct Generator<'a> {
    /// The program.
    pub oarlock: &'a Path,
    /// Where it may write.
    pub folder: &'a Path,
    /// The wish to stop.
    pub stop: &'a Stop,
}

impl Generator<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// If it cannot run; what it said. Operations that fail are figures, not errors.
    pub fn run(
        &self,
        system: System,
        running: &Running,
        args: &[String],
    ) -> Result<Outcome, Box<dyn Error>> {
        let (file, log) = (self.folder.join("bench.json"), self.folder.join("bench.log"));
        let mut command = Command::new(self.oarlock);
        command.arg("bench").args(system.bench_args()).args(args).arg("--json").arg(&file);
        command.arg("--disk").arg(self.folder);
        for address in &running.addresses {
            command.args(["--addr", &address.to_string()]);
        }
        for pid in &running.pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
        let mut child =
            command.spawn().map_err(|error| format!("{}: {error}", self.oarlock.display()))?;
        if !self.stop.wait(&mut child)?.success() {
            return Err(std::fs::read_to_string(&log)?.trim().to_owned().into());
        }
        let json: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        Ok(Outcome { figures: figures(&json), curve: curve(&json) })
    }
}

/// `oarlock bench` names its keys by two bytes, `:key:` and a number, here of at most five digits.
const KEY_BYTES: f64 = 12.0;

fn figures(json: &Value) -> Figures {
    let number = |place: &str| json.pointer(place).and_then(Value::as_f64);
    let places = [
        (Figure::Rate, "/rate_ops_s"),
        (Figure::P50Us, "/latency_us/p50"),
        (Figure::P99Us, "/latency_us/p99"),
        (Figure::P999Us, "/latency_us/p999"),
        (Figure::MaxUs, "/latency_us/max"),
        (Figure::Errors, "/errors"),
        (Figure::CpuUs, "/used/servers_cpu_us_per_op"),
        (Figure::GeneratorCpuUs, "/used/generator_cpu_us_per_op"),
        (Figure::LoopbackBytes, "/used/loopback_bytes_per_op"),
    ];
    let mut figures: Figures =
        places.into_iter().filter_map(|(figure, place)| Some((figure, number(place)?))).collect();
    let mut set = |figure, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            figures.insert(figure, value);
        }
    };
    let cpu = number("/used/servers_cpu_us_per_op").filter(|cpu| *cpu > 0.0);
    set(
        Figure::GeneratorShare,
        number("/used/generator_cpu_us_per_op").zip(cpu).map(|(own, servers)| own / servers),
    );
    let memory = number("/used/servers_resident_bytes");
    set(Figure::MemoryMib, memory.map(|bytes| bytes / f64::from(1 << 20)));
    let reads = number("/reads").unwrap_or_default();
    if reads > 0.0 {
        let (read, write) = (number("/read_latency_us/p99"), number("/write_latency_us/p50"));
        set(Figure::ReadsP99Us, read);
        set(Figure::WritesP50Us, write);
        set(Figure::ReadsToWrites, read.zip(write).map(|(read, write)| read / write));
    } else {
        let user = KEY_BYTES + f64::from(VALUE_BYTES);
        let written = number("/used/servers_written_bytes_per_op");
        set(Figure::WrittenPerByte, written.map(|written| written / user));
        let disk = number("/used/disk_written_bytes_per_op");
        set(Figure::DiskPerByte, disk.map(|written| written / user));
    }
    figures
}

fn curve(json: &Value) -> Vec<(f64, f64)> {
    let points = json["latency_percentiles_us"].as_array().into_iter().flatten();
    points.filter_map(|point| Some((point.get(0)?.as_f64()?, point.get(1)?.as_f64()?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_taken_out_of_what_bench_wrote() {
        let mut json = json!({
            "rate_ops_s": 5000.0, "errors": 2, "reads": 0,
            "latency_us": {"p50": 200.0, "p99": 900.0, "p999": 3000.0, "max": 4000.0},
            "read_latency_us": {"p99": 0.0}, "write_latency_us": {"p50": 200.0},
            "used": {"servers_cpu_us_per_op": 80.0, "generator_cpu_us_per_op": 20.0,
                "servers_written_bytes_per_op": 1400.0, "disk_written_bytes_per_op": 2800.0,
                "servers_resident_bytes": 3 << 20, "loopback_bytes_per_op": 900.0},
            "latency_percentiles_us": [[0.0, 100.0], [100.0, 4000.0]],
        });
        let found = figures(&json);
        assert_eq!((found[&Figure::P99Us], found[&Figure::Errors]), (900.0, 2.0));
        assert_eq!((found[&Figure::GeneratorShare], found[&Figure::WrittenPerByte]), (0.25, 10.0));
        assert_eq!(found[&Figure::DiskPerByte], 20.0);
        assert_eq!((found[&Figure::MemoryMib], found[&Figure::LoopbackBytes]), (3.0, 900.0));
        assert!(!found.contains_key(&Figure::ReadsP99Us));
        assert_eq!(curve(&json), [(0.0, 100.0), (100.0, 4000.0)]);
        json["reads"] = json!(10);
        json["read_latency_us"]["p99"] = json!(100.0);
        json["used"] = Value::Null;
        let found = figures(&json);
        assert_eq!(found[&Figure::ReadsToWrites], 0.5);
        assert!(!found.contains_key(&Figure::CpuUs), "what was not measured is not told");
    }
}
