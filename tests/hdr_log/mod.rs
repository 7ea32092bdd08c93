//! A reader of HdrHistogram's logs, written from the format's own description and without the crate
//! that Oarlock writes them with: what it reads, other programs read. It is held itself by `java.hlog`
//! beside it, a log of the reference implementation. It panics at whatever the format does not have.

use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;

/// A log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) version: String,
    /// Seconds since the epoch.
    pub(crate) start_time: Option<f64>,
    /// Seconds since the epoch that are added to the intervals' own.
    pub(crate) base_time: Option<f64>,
    pub(crate) intervals: Vec<Interval>,
}

/// A line of it.
#[derive(Debug)]
pub(crate) struct Interval {
    pub(crate) tag: Option<String>,
    pub(crate) start_s: f64,
    pub(crate) length_s: f64,
    /// As the column says it.
    pub(crate) max: f64,
    pub(crate) histogram: Counts,
}

/// A histogram: values with how often each was recorded, rising. A value stands for all that count
/// in one place with it, and is the highest of them.
#[derive(Debug)]
pub(crate) struct Counts(pub(crate) Vec<(u64, u64)>);

const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"";

/// Reads a log whole.
pub(crate) fn read(text: &str) -> Log {
    let mut log = Log::default();
    let mut has_legend = false;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            // Readers in C stop to look for comments at the legend, and read 127 letters of a line.
            assert!(!has_legend && line.len() < 128, "{line}");
            log.header(comment);
        } else if line.starts_with('"') {
            assert!(!has_legend && log.intervals.is_empty() && line == LEGEND, "{line}");
            has_legend = true;
        } else {
            assert!(has_legend, "{line}");
            log.intervals.push(Interval::read(line));
        }
    }
    assert!(text.ends_with('\n'));
    log
}

impl Log {
    fn header(&mut self, comment: &str) {
        let field =
            |name: &str| Some(comment.strip_prefix(name)?.split([' ', ']']).next().unwrap());
        let seconds = |text: &str| text.parse::<f64>().unwrap();
        if let Some(version) = field("[Histogram log format version ") {
            version.clone_into(&mut self.version);
        }
        self.start_time = field("[StartTime: ").map(seconds).or(self.start_time);
        self.base_time = field("[BaseTime: ").map(seconds).or(self.base_time);
    }
}

impl Interval {
    fn read(line: &str) -> Self {
        let (tag, rest) = match line.strip_prefix("Tag=") {
            Some(rest) => {
                rest.split_once(',').map(|(tag, rest)| (Some(tag.to_owned()), rest)).unwrap()
            }
            None => (None, line),
        };
        let fields: Vec<&str> = rest.split(',').collect();
        let [start, length, max, histogram] = fields[..] else { panic!("{line}: four fields") };
        let [start_s, length_s, max] = [start, length, max].map(|text| text.parse().unwrap());
        let histogram = Counts::read(&STANDARD.decode(histogram).unwrap());
        Self { tag, start_s, length_s, max, histogram }
    }
}

impl Counts {
    /// From the compressed encoding V2: a cookie, a length, and by zlib the encoding V2.
    fn read(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        assert_eq!(fields.u32(), 0x1c84_9314, "the cookie of the compressed V2");
        assert_eq!(fields.u32() as usize, fields.0.len());
        let mut bytes = Vec::new();
        ZlibDecoder::new(fields.0).read_to_end(&mut bytes).unwrap();
        let mut fields = Fields(&bytes);
        assert_eq!(fields.u32(), 0x1c84_9313, "the cookie of V2");
        let length = fields.u32() as usize;
        assert_eq!(fields.u32(), 0, "normalizing index offset");
        let digits = fields.u32();
        let (lowest, highest) = (fields.u64(), fields.u64());
        assert!((1..=5).contains(&digits) && lowest == 1 && highest >= 2 * lowest);
        assert_eq!(f64::from_bits(fields.u64()), 1.0, "ratio of integers to doubles");
        assert_eq!(length, fields.0.len());
        // The first 2 × 10^digits values, up to a power of two, have a place each.
        let half_bits = (2 * 10u64.pow(digits)).next_power_of_two().ilog2() - 1;
        let mut counts = Vec::new();
        let mut place = 0;
        while !fields.0.is_empty() {
            match fields.zigzag() {
                zeros if zeros < 0 => place += zeros.unsigned_abs(),
                count => {
                    if count > 0 {
                        counts.push((highest_at(place, half_bits), count.unsigned_abs()));
                    }
                    place += 1;
                }
            }
        }
        Self(counts)
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// The longest; 0 of none.
    pub(crate) fn max(&self) -> u64 {
        self.0.last().map_or(0, |(value, _)| *value)
    }

    /// The lowest value that so large a share of all is not above.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let wanted = (share * self.count() as f64).ceil().max(1.0);
        let mut seen = 0;
        let mut reached = self.0.iter().filter(|(_, count)| {
            seen += count;
            seen as f64 >= wanted
        });
        reached.next().map_or(0, |(value, _)| *value)
    }
}

/// The highest value that counts in a place: behind the first two halves, each further half has the
/// same number of places, which are twice as wide.
fn highest_at(place: u64, half_bits: u32) -> u64 {
    let half = 1 << half_bits;
    if place < 2 * half {
        return place;
    }
    let doubled = place / half - 1;
    ((place % half + half + 1) << doubled) - 1
}

/// Big-endian fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> u32 {
        let (field, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        u32::from_be_bytes(*field)
    }

    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    /// Little-endian groups of seven bits, the ninth byte whole; then the sign is the lowest bit.
    fn zigzag(&mut self) -> i64 {
        let mut value = 0u64;
        for at in 0..9 {
            let (byte, rest) = self.0.split_first().unwrap();
            self.0 = rest;
            let bits = if at < 8 { byte & 0x7f } else { *byte };
            value |= u64::from(bits) << (7 * at);
            if *byte < 0x80 {
                break;
            }
        }
        (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
    }
}

/// `java.hlog` was written by `HistogramLogWriter` of org.hdrhistogram:HdrHistogram 2.2.2, with the
/// divisor 1e6 for the column of the maximum that it has by itself.
#[test]
fn the_reader_reads_what_the_reference_implementation_writes() {
    let log = read(include_str!("java.hlog"));
    let base = Some(1_700_000_000.123);
    assert_eq!((log.version.as_str(), log.start_time, log.base_time), ("1.3", base, base));
    let [thousand, empty, far] = &log.intervals[..] else { panic!("{log:?}") };
    assert_eq!((&thousand.tag, thousand.start_s, thousand.length_s), (&None, 0.0, 1.0));
    // What HistogramLogReader says of them.
    let of = |counts: &Counts| {
        (counts.count(), counts.quantile(0.5), counts.quantile(0.99), counts.max())
    };
    assert_eq!(of(&thousand.histogram), (1000, 501_759, 991_231, 1_003_519));
    assert_eq!(thousand.max, 1.004);
    assert_eq!((empty.tag.as_deref(), of(&empty.histogram)), (Some("empty"), (0, 0, 0, 0)));
    assert_eq!((far.tag.as_deref(), far.start_s, far.length_s), (Some("B"), 2.0, 0.5));
    assert_eq!(far.histogram.0, [(7, 5_000_000_000), (150_077_439, 3), (3_601_330_077_695, 1)]);
    assert_eq!(far.max, 3_601_330.078);
}
