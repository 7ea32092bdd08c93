//! What was acknowledged, and whether a value that is read back may be there. One ledger per
//! writer; no two writers share a key, and a key has at most one write in flight, so that for
//! each key it is known exactly which values may be read:
//!
//! 1. the last acknowledged version, or nothing if none was acknowledged;
//! 2. any version whose outcome is unknown, however old: it may have been carried out late.
//!
//! A version that was refused must never be seen. A ledger talks to nobody.

use super::keys::Naming;
use super::resp::{self, decimal};

/// What is known of one key.
#[derive(Clone, Debug, Default)]
struct Record {
    newest: u32,
    acked: u32,
    busy: bool,
    unknown: Vec<u32>,
}

/// The writes of one writer over its numbered keys.
#[derive(Clone, Debug)]
pub struct Ledger {
    naming: Naming,
    first: u64,
    records: Vec<Record>,
    value_bytes: usize,
    acked_total: u64,
}

/// One version of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The key's place in the ledger.
    pub at: usize,
    /// Counted from 1; 0: the key is not there.
    pub version: u32,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is durable and applied.
    Acknowledged,
    /// It was not applied and never will be.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl WriteOutcome {
    /// The outcome of a write that was answered with an error of this kind. Only the kinds that
    /// promise that nothing was done count as refused.
    #[must_use]
    pub fn of_error(kind: &str) -> Self {
        match kind {
            "BUSY" | "NOQUORUM" | "DISKFULL" | "CROSSRANGE" | "NOAUTH" | "ERR" | "WRONGTYPE" => {
                Self::Refused
            }
            _ => Self::Unknown,
        }
    }
}

/// Something that must not be there was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key, readable.
    pub key: String,
    /// What was wrong, in words.
    pub what: String,
}

