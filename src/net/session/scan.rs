//! `SCAN` and `OARLOCK SCAN`: one range after the other, each as of one moment.
//!
//! `SCAN` keeps Redis's guarantee: a key that is there from the beginning to the end of an iteration
//! is returned, because the place moves on in key order and only behind what has been looked at. Which
//! range is next is looked up when it is its turn; one that has changed meanwhile is looked up again.

use bytes::Bytes;
use oarlock_store::{Command, Reply, Request};

use super::backend::{KeyRange, Outcome, Refusal, Ticket};
use super::order::Access;
use super::slots::Join;
use super::{Host, Session};
use crate::net::commands::{RangeScanArgs, ScanArgs, glob};

/// A range may have cut its answer short if it has so many bytes (it does so at 1 MiB).
const CUT_BYTES: usize = 512 << 10;
/// Ranges that one `SCAN` asks, one after the other, before it gives a cursor.
const HOPS_MAX: u32 = 64;
/// How often the range at one place may have changed before the client is told to try again.
const MOVES_MAX: u32 = 16;
/// Bytes of keys and values after which `OARLOCK SCAN` returns fewer than it was asked for.
const REPLY_BYTES_MAX: usize = 8 << 20;

/// A `SCAN` under way.
#[derive(Debug)]
pub(super) struct KeyScan {
    /// The next key that may be returned.
    position: Bytes,
    /// No match lies at or behind this key.
    end: Option<Bytes>,
    pattern: Option<Bytes>,
    /// Keys that are still to be looked at.
    left: u32,
    found: Vec<Reply>,
    hops: u32,
    moves: u32,
    /// The end of the piece that is being asked for.
    piece_end: Option<Bytes>,
}

/// What to do after a range has answered.
enum Next {
    /// Ask for the piece at the position.
    Ask,
    /// Answer; the iteration goes on at the position.
    Pause,
    /// Answer; the iteration is over.
    End,
}

impl KeyScan {
    /// Takes a range's keys.
    fn take(&mut self, keys: Vec<Reply>) -> Next {
        self.moves = 0;
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let bytes: usize = keys.iter().map(bulk_bytes).sum();
        let cut = count >= self.left || bytes >= CUT_BYTES;
        let last = keys.last().map(|key| successor(bulk_of(key)));
        self.left = self.left.saturating_sub(count);
        let pattern = self.pattern.as_deref();
        let fits = |key: &Reply| pattern.is_none_or(|pattern| glob::matches(pattern, bulk_of(key)));
        self.found.extend(keys.into_iter().filter(fits));
        match (cut, last) {
            (true, Some(next)) => {
                self.position = next;
                Next::Pause
            }
            (true | false, _) => match self.piece_end.take() {
                None => Next::End,
                Some(end) if self.end.as_ref() == Some(&end) => Next::End,
                Some(end) => {
                    self.position = end;
                    if self.hops >= HOPS_MAX { Next::Pause } else { Next::Ask }
                }
            },
        }
    }
}

/// An `OARLOCK SCAN` under way.
#[derive(Debug)]
pub(super) struct RangeScan {
    /// What is still to be read; nothing any more once it is empty.
    start: Bytes,
    end: Option<Bytes>,
    reverse: bool,
    /// Keys that are still to be returned.
    left: u32,
    bytes: usize,
    found: Vec<Reply>,
    moves: u32,
    /// The piece that is being asked for: of one range, as far as is known.
    piece: KeyRange,
}

impl RangeScan {
    fn is_over(&self) -> bool {
        let nothing_left = self.end.as_ref().is_some_and(|end| self.start >= *end);
        nothing_left || self.left == 0 || self.bytes >= REPLY_BYTES_MAX
    }

    /// Takes a range's keys and values.
    fn take(&mut self, entries: Vec<Reply>) {
        self.moves = 0;
        let count = u32::try_from(entries.len() / 2).unwrap_or(u32::MAX);
        let bytes: usize = entries.iter().map(bulk_bytes).sum();
        let last = entries.iter().rev().nth(1).map(|key| Bytes::copy_from_slice(bulk_of(key)));
        self.left = self.left.saturating_sub(count);
        self.bytes += bytes;
        self.found.extend(entries);
        // What was cut goes on behind its last key, else the whole piece was read.
        let last = last.filter(|_| bytes >= CUT_BYTES);
        if self.reverse {
            self.end = Some(last.unwrap_or_else(|| self.piece.start.clone()));
        } else if let Some(last) = last {
            self.start = successor(&last);
        } else if let Some(end) = self.piece.end.clone() {
            self.start = end;
        } else {
            self.left = 0;
        }
    }
}

impl Session {
    pub(super) fn start_scan(&mut self, args: ScanArgs, access: Access, host: &mut Host<'_>) {
        let from = match args.cursor {
            0 => Bytes::new(),
            cursor => host.core.cursors.place(cursor),
        };
        let prefix = args.pattern.as_deref().map(glob::literal_prefix).unwrap_or_default();
        let end = after_prefix(&prefix);
        let position = from.max(Bytes::from(prefix));
        let nothing_left = end.as_ref().is_some_and(|end| position >= *end);
        if !args.strings || nothing_left {
            let reply = scan_reply(0, Vec::new());
            return self.answer_reply(reply);
        }
        let scan = KeyScan {
            position,
            end,
            pattern: args.pattern,
            left: args.count,
            found: Vec::new(),
            hops: 0,
            moves: 0,
            piece_end: None,
        };
        let ticket = self.wait(Join::Keys(Box::new(scan)), access, 0);
        self.ask_for_keys(ticket, host);
    }

