//! Workloads that keep a ledger: one writes and reads under load, one reads everything back.
//! On a driver's thread. What they find wrong they keep; they never stop a run.

use super::keys::{Chooser, Distribution, HotSpot, KeySpace};
use super::ledger::{Ledger, Version, Violation, WriteOutcome};
use super::resp::{self, Reply};
use super::workload::{Class, Outcome, Workload};

/// Most violations that are kept with their words; beyond, only their number grows.
const VIOLATIONS_KEPT: usize = 20;

/// What was found wrong.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<Violation>,
}

impl Findings {
    /// Keeps what a judgement found, if anything.
    pub fn note(&mut self, judged: Result<(), Violation>) {
        if let Err(violation) = judged {
            self.count += 1;
            if self.first.len() < VIOLATIONS_KEPT {
                self.first.push(violation);
            }
        }
    }

    /// Adds another's findings.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        let room = VIOLATIONS_KEPT - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }
}

/// Writes versions and reads them, recording every outcome and judging every read.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What was written.
    pub ledger: Ledger,
    /// Reads that were wrong.
    pub findings: Findings,
    chooser: Chooser,
    read_share: f64,
    key: Vec<u8>,
}

/// An operation of [`Recorded`] in flight.
#[derive(Clone, Copy, Debug)]
pub enum Recording {
    /// A write of this version.
    Write(Version),
    /// A read that must not see less than this version.
    Read(Version),
}

impl Recorded {
    /// Over a ledger's keys, uniformly, with this share of reads.
    #[must_use]
    pub fn new(ledger: Ledger, read_share: f64, seed: u64) -> Self {
        let space = KeySpace::new(ledger.len() as u64, Distribution::Uniform, HotSpot::default());
        let chooser = Chooser::new(space, (0, 1), seed);
        Self { ledger, findings: Findings::default(), chooser, read_share, key: Vec::new() }
    }

    fn choose(&mut self) -> usize {
        usize::try_from(self.chooser.choose()).expect("invariant: below a count of records")
    }
}

impl Workload for Recorded {
    type Token = Recording;

    fn next(&mut self, out: &mut Vec<u8>) -> Option<(Class, Recording)> {
        if self.chooser.unit() < self.read_share {
            let at = self.choose();
            let floor = self.ledger.acked(at);
            self.ledger.key(floor.at, &mut self.key);
            resp::command(out, &[b"GET", &self.key]);
            return Some((Class::Read, Recording::Read(floor)));
        }
        let start = self.choose();
        let count = self.ledger.len();
        // The chosen key, or the next one that has no write in flight.
        let version = (start..start + count).find_map(|at| self.ledger.begin(at % count))?;
        self.ledger.command(version, &mut self.key, out);
        Some((Class::Write, Recording::Write(version)))
    }

    fn complete(&mut self, token: Recording, outcome: &Outcome<'_>) {
        match token {
            Recording::Write(version) => self.ledger.end(version, write_outcome(outcome)),
            Recording::Read(floor) => match outcome {
                Outcome::Reply(Reply::Bulk(value)) => {
                    self.findings.note(self.ledger.judge_read(floor, Some(value)));
                }
                Outcome::Reply(Reply::Nil) => {
                    self.findings.note(self.ledger.judge_read(floor, None));
                }
                Outcome::Reply(
                    Reply::Simple(_) | Reply::Error(_) | Reply::Int(_) | Reply::Array(_),
                )
                | Outcome::Unknown
                | Outcome::Unsent => {}
            },
        }
    }
}

fn write_outcome(outcome: &Outcome<'_>) -> WriteOutcome {
    match outcome {
        Outcome::Reply(Reply::Simple(b"OK")) => WriteOutcome::Acknowledged,
        Outcome::Reply(reply) => {
            reply.error_kind().map_or(WriteOutcome::Unknown, WriteOutcome::of_error)
        }
        Outcome::Unknown => WriteOutcome::Unknown,
        Outcome::Unsent => WriteOutcome::Refused,
    }
}

/// Reads every key of a ledger back; a read that fails is tried again.
#[derive(Clone, Debug)]
pub struct ReadBack {
    ledger: Ledger,
    /// What was wrong.
    pub findings: Findings,
    next: usize,
    again: Vec<usize>,
    attempts_left: usize,
    checked: usize,
    key: Vec<u8>,
}