impl Ledger {
    /// A ledger over `count` keys from number `first` on, with values of `value_bytes`.
    #[must_use]
    pub fn new(naming: Naming, first: u64, count: usize, value_bytes: usize) -> Self {
        let records = vec![Record::default(); count];
        Self { naming, first, records, value_bytes, acked_total: 0 }
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Acknowledged writes in all.
    #[must_use]
    pub fn acked_total(&self) -> u64 {
        self.acked_total
    }

    /// Keys with at least one acknowledged write.
    #[must_use]
    pub fn acked_keys(&self) -> usize {
        self.records.iter().filter(|record| record.acked > 0).count()
    }

    /// The last acknowledged version of a key.
    #[must_use]
    pub fn acked(&self, at: usize) -> Version {
        Version { at, version: self.records[at].acked }
    }

    /// Writes a key's name in place of what `out` held.
    pub fn key(&self, at: usize, out: &mut Vec<u8>) {
        self.naming.write(self.first + at as u64, out);
    }

    /// Starts the next write of a key; nothing if one is in flight.
    pub fn begin(&mut self, at: usize) -> Option<Version> {
        let record = &mut self.records[at];
        if record.busy {
            return None;
        }
        record.busy = true;
        record.newest += 1;
        Some(Version { at, version: record.newest })
    }

    /// Appends the command that carries a version out.
    pub fn command(&self, version: Version, key: &mut Vec<u8>, out: &mut Vec<u8>) {
        self.key(version.at, key);
        resp::begin(out, 3);
        resp::argument(out, b"SET");
        resp::argument(out, key);
        resp::argument(out, &self.value(version));
    }

    /// A version's value: names its key and version, and fills the rest with what follows from
    /// them, so that a value is right to the last byte or wrong.
    #[must_use]
    pub fn value(&self, version: Version) -> Vec<u8> {
        let number = self.first + version.at as u64;
        let mut value = Vec::with_capacity(self.value_bytes + 32);
        value.push(b'v');
        decimal(&mut value, u64::from(version.version));
        value.extend_from_slice(b":k");
        decimal(&mut value, number);
        value.push(b':');
        let mut random = oarlock_types::Random::new(number ^ (u64::from(version.version) << 32));
        while value.len() < self.value_bytes {
            value.extend(random.next_u64().to_be_bytes().map(|byte| b'a' + byte % 26));
        }
        value.truncate(self.value_bytes.max(1));
        value
    }

    /// The write of a version ended.
    pub fn end(&mut self, version: Version, outcome: WriteOutcome) {
        let record = &mut self.records[version.at];
        assert!(record.busy && record.newest == version.version, "one write of a key at a time");
        record.busy = false;
        match outcome {
            WriteOutcome::Acknowledged => {
                record.acked = version.version;
                self.acked_total += 1;
            }
            WriteOutcome::Refused => {}
            WriteOutcome::Unknown => record.unknown.push(version.version),
        }
    }

    /// Judges what was read of a key while nothing was being written to it.
    ///
    /// # Errors
    /// If it must not be there.
    pub fn judge(&self, at: usize, found: Option<&[u8]>) -> Result<(), Violation> {
        let record = &self.records[at];
        let version = self.version_of(at, found)?;
        if version == record.acked || record.unknown.contains(&version) {
            return Ok(());
        }
        Err(self.wrong_version(at, version))
    }

    /// Judges what was read of a key while it may have been written to: `floor` was the last
    /// acknowledged version when the read was sent.
    ///
    /// # Errors
    /// If the read was stale, or the value was never written.
    pub fn judge_read(&self, floor: Version, found: Option<&[u8]>) -> Result<(), Violation> {
        let record = &self.records[floor.at];
        let version = self.version_of(floor.at, found)?;
        let written = version <= record.newest;
        if written && (version >= floor.version || record.unknown.contains(&version)) {
            return Ok(());
        }
        Err(self.wrong_version(floor.at, version))
    }

    fn wrong_version(&self, at: usize, found: u32) -> Violation {
        let record = &self.records[at];
        let found = if found == 0 { "nothing".to_owned() } else { format!("version {found}") };
        let acked = match record.acked {
            0 => "no write was acknowledged".to_owned(),
            acked => format!("version {acked} was acknowledged"),
        };
        let what = format!("{acked}, {} unknown, but {found} is there", record.unknown.len());
        self.violation(at, what)
    }

    fn version_of(&self, at: usize, found: Option<&[u8]>) -> Result<u32, Violation> {
        let Some(found) = found else { return Ok(0) };
        let version = found
            .strip_prefix(b"v")
            .and_then(|rest| rest.split(|byte| *byte == b':').next())
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .filter(|version| *version > 0);
        match version {
            Some(version) if self.value(Version { at, version }) == found => Ok(version),
            Some(_) | None => {
                let shown = String::from_utf8_lossy(&found[..found.len().min(40)]).into_owned();
                Err(self.violation(at, format!("a value that was never written: \"{shown}\"…")))
            }
        }
    }

    fn violation(&self, at: usize, what: String) -> Violation {
        let mut key = Vec::new();
        self.key(at, &mut key);
        Violation { key: key.escape_ascii().to_string(), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Naming::Spread, 1000, 3, 64)
    }

    fn write(ledger: &mut Ledger, at: usize, outcome: WriteOutcome) -> Vec<u8> {
        let version = ledger.begin(at).unwrap();
        ledger.end(version, outcome);
        ledger.value(version)
    }

    #[test]
    fn the_last_acknowledged_write_must_be_there() {
        let mut ledger = ledger();
        let first = write(&mut ledger, 0, WriteOutcome::Acknowledged);
        let second = write(&mut ledger, 0, WriteOutcome::Acknowledged);
        assert_eq!(ledger.judge(0, Some(&second)), Ok(()));
        let lost = ledger.judge(0, Some(&first)).unwrap_err();
        assert!(lost.what.contains("version 2 was acknowledged"), "{}", lost.what);
        assert!(lost.what.contains("version 1 is there"), "{}", lost.what);
        assert!(ledger.judge(0, None).unwrap_err().what.contains("nothing is there"));
        assert_eq!((ledger.acked_total(), ledger.acked_keys()), (2, 1));
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not_and_may_come_late() {
        let mut ledger = ledger();
        let unknown = write(&mut ledger, 1, WriteOutcome::Unknown);
        assert_eq!(ledger.judge(1, None), Ok(()));
        assert_eq!(ledger.judge(1, Some(&unknown)), Ok(()));
        let acked = write(&mut ledger, 1, WriteOutcome::Acknowledged);
        assert_eq!(ledger.judge(1, Some(&acked)), Ok(()));
        assert_eq!(ledger.judge(1, Some(&unknown)), Ok(()), "carried out after the second");
        assert!(ledger.judge(1, None).is_err(), "no write makes a key vanish");
    }

    #[test]
    fn a_refused_write_must_never_be_there() {
        let mut ledger = ledger();
        let refused = write(&mut ledger, 2, WriteOutcome::Refused);
        assert_eq!(ledger.judge(2, None), Ok(()));
        assert!(ledger.judge(2, Some(&refused)).is_err());
    }

    #[test]
    fn a_value_of_another_key_or_with_one_wrong_byte_is_found() {
        let mut ledger = ledger();
        let mut value = write(&mut ledger, 0, WriteOutcome::Acknowledged);
        write(&mut ledger, 1, WriteOutcome::Acknowledged);
        assert!(ledger.judge(1, Some(&value)).is_err());
        *value.last_mut().unwrap() ^= 1;
        assert!(ledger.judge(0, Some(&value)).is_err());
        assert!(ledger.judge(0, Some(b"v0:k1000:")).is_err());
        assert!(ledger.judge(0, Some(b"")).is_err());
    }

    #[test]
    fn a_stale_read_is_found_and_a_concurrent_one_may_see_either() {
        let mut ledger = ledger();
        let first = write(&mut ledger, 0, WriteOutcome::Acknowledged);
        let floor = ledger.acked(0);
        let version = ledger.begin(0).unwrap();
        let second = ledger.value(version);
        assert_eq!(ledger.judge_read(floor, Some(&first)), Ok(()));
        assert_eq!(ledger.judge_read(floor, Some(&second)), Ok(()));
        ledger.end(version, WriteOutcome::Acknowledged);
        assert_eq!(ledger.judge_read(floor, Some(&first)), Ok(()), "sent before the second");
        assert!(ledger.judge_read(ledger.acked(0), Some(&first)).is_err(), "stale");
        assert!(ledger.judge_read(floor, None).is_err(), "stale");
        let never = ledger.value(Version { at: 0, version: 3 });
        assert!(ledger.judge_read(floor, Some(&never)).is_err(), "from the future");
    }

    #[test]
    fn a_key_has_one_write_in_flight() {
        let mut ledger = ledger();
        let version = ledger.begin(0).unwrap();
        assert_eq!(ledger.begin(0), None);
        ledger.end(version, WriteOutcome::Unknown);
        assert_eq!(ledger.begin(0), Some(Version { at: 0, version: 2 }));
    }

    #[test]
    fn only_errors_that_promise_it_count_as_refused() {
        assert_eq!(WriteOutcome::of_error("BUSY"), WriteOutcome::Refused);
        assert_eq!(WriteOutcome::of_error("UNKNOWN"), WriteOutcome::Unknown);
        assert_eq!(WriteOutcome::of_error("NOQUORUM"), WriteOutcome::Refused);
    }
}
