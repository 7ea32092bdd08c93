//! A run's figures for other programs: one JSON document with everything, a line of CSV for each
//! second, and an HdrHistogram log that HdrHistogram's own tools read.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde_json::{Value, json};

use super::breakdown::Breakdown;
use super::machine;
use super::report::Measured;
use super::series::length_s;

/// What a run was, besides what it measured.
#[derive(Clone, Debug)]
pub struct Run {
    /// When it began: before the warm-up.
    pub started: SystemTime,
    /// How long it ran before measuring.
    pub warmup: Duration,
    /// Every setting, also those that were not given.
    pub config: Value,
    /// The arguments as they were given.
    pub command: Vec<String>,
    /// Where the time of its writes went on the servers, if that was asked for.
    pub breakdown: Option<Breakdown>,
}

/// Everything that is known of a run: the keys of [`Measured::json`], then its curve, its seconds,
/// its configuration and its machine.
#[must_use]
pub fn json(run: &Run, measured: &Measured) -> Value {
    let mut whole = measured.json();
    let more = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started_unix_s": run.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "command": run.command,
        "config": run.config,
        "machine": machine::describe(),
        "latency_percentiles_us": measured.latency.points(),
        "read_latency_percentiles_us": measured.reads.points(),
        "write_latency_percentiles_us": measured.writes.points(),
        "series": measured.series.json(measured.window_s),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut whole, more) {
        all.extend(more);
    }
    if let Some(breakdown) = &run.breakdown {
        whole["breakdown"] = breakdown.json(&measured.writes);
    }
    whole
}

/// The columns of [`csv`].
pub const CSV_COLUMNS: [&str; 10] = [
    "second",
    "length_s",
    "ops",
    "rate_ops_s",
    "errors",
    "p50_us",
    "p90_us",
    "p99_us",
    "p999_us",
    "max_us",
];

/// A line for each second, under a line of names. A percentile of nothing is empty.
#[must_use]
pub fn csv(measured: &Measured) -> String {
    let mut out = CSV_COLUMNS.join(",");
    out.push('\n');
    let rows = measured.series.json(measured.window_s);
    for row in rows.as_array().into_iter().flatten() {
        for (at, column) in CSV_COLUMNS.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let cell = &row[*column];
            let written =
                if cell.is_null() { write!(out, "{comma}") } else { write!(out, "{comma}{cell}") };
            written.expect("invariant: writing to a string does not fail");
        }
        out.push('\n');
    }
    out
}

/// The columns of [`hdr_log`], as the reference implementation names them.
const HDR_LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"";

/// One histogram for each second, of nanoseconds to two digits, as an HdrHistogram log of version 1.3.
///
/// The crate's own writer has no legend, and a reader in C takes the line of the legend for the last of
/// the header.
///
/// # Errors
/// If a histogram cannot be encoded.
pub fn hdr_log(run: &Run, measured: &Measured) -> io::Result<String> {
    let start = (run.started + run.warmup).duration_since(UNIX_EPOCH).unwrap_or_default();
    let start_s = start.as_secs_f64();
    let mut log = format!(
        "#[Histogram log format version 1.3]\n\
         #[oarlock bench: nanoseconds from the intended time of sending; Interval_Max in ms]\n\
         #[StartTime: {start_s:.3} (seconds since epoch)]\n\
         #[BaseTime: {start_s:.3} (seconds since epoch)]\n\
         {HDR_LEGEND}\n"
    );
    let mut serializer = V2DeflateSerializer::new();
    let mut bytes = Vec::new();
    for (at, second) in measured.series.0.iter().enumerate() {
        bytes.clear();
        serializer.serialize(&second.latency, &mut bytes).map_err(io::Error::other)?;
        let length_s = length_s(at, measured.window_s);
        // The divisor that the reference implementation has by itself.
        let max_ms = second.latency.max() as f64 / 1e6;
        let histogram = STANDARD.encode(&bytes);
        writeln!(log, "{at}.000,{length_s:.3},{max_ms:.3},{histogram}")
            .expect("invariant: writing to a string does not fail");
    }
    Ok(log)
}