    fn ask_for_keys(&mut self, ticket: Ticket, host: &mut Host<'_>) {
        let Some(Join::Keys(scan)) = self.slots.waiting(ticket.slot) else { return };
        let bounds = host.backend.bounds_of(&scan.position);
        let end = earlier(bounds.end, scan.end.clone());
        scan.piece_end.clone_from(&end);
        scan.hops += 1;
        let command = Command::Scan {
            start: scan.position.clone(),
            end,
            limit: scan.left,
            reverse: false,
            values: false,
        };
        let position = scan.position.clone();
        host.backend.submit(self.id, ticket, &position, Request::one(command));
    }

    pub(super) fn continue_scan(&mut self, ticket: Ticket, outcome: Outcome, host: &mut Host<'_>) {
        let Some(Join::Keys(scan)) = self.slots.waiting(ticket.slot) else { return };
        let next = match outcome {
            Ok(Reply::Array(keys)) => scan.take(keys),
            Err(Refusal::Moved) if scan.moves < MOVES_MAX => {
                scan.moves += 1;
                Next::Ask
            }
            other => return self.finish_outcome(ticket.slot, other),
        };
        let cursor = match next {
            Next::Ask => return self.ask_for_keys(ticket, host),
            Next::Pause => host.core.cursors.insert(scan.position.clone()),
            Next::End => 0,
        };
        let reply = scan_reply(cursor, std::mem::take(&mut scan.found));
        self.finish_outcome(ticket.slot, Ok(reply));
    }

    pub(super) fn start_range_scan(
        &mut self,
        args: RangeScanArgs,
        access: Access,
        host: &mut Host<'_>,
    ) {
        let RangeScanArgs { start, end, limit, reverse } = args;
        let scan = RangeScan {
            piece: KeyRange { start: start.clone(), end: end.clone() },
            start,
            end,
            reverse,
            left: limit,
            bytes: 0,
            found: Vec::new(),
            moves: 0,
        };
        if scan.is_over() {
            return self.answer_reply(Reply::Array(Vec::new()));
        }
        let ticket = self.wait(Join::Ranges(Box::new(scan)), access, 0);
        self.ask_for_piece(ticket, host);
    }

    fn ask_for_piece(&mut self, ticket: Ticket, host: &mut Host<'_>) {
        let Some(Join::Ranges(scan)) = self.slots.waiting(ticket.slot) else { return };
        let bounds = if scan.reverse {
            host.backend.bounds_before(scan.end.as_deref())
        } else {
            host.backend.bounds_of(&scan.start)
        };
        let start = bounds.start.max(scan.start.clone());
        let end = earlier(bounds.end, scan.end.clone());
        scan.piece = KeyRange { start: start.clone(), end: end.clone() };
        let (limit, reverse) = (scan.left, scan.reverse);
        let command = Command::Scan { start: start.clone(), end, limit, reverse, values: true };
        host.backend.submit(self.id, ticket, &start, Request::one(command));
    }

    pub(super) fn continue_range_scan(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        host: &mut Host<'_>,
    ) {
        let Some(Join::Ranges(scan)) = self.slots.waiting(ticket.slot) else { return };
        match outcome {
            Ok(Reply::Array(entries)) => scan.take(entries),
            Err(Refusal::Moved) if scan.moves < MOVES_MAX => scan.moves += 1,
            other => return self.finish_outcome(ticket.slot, other),
        }
        if scan.is_over() {
            let reply = Reply::Array(std::mem::take(&mut scan.found));
            self.finish_outcome(ticket.slot, Ok(reply));
        } else {
            self.ask_for_piece(ticket, host);
        }
    }
}

fn scan_reply(cursor: u64, keys: Vec<Reply>) -> Reply {
    Reply::Array(vec![Reply::Bulk(Bytes::from(cursor.to_string())), Reply::Array(keys)])
}

fn bulk_of(reply: &Reply) -> &[u8] {
    match reply {
        Reply::Bulk(bytes) => bytes,
        Reply::Ok
        | Reply::Simple(_)
        | Reply::Nil
        | Reply::Int(_)
        | Reply::Array(_)
        | Reply::Error(_) => &[],
    }
}

fn bulk_bytes(reply: &Reply) -> usize {
    bulk_of(reply).len()
}

/// The first key behind `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    Bytes::from(next)
}

/// The first key behind all that begin with `prefix`; `None`: there is none.
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(Bytes::from(end))
}

/// The earlier of two ends, where none is the latest.
fn earlier(a: Option<Bytes>, b: Option<Bytes>) -> Option<Bytes> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(after_prefix(b"user:").as_deref(), Some(&b"user;"[..]));
        assert_eq!(after_prefix(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
