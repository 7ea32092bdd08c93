//! What a driver sends, and who hears the outcome. One workload per driver, on its thread.
//! A workload writes commands and judges replies; it knows no socket and no clock.

use std::collections::VecDeque;

use oarlock_types::Random;

use super::keys::{Chooser, KeySpace, Naming};
use super::resp::{self, Reply};
use super::values::{Contents, ValueBytes};

/// Whether an operation changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It does not.
    Read,
    /// It does.
    Write,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// With this reply, which may be an error.
    Reply(Reply<'a>),
    /// The connection ended first: it may have been carried out, now or later.
    Unknown,
    /// It was never sent.
    Unsent,
}

/// Operations to send.
pub trait Workload: Send {
    /// What the workload needs to recognize an operation's outcome.
    type Token: Send;

    /// Appends the next command to `out`. Nothing: there is none now; there may be again once
    /// operations in flight have completed. A run without an end in time ends when there is none
    /// and nothing is in flight.
    fn next(&mut self, out: &mut Vec<u8>) -> Option<(Class, Self::Token)>;

    /// The (first) key of the command that was written last; empty: it has none.
    fn key(&self) -> &[u8] {
        &[]
    }

    /// An operation ended. Called exactly once for each.
    fn complete(&mut self, token: Self::Token, outcome: &Outcome<'_>);
}

/// The command that a mixed workload writes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteCommand {
    /// `SET key value`.
    #[default]
    Set,
    /// `INCR key`.
    Incr,
    /// `MSET` of ten keys.
    Mset,
    /// `APPEND key value`.
    Append,
    /// `DEL key`.
    Del,
    /// `PING`: no key, no disk; what the connection itself costs.
    Ping,
}

/// Which share of the operations, 0 to 1, is of which kind. What is left writes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// `GET`.
    pub read: f64,
    /// `GET`, and once it is answered `SET` of the same key, as an operation of its own.
    pub modify: f64,
    /// `SET` of a key that was not there.
    pub insert: f64,
    /// `OARLOCK SCAN` of 1 to [`SCAN_KEYS_MAX`] keys.
    pub scan: f64,
}

impl Shares {
    fn is_mixed(&self) -> bool {
        self.read + self.modify + self.insert + self.scan > 0.0
    }
}

/// Most keys of one scan.
pub const SCAN_KEYS_MAX: u64 = 100;

/// What a mixed workload is made of.
#[derive(Clone, Debug)]
pub struct Mix {
    /// What the operations are.
    pub shares: Shares,
    /// What a write is.
    pub command: WriteCommand,
    /// How keys are named.
    pub naming: Naming,
    /// Which keys there are. All drivers of a run have the same.
    pub space: KeySpace,
    /// How long values are.
    pub value_bytes: ValueBytes,
}

/// Reads and writes over numbered keys.
#[derive(Clone, Debug)]
pub struct Mixed {
    mix: Mix,
    chooser: Chooser,
    contents: Contents,
    key: Vec<u8>,
    /// Keys that were read and are to be written.
    owed: VecDeque<u64>,
}

impl Mixed {
    /// The operations of driver number `share` of `shares`.
    #[must_use]
    pub fn new(mix: Mix, (share, shares): (u64, u64), seed: u64) -> Self {
        let mut random = Random::new(seed);
        let contents = Contents::new(mix.value_bytes, random.next_u64());
        let chooser = Chooser::new(mix.space.clone(), (share, shares), random.next_u64());
        Self { mix, chooser, contents, key: Vec::new(), owed: VecDeque::new() }
    }

    fn choose(&mut self) -> u64 {
        let number = self.chooser.choose();
        self.mix.naming.write(number, &mut self.key);
        number
    }

    fn set(&mut self, number: u64, out: &mut Vec<u8>) -> Option<(Class, Then)> {
        self.mix.naming.write(number, &mut self.key);
        let Self { contents, chooser, key, .. } = self;
        resp::command(out, &[b"SET", key, contents.draw(|bound| chooser.below(bound))]);
        Some((Class::Write, Then::Done))
    }

    fn scan(&mut self, out: &mut Vec<u8>) -> Option<(Class, Then)> {
        self.choose();
        let mut limit = Vec::new();
        resp::decimal(&mut limit, 1 + self.chooser.below(SCAN_KEYS_MAX));
        resp::command(out, &[b"OARLOCK", b"SCAN", &self.key, b"", b"LIMIT", &limit]);
        Some((Class::Read, Then::Done))
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Option<(Class, Then)> {
        if self.mix.command == WriteCommand::Ping {
            resp::command(out, &[b"PING"]);
            return Some((Class::Read, Then::Done));
        }
        let number = self.choose();
        match self.mix.command {
            WriteCommand::Set => return self.set(number, out),
            WriteCommand::Incr => resp::command(out, &[b"INCR", &self.key]),
            WriteCommand::Append => {
                let Self { contents, chooser, key, .. } = self;
                let value = contents.draw(|bound| chooser.below(bound));
                resp::command(out, &[b"APPEND", key, value]);
            }
            WriteCommand::Del => resp::command(out, &[b"DEL", &self.key]),
            WriteCommand::Mset => {
                resp::begin(out, 1 + 2 * MSET_KEYS);
                resp::argument(out, b"MSET");
                for _ in 0..MSET_KEYS {
                    self.choose();
                    let Self { contents, chooser, key, .. } = &mut *self;
                    resp::argument(out, key);
                    resp::argument(out, contents.draw(|bound| chooser.below(bound)));
                }
            }
            WriteCommand::Ping => {}
        }
        Some((Class::Write, Then::Done))
    }
}

/// Keys of one `MSET`.
const MSET_KEYS: usize = 10;

/// What follows an operation of a mixed workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Done,
    /// A write of this key, if the operation is answered without an error.
    Write(u64),
}