impl ReadBack {
    /// Over all keys of a ledger whose writers have ended.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        let attempts_left = ledger.len() * 2 + 10_000;
        let findings = Findings::default();
        Self {
            ledger,
            findings,
            next: 0,
            again: Vec::new(),
            attempts_left,
            checked: 0,
            key: Vec::new(),
        }
    }

    /// Keys that could not be read, because every attempt failed.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.ledger.len() - self.checked
    }

    /// The ledger that was read back.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Workload for ReadBack {
    type Token = usize;

    fn next(&mut self, out: &mut Vec<u8>) -> Option<(Class, usize)> {
        if self.attempts_left == 0 {
            return None;
        }
        let at = match self.again.pop() {
            Some(at) => at,
            None if self.next < self.ledger.len() => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.attempts_left -= 1;
        self.ledger.key(at, &mut self.key);
        resp::command(out, &[b"GET", &self.key]);
        Some((Class::Read, at))
    }

    fn complete(&mut self, at: usize, outcome: &Outcome<'_>) {
        let found = match outcome {
            Outcome::Reply(Reply::Bulk(value)) => Some(*value),
            Outcome::Reply(Reply::Nil) => None,
            Outcome::Reply(
                Reply::Simple(_) | Reply::Error(_) | Reply::Int(_) | Reply::Array(_),
            )
            | Outcome::Unknown
            | Outcome::Unsent => {
                self.again.push(at);
                return;
            }
        };
        self.checked += 1;
        self.findings.note(self.ledger.judge(at, found));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::keys::Naming;
    use super::*;

    /// Carries commands out on a map, as a server would.
    fn serve(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, command: &[u8]) -> Option<Vec<u8>> {
        let (Reply::Array(args), _) = resp::parse(command).unwrap().unwrap() else { panic!() };
        let text = |reply: &Reply<'_>| {
            let Reply::Bulk(bytes) = reply else { panic!("{reply:?}") };
            bytes.to_vec()
        };
        match text(&args[0]).as_slice() {
            b"SET" => map.insert(text(&args[1]), text(&args[2])),
            b"GET" => map.get(&text(&args[1])).cloned(),
            other => panic!("{other:?}"),
        }
    }

    fn load(operations: usize) -> (Recorded, BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut recorded = Recorded::new(Ledger::new(Naming::Spread, 0, 50, 64), 0.3, 11);
        let mut map = BTreeMap::new();
        for number in 0..operations {
            let mut out = Vec::new();
            let (class, token) = recorded.next(&mut out).unwrap();
            if class == Class::Write && number % 7 == 0 {
                // Lost on the way, one half of them after they were carried out.
                if number % 2 == 0 {
                    serve(&mut map, &out);
                }
                recorded.complete(token, &Outcome::Unknown);
                continue;
            }
            let found = serve(&mut map, &out);
            let reply = match (class, &found) {
                (Class::Write, _) => Reply::Simple(b"OK"),
                (Class::Read, Some(value)) => Reply::Bulk(value),
                (Class::Read, None) => Reply::Nil,
            };
            recorded.complete(token, &Outcome::Reply(reply));
        }
        (recorded, map)
    }

    fn read_back(ledger: &Ledger, map: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> ReadBack {
        let mut read_back = ReadBack::new(ledger.clone());
        let mut out = Vec::new();
        let (_, failed) = read_back.next(&mut out).unwrap();
        read_back.complete(failed, &Outcome::Unknown);
        loop {
            out.clear();
            let Some((_, at)) = read_back.next(&mut out) else { break read_back };
            let found = serve(map, &out);
            let reply = found.as_deref().map_or(Reply::Nil, Reply::Bulk);
            read_back.complete(at, &Outcome::Reply(reply));
        }
    }

    #[test]
    fn an_honest_server_is_found_honest() {
        let (recorded, mut map) = load(5_000);
        assert_eq!(recorded.findings.count, 0, "{:?}", recorded.findings.first);
        assert!(recorded.ledger.acked_total() > 2_000);
        let read_back = read_back(&recorded.ledger, &mut map);
        assert_eq!((read_back.findings.count, read_back.unread()), (0, 0));
    }

    #[test]
    fn one_lost_write_is_found_and_named() {
        let (recorded, mut map) = load(5_000);
        let mut key = Vec::new();
        recorded.ledger.key(17, &mut key);
        map.remove(&key);
        let read_back = read_back(&recorded.ledger, &mut map);
        assert_eq!(read_back.findings.count, 1);
        assert!(read_back.findings.first[0].key.ends_with(":key:17"));
    }

    #[test]
    fn a_server_that_never_answers_leaves_keys_unread() {
        let mut read_back = ReadBack::new(Ledger::new(Naming::Spread, 0, 5, 64));
        let mut out = Vec::new();
        while let Some((_, at)) = read_back.next(&mut out) {
            read_back.complete(at, &Outcome::Reply(Reply::Error(b"BUSY")));
        }
        assert_eq!(read_back.unread(), 5);
    }
}