#[cfg(test)]
pub(crate) mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    /// Three and a half seconds, 100 operations in each but the third.
    pub(crate) fn sample(slower: u64) -> (Run, Measured) {
        let mut measured = Measured { window_s: 3.5, ..Default::default() };
        for second in [0, 1, 3] {
            for op in 1..=100u64 {
                let due_ns = second * 1_000_000_000 + op * 1_000_000;
                let latency_ns = op * 10_000 * slower;
                measured.ops += 1;
                measured.answered_in_window += 1;
                measured.latency.record_ns(latency_ns);
                measured.writes.record_ns(latency_ns);
                measured.series.latency(due_ns, latency_ns);
                measured.series.answered(due_ns);
            }
        }
        measured.error("BUSY");
        measured.series.error(2_000_000_000);
        let run = Run {
            breakdown: None,
            started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            warmup: Duration::from_secs(1),
            config: json!({"rate": 100.0 * slower as f64, "clients": 64}),
            command: vec!["oarlock".into(), "bench".into(), "--rate".into(), "100".into()],
        };
        (run, measured)
    }

    #[test]
    fn the_json_holds_the_run_whole() {
        let (run, measured) = sample(1);
        let json = json(&run, &measured);
        // The keys that were there before.
        assert_eq!((&json["ops"], &json["errors"]), (&300.into(), &1.into()));
        assert_eq!(json["latency_us"], serde_json::to_value(measured.latency.summary()).unwrap());
        assert_eq!(
            (&json["config"]["clients"], &json["command"][2]),
            (&64.into(), &"--rate".into())
        );
        assert_eq!(json["started_unix_s"], 1_700_000_000);
        assert!(json["machine"]["cpus"].as_u64().unwrap() > 0);
        assert_eq!(json["series"].as_array().unwrap().len(), 4);
        assert_eq!(json["series"][3]["length_s"], 0.5);
        let points = json["latency_percentiles_us"].as_array().unwrap();
        let point = |at: usize| (points[at][0].as_f64().unwrap(), points[at][1].as_f64().unwrap());
        assert!(points.len() > 20, "a curve, not a few points: {}", points.len());
        assert_eq!(point(points.len() - 1).0, 100.0);
        assert_eq!(point(points.len() - 1).1, json["latency_us"]["max"].as_f64().unwrap());
        assert!((1..points.len()).all(|at| point(at - 1).1 <= point(at).1), "it never falls");
        let half = (0..points.len()).find(|at| point(*at).0 >= 50.0).unwrap();
        assert!((490.0..=510.0).contains(&point(half).1), "{:?}", point(half));
        assert_eq!(json["read_latency_percentiles_us"], json!([]));
    }

    #[test]
    fn the_csv_has_a_line_for_each_second() {
        let csv = csv(&sample(1).1);
        let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(rows[0], CSV_COLUMNS);
        assert_eq!(rows.len(), 5);
        assert!(rows.iter().all(|row| row.len() == CSV_COLUMNS.len()));
        assert_eq!(rows[1][..5], ["0", "1.0", "100", "100.0", "0"]);
        assert_eq!(rows[3][2..], ["0", "0.0", "1", "", "", "", "", ""]);
        let max_us: f64 = rows[4][9].parse().unwrap();
        assert!((990.0..=1010.0).contains(&max_us), "{max_us}");
    }

    #[test]
    fn the_hdr_log_reads_back_as_what_was_measured() {
        let (run, measured) = sample(1);
        let log = hdr_log(&run, &measured).unwrap();
        let mut all = Histogram::<u64>::new(2).unwrap();
        let mut starts = Vec::new();
        let mut base = None;
        for entry in IntervalLogIterator::new(log.as_bytes()) {
            match entry.unwrap() {
                LogEntry::StartTime(_) => {}
                LogEntry::BaseTime(time) => base = Some(time.as_secs()),
                LogEntry::Interval(interval) => {
                    let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
                    let part: Histogram<u64> =
                        Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                    starts.push((interval.start_timestamp().as_secs(), part.len()));
                    all.add(&part).unwrap();
                }
            }
        }
        assert_eq!(base, Some(1_700_000_001), "the warm-up is not in it");
        assert_eq!(starts, [(0, 100), (1, 100), (2, 0), (3, 100)]);
        let p99_us = all.value_at_quantile(0.99) as f64 / 1000.0;
        let measured_us = measured.latency.quantile_us(0.99);
        assert!((p99_us / measured_us - 1.0).abs() < 0.011, "{p99_us} for {measured_us}");
    }
}