impl Workload for Mixed {
    type Token = Then;

    fn next(&mut self, out: &mut Vec<u8>) -> Option<(Class, Then)> {
        if let Some(number) = self.owed.pop_front() {
            return self.set(number, out);
        }
        let shares = self.mix.shares;
        if !shares.is_mixed() {
            return self.write(out);
        }
        let mut at = self.chooser.unit();
        let mut is_in = |share: f64| {
            at -= share;
            at < 0.0
        };
        if is_in(shares.read) {
            self.choose();
            resp::command(out, &[b"GET", &self.key]);
            return Some((Class::Read, Then::Done));
        }
        if is_in(shares.modify) {
            let number = self.choose();
            resp::command(out, &[b"GET", &self.key]);
            return Some((Class::Read, Then::Write(number)));
        }
        if is_in(shares.insert) {
            let number = self.chooser.insert();
            return self.set(number, out);
        }
        if is_in(shares.scan) {
            return self.scan(out);
        }
        self.write(out)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn complete(&mut self, then: Then, outcome: &Outcome<'_>) {
        match (then, outcome) {
            (Then::Write(number), Outcome::Reply(reply)) if reply.error_kind().is_none() => {
                self.owed.push_back(number);
            }
            (
                Then::Write(_) | Then::Done,
                Outcome::Reply(_) | Outcome::Unknown | Outcome::Unsent,
            ) => {}
        }
    }
}

/// `SET`s every numbered key once, in order; a key whose write failed is tried again.
#[derive(Clone, Debug)]
pub struct Fill {
    naming: Naming,
    numbers: std::ops::Range<u64>,
    again: Vec<u64>,
    attempts_left: u64,
    random: Random,
    contents: Contents,
    key: Vec<u8>,
}

impl Fill {
    /// Over the keys of these numbers.
    #[must_use]
    pub fn new(
        naming: Naming,
        numbers: std::ops::Range<u64>,
        value_bytes: impl Into<ValueBytes>,
    ) -> Self {
        Self {
            naming,
            attempts_left: (numbers.end - numbers.start) * 2 + 1000,
            random: Random::new(numbers.start),
            numbers,
            again: Vec::new(),
            contents: Contents::new(value_bytes.into(), 1),
            key: Vec::new(),
        }
    }

    /// How many keys were not written.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.numbers.end - self.numbers.start + self.again.len() as u64
    }
}

impl Workload for Fill {
    type Token = u64;

