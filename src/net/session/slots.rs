//! The commands of one connection that are not answered yet, in the order in which they were sent.
//!
//! Outcomes may come in any order; replies leave in this one. One per connection.

use std::collections::VecDeque;

use bytes::Bytes;
use oarlock_store::Reply;

use super::backend::{Outcome, Refusal};
use super::data::Split;
use super::order::Access;
use super::scan::{KeyScan, RangeScan};
use super::transaction::ExecItem;
use crate::net::resp::writer::reply_bytes;

/// A command that is not answered yet.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) access: Access,
    /// `CLIENT REPLY OFF`: the reply is not sent.
    pub(super) silent: bool,
    /// What the command holds while it waits.
    pub(super) bytes: usize,
}

/// How far a command has come.
#[derive(Debug)]
pub(super) enum State {
    /// Waits for outcomes.
    Waiting(Join),
    /// Has its reply.
    Done(Reply),
    /// Has its reply as bytes.
    Rendered(Vec<u8>),
}

/// How a command's outcomes make its reply.
#[derive(Debug)]
pub(super) enum Join {
    /// The one outcome is the reply.
    One,
    /// The outcomes of several ranges are joined.
    Gather(Gather),
    /// `WATCH` of these keys.
    Watch(Vec<Bytes>),
    /// `EXEC`: replies of the range, with those of the connection in between.
    Exec(Vec<ExecItem>),
    /// `SCAN`.
    Keys(Box<KeyScan>),
    /// `OARLOCK SCAN`.
    Ranges(Box<RangeScan>),
}

/// A command that was split by range.
#[derive(Debug)]
pub(super) struct Gather {
    /// What its parts ask for.
    pub(super) split: Split,
    /// Those that were asked for.
    pub(super) parts: Vec<Part>,
    /// Outcomes that are still to come.
    pub(super) missing: usize,
    pub(super) result: Gathered,
    any_applied: bool,
    refusal: Option<Refusal>,
    error: Option<Reply>,
    /// How often a range was found changed.
    pub(super) moves: u32,
    /// A range that was counted has given keys away, or taken some: perhaps they were counted twice.
    pub(super) must_count_anew: bool,
}

/// The keys of one range and where they stood in the command.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) keys: Vec<Bytes>,
    pub(super) places: Vec<usize>,
}

/// What the parts make together.
#[derive(Debug)]
pub(super) enum Gathered {
    /// The sum of the parts' integers.
    Sum(i64),
    /// The parts' arrays, each element at its place in the command.
    Places(Vec<Reply>),
}

impl Gathered {
    /// Nothing so far.
    pub(super) fn of(split: Split, parts: &[Part]) -> Self {
        match split {
            Split::MGet => {
                Self::Places(vec![Reply::Nil; parts.iter().map(|part| part.places.len()).sum()])
            }
            Split::Exists | Split::Del | Split::Count => Self::Sum(0),
        }
    }
}

/// How far a command that was split has come.
pub(super) enum Progress {
    /// Outcomes are still to come.
    Missing,
    /// All came, and it is to be asked for anew.
    Again,
    /// All came.
    Whole(Outcome),
}

impl Gather {
    pub(super) fn new(split: Split, result: Gathered) -> Self {
        Self {
            split,
            parts: Vec::new(),
            missing: 0,
            result,
            any_applied: false,
            refusal: None,
            error: None,
            moves: 0,
            must_count_anew: false,
        }
    }

    /// Takes one part's outcome.
    pub(super) fn take(&mut self, part: usize, outcome: Outcome) {
        self.missing -= 1;
        match outcome {
            Ok(reply) => {
                self.any_applied = true;
                self.add(part, reply);
            }
            // Of several refusals the uncertain one counts.
            Err(refusal) if self.refusal != Some(Refusal::Unknown) => self.refusal = Some(refusal),
            Err(_) => {}
        }
    }

    pub(super) fn progress(&mut self) -> Progress {
        if self.missing > 0 {
            return Progress::Missing;
        }
        if std::mem::take(&mut self.must_count_anew) && self.refusal.is_none() {
            return Progress::Again;
        }
        // Parts that write and were carried out make a refusal uncertain.
        let writes = matches!(self.split, Split::Del);
        Progress::Whole(match (self.refusal, self.error.take()) {
            (Some(_), _) if writes && self.any_applied => Err(Refusal::Unknown),
            (Some(refusal), _) => Err(refusal),
            (None, Some(error)) => Ok(error),
            (None, None) => Ok(match &mut self.result {
                Gathered::Sum(sum) => Reply::Int(*sum),
                Gathered::Places(replies) => Reply::Array(std::mem::take(replies)),
            }),
        })
    }

    fn add(&mut self, part: usize, reply: Reply) {
        match (&mut self.result, reply) {
            (Gathered::Sum(sum), Reply::Int(number)) => *sum += number,
            (Gathered::Places(replies), Reply::Array(elements)) => {
                for (place, element) in self.parts[part].places.iter().zip(elements) {
                    replies[*place] = element;
                }
            }
            (Gathered::Sum(_) | Gathered::Places(_), other) => self.error = Some(other),
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Slots {
    queue: VecDeque<Slot>,
    /// The number of the first in the queue.
    first: u64,
    bytes: usize,
    reply_bytes: usize,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the commands that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the replies that wait for those before them.
    pub(super) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// The number that the next one gets.
    pub(super) fn next(&self) -> u64 {
        self.first + u64::try_from(self.queue.len()).expect("invariant: a length fits")
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.bytes += slot.bytes;
        self.reply_bytes += slot.state.reply_bytes();
        self.queue.push_back(slot);
    }

    /// The join of a command that waits.
    pub(super) fn waiting(&mut self, number: u64) -> Option<&mut Join> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        match &mut self.queue.get_mut(at)?.state {
            State::Waiting(join) => Some(join),
            State::Done(_) | State::Rendered(_) => None,
        }
    }

    /// Gives a command that waits its reply; returns what it did to which keys.
    pub(super) fn finish(&mut self, number: u64, state: State) -> Access {
        let at = usize::try_from(number - self.first).expect("invariant: it is in the queue");
        let slot = &mut self.queue[at];
        self.bytes -= std::mem::take(&mut slot.bytes);
        self.reply_bytes += state.reply_bytes();
        slot.state = state;
        std::mem::take(&mut slot.access)
    }

    /// Takes the first, if it has its reply.
    pub(super) fn pop_ready(&mut self) -> Option<Slot> {
        if matches!(self.queue.front()?.state, State::Waiting(_)) {
            return None;
        }
        let slot = self.queue.pop_front()?;
        self.first += 1;
        self.reply_bytes -= slot.state.reply_bytes();
        self.bytes -= slot.bytes;
        Some(slot)
    }
}

impl State {
    fn reply_bytes(&self) -> usize {
        match self {
            Self::Waiting(_) => 0,
            Self::Done(reply) => reply_bytes(reply),
            Self::Rendered(bytes) => bytes.len(),
        }
    }
}
