//! What a driver sends, and who hears the outcome. One workload per driver, on its thread.
//! A workload writes commands and judges replies; it knows no socket and no clock.

use oarlock_types::Random;

use super::keys::{Chooser, Distribution, Naming};
use super::resp::{self, Reply};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
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

/// Reads and writes over numbered keys, in random order.
#[derive(Clone, Debug)]
pub struct Mixed {
    command: WriteCommand,
    read_share: f64,
    naming: Naming,
    chooser: Chooser,
    value: Vec<u8>,
    key: Vec<u8>,
}

impl Mixed {
    /// Among `keys` keys, a `read_share` of `GET`s, the rest `command` with `value_bytes`.
    #[must_use]
    pub fn new(
        command: WriteCommand,
        read_share: f64,
        naming: Naming,
        (keys, distribution): (u64, Distribution),
        value_bytes: usize,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let mut value = Vec::with_capacity(value_bytes + 8);
        while value.len() < value_bytes {
            value.extend(random.next_u64().to_be_bytes().map(|byte| b'a' + byte % 26));
        }
        value.truncate(value_bytes);
        let chooser = Chooser::new(keys, distribution, random.next_u64());
        Self { command, read_share, naming, chooser, value, key: Vec::new() }
    }

    fn choose(&mut self) -> &[u8] {
        let number = self.chooser.choose();
        self.naming.write(number, &mut self.key);
        &self.key
    }
}

/// Keys of one `MSET`.
const MSET_KEYS: usize = 10;

impl Workload for Mixed {
    type Token = ();

    fn next(&mut self, out: &mut Vec<u8>) -> Option<(Class, ())> {
        if self.read_share > 0.0 && self.chooser.unit() < self.read_share {
            resp::command(out, &[b"GET", self.choose()]);
            return Some((Class::Read, ()));
        }
        if self.command == WriteCommand::Ping {
            resp::command(out, &[b"PING"]);
            return Some((Class::Read, ()));
        }
        self.choose();
        match self.command {
            WriteCommand::Set => resp::command(out, &[b"SET", &self.key, &self.value]),
            WriteCommand::Incr => resp::command(out, &[b"INCR", &self.key]),
            WriteCommand::Append => resp::command(out, &[b"APPEND", &self.key, &self.value]),
            WriteCommand::Del => resp::command(out, &[b"DEL", &self.key]),
            WriteCommand::Mset => {
                resp::begin(out, 1 + 2 * MSET_KEYS);
                resp::argument(out, b"MSET");
                for _ in 0..MSET_KEYS {
                    self.choose();
                    resp::argument(out, &self.key);
                    resp::argument(out, &self.value);
                }
            }
            WriteCommand::Ping => {}
        }
        Some((Class::Write, ()))
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn complete(&mut self, (): (), _outcome: &Outcome<'_>) {}
}

/// `SET`s every numbered key once, in order; a key whose write failed is tried again.
#[derive(Clone, Debug)]
pub struct Fill {
    naming: Naming,
    numbers: std::ops::Range<u64>,
    again: Vec<u64>,
    attempts_left: u64,
    value: Vec<u8>,
    key: Vec<u8>,
}

impl Fill {
    /// Over the keys of these numbers.
    #[must_use]
    pub fn new(naming: Naming, numbers: std::ops::Range<u64>, value_bytes: usize) -> Self {
        let attempts_left = (numbers.end - numbers.start) * 2 + 1000;
        let value = vec![b'f'; value_bytes];
        Self { naming, numbers, again: Vec::new(), attempts_left, value, key: Vec::new() }
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
        resp::command(out, &[b"SET", &self.key, &self.value]);
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
    use super::*;

    #[test]
    fn the_read_share_is_kept() {
        let mut mixed = Mixed::new(
            WriteCommand::Set,
            0.3,
            Naming::Spread,
            (100, Distribution::Uniform),
            128,
            9,
        );
        let mut out = Vec::new();
        let reads = (0..10_000)
            .filter(|_| mixed.next(&mut out).is_some_and(|(class, ())| class == Class::Read))
            .count();
        assert!((2_800..3_200).contains(&reads), "{reads} of 10000");
    }

    #[test]
    fn a_write_carries_a_value_of_the_wanted_size() {
        let naming = Naming::Prefixed(b"key:".to_vec());
        for (command, head) in [
            (WriteCommand::Set, &b"*3\r\n$3\r\nSET\r\n$5\r\nkey:0\r\n$13\r\n"[..]),
            (WriteCommand::Incr, b"*2\r\n$4\r\nINCR\r\n$5\r\nkey:0\r\n"),
            (WriteCommand::Mset, b"*21\r\n$4\r\nMSET\r\n$5\r\nkey:0\r\n$13\r\n"),
        ] {
            let choice = (1, Distribution::Uniform);
            let mut mixed = Mixed::new(command, 0.0, naming.clone(), choice, 13, 9);
            let mut out = Vec::new();
            assert_eq!(mixed.next(&mut out), Some((Class::Write, ())));
            assert!(out.starts_with(head), "{}", String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn filling_writes_each_key_until_it_is_acknowledged() {
        let mut fill = Fill::new(Naming::Spread, 0..3, 8);
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