    fn next(&mut self, out: &mut Vec<u8>) -> Option<(Class, u64)> {
        if self.attempts_left == 0 {
            return None;
        }
        let number = self.again.pop().or_else(|| self.numbers.next())?;
        self.attempts_left -= 1;
        self.naming.write(number, &mut self.key);
        let value = self.contents.draw(|bound| self.random.below(bound));
        resp::command(out, &[b"SET", &self.key, value]);
        Some((Class::Write, number))
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn complete(&mut self, number: u64, outcome: &Outcome<'_>) {
        match outcome {
            Outcome::Reply(reply) if reply.error_kind().is_none() => {}
            Outcome::Reply(_) | Outcome::Unknown | Outcome::Unsent => self.again.push(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Distribution, HotSpot};
    use super::*;

    fn mixed(shares: Shares, command: WriteCommand, value_bytes: &str) -> Mixed {
        let mix = Mix {
            shares,
            command,
            naming: Naming::Prefixed(b"key:".to_vec()),
            space: KeySpace::new(10, Distribution::Uniform, HotSpot::default()),
            value_bytes: value_bytes.parse().unwrap(),
        };
        Mixed::new(mix, (0, 1), 9)
    }

    fn next(mixed: &mut Mixed) -> (Class, Then, Vec<Vec<u8>>) {
        let mut out = Vec::new();
        let (class, then) = mixed.next(&mut out).unwrap();
        let Some((Reply::Array(parts), length)) = resp::parse(&out).unwrap() else { panic!() };
        assert_eq!(length, out.len(), "one command");
        let bytes = |part| if let Reply::Bulk(bytes) = part { bytes.to_vec() } else { panic!() };
        (class, then, parts.into_iter().map(bytes).collect())
    }

    #[test]
    fn each_share_is_kept() {
        let shares = Shares { read: 0.3, modify: 0.1, insert: 0.2, scan: 0.15 };
        let mut mixed = mixed(shares, WriteCommand::Incr, "8");
        let mut counts = [0u32; 5];
        for _ in 0..10_000 {
            let (class, then, args) = next(&mut mixed);
            let (kind, is_read) = match (args[0].as_slice(), then) {
                (b"GET", Then::Done) => (0, true),
                (b"GET", Then::Write(_)) => (1, true),
                (b"SET", Then::Done) => (2, false),
                (b"OARLOCK", Then::Done) => (3, true),
                (b"INCR", Then::Done) => (4, false),
                other => panic!("{other:?}"),
            };
            assert_eq!(class == Class::Read, is_read);
            counts[kind] += 1;
        }
        for (count, want) in counts.into_iter().zip([3000, 1000, 2000, 1500, 2500]) {
            assert!(count.abs_diff(want) < 200, "{counts:?}");
        }
    }

    #[test]
    fn a_write_carries_a_value_of_the_wanted_size() {
        for (command, args) in [
            (WriteCommand::Set, 3),
            (WriteCommand::Append, 3),
            (WriteCommand::Incr, 2),
            (WriteCommand::Mset, 21),
        ] {
            let (class, then, sent) = next(&mut mixed(Shares::default(), command, "13"));
            assert_eq!((class, then, sent.len()), (Class::Write, Then::Done, args));
            assert!(sent[1].starts_with(b"key:"));
            assert!(sent.get(2).is_none_or(|value| value.len() == 13), "{sent:?}");
        }
    }

    #[test]
    fn sizes_are_drawn_evenly_between_both_bounds() {
        let mut mixed = mixed(Shares::default(), WriteCommand::Set, "10..13");
        let mut counts = [0u32; 4];
        for _ in 0..10_000 {
            counts[next(&mut mixed).2[2].len() - 10] += 1;
        }
        assert!(counts.iter().all(|n| n.abs_diff(2500) < 250), "{counts:?}");
        let mut fill = Fill::new(Naming::Spread, 0..1000, "10..13".parse::<ValueBytes>().unwrap());
        let mut out = Vec::new();
        while fill.next(&mut out).is_some() {}
        for length in 10..=13 {
            let head = format!("${length}\r\nf");
            assert!(out.windows(head.len()).any(|window| window == head.as_bytes()), "{length}");
        }
    }

    #[test]
    fn what_was_read_to_be_changed_is_written_once_it_is_answered() {
        let shares = Shares { modify: 1.0, ..Shares::default() };
        let mut mixed = mixed(shares, WriteCommand::Set, "8");
        let (_, first, args) = next(&mut mixed);
        let key = args[1].clone();
        let (_, second, args) = next(&mut mixed);
        assert_eq!(args[0], b"GET", "nothing is answered yet");
        mixed.complete(second, &Outcome::Reply(Reply::Error(b"BUSY")));
        mixed.complete(first, &Outcome::Reply(Reply::Nil));
        let (class, then, args) = next(&mut mixed);
        assert_eq!((class, then, &args[0][..]), (Class::Write, Then::Done, &b"SET"[..]));
        assert_eq!(args[1], key);
        assert_eq!(next(&mut mixed).2[0], b"GET", "what was refused is not written");
    }

    #[test]
    fn a_scan_takes_some_keys_from_one_on_and_inserts_take_new_ones() {
        let mut scans = mixed(Shares { scan: 1.0, ..Shares::default() }, WriteCommand::Set, "8");
        for _ in 0..1000 {
            let args = next(&mut scans).2;
            assert_eq!(
                (&args[1][..], &args[3][..], &args[4][..]),
                (&b"SCAN"[..], &b""[..], &b"LIMIT"[..])
            );
            let limit: u64 = std::str::from_utf8(&args[5]).unwrap().parse().unwrap();
            assert!((1..=SCAN_KEYS_MAX).contains(&limit));
        }
        let mut inserts =
            mixed(Shares { insert: 1.0, ..Shares::default() }, WriteCommand::Set, "8");
        assert_eq!(next(&mut inserts).2[1], b"key:10");
        assert_eq!(next(&mut inserts.clone()).2[1], b"key:11", "drivers share the count");
        assert_eq!(next(&mut inserts).2[1], b"key:12");
    }

    #[test]
    fn filling_writes_each_key_until_it_is_acknowledged() {
        let mut fill = Fill::new(Naming::Spread, 0..3, 8usize);
        let mut out = Vec::new();
        let (_, first) = fill.next(&mut out).unwrap();
        fill.complete(first, &Outcome::Unknown);
        let mut written = Vec::new();
        while let Some((_, number)) = fill.next(&mut out) {
            fill.complete(number, &Outcome::Reply(Reply::Simple(b"OK")));
            written.push(number);
        }
        written.sort_unstable();
        assert_eq!(written, [0, 1, 2]);
        assert_eq!(fill.missing(), 0);
    }
}
