//! What clients were told of writes that a cluster has lost with a quorum: that is taken out of the histories, and
//! with it the reads that can have seen it. All else stays, and must be there from then on.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_codec::commands;
use oarlock_raft::Payload;
use oarlock_store::{Batch, Command, Request};
use oarlock_types::GroupId;

use super::{Clients, Entry};
use crate::linearizability::{Action, Operation};

/// What was on its way to a client when the survivors were stopped has arrived after so long.
const HEARD_WITHIN_US: u64 = 1000;

impl Clients {
    /// These entries are lost: clients hear of them no more, but of what was on its way.
    pub(crate) fn lose(&mut self, lost: &[(GroupId, Payload)], now: u64) {
        for (_, payload) in lost {
            if let Payload::Commands(_) | Payload::Packed(_) = payload {
                let Batch { requests, .. } = commands::batch(payload).expect("an entry of ours");
                let numbers = requests.iter().flat_map(numbers);
                self.lost.extend(numbers.map(|number| (number, now + HEARD_WITHIN_US)));
            }
        }
    }

    /// A history without what is lost.
    pub(super) fn kept(&self, entries: &[Entry]) -> Vec<Entry> {
        let lost = |entry: &Entry| self.lost.get(&entry.number).copied();
        // From when to when a read can have seen a key's lost values.
        let mut seen: BTreeMap<&Bytes, (u64, u64)> = BTreeMap::new();
        for entry in entries {
            let Some(until) = lost(entry) else { continue };
            for key in written(&entry.operation.action) {
                let span = seen.entry(key).or_insert((u64::MAX, 0));
                *span = (span.0.min(entry.operation.called_at), span.1.max(until));
            }
        }
        let has_seen = |operation: &Operation| {
            let at = operation.answer.as_ref().map_or(u64::MAX, |(at, _)| *at);
            let mut seen = seen.iter().filter(|(_, (from, until))| (*from..=*until).contains(&at));
            seen.any(|(key, _)| reads(&operation.action, key))
        };
        let counts = entries.iter().filter(|entry| entry.was_applied != Some(false));
        // What has no id was sent once: with its entry it is gone, and comes back never.
        let is_gone = |entry: &&Entry| lost(entry).is_some() && !has_id(&entry.operation.action);
        let kept = counts.filter(|entry| !has_seen(&entry.operation) && !is_gone(entry));
        kept.map(|entry| {
            let mut kept = entry.clone();
            // Its answer is void; it may be there all the same if it was sent more than once.
            let is_void =
                |until| kept.operation.answer.as_ref().is_some_and(|(at, _)| *at <= until);
            if lost(entry).is_some_and(is_void) {
                kept.operation.answer = None;
            }
            kept
        })
        .collect()
    }
}

/// The numbers of the operations that a request stands for.
pub(super) fn numbers(request: &Request) -> Vec<u64> {
    let number = |bytes: &Bytes, prefix: &str| -> Option<u64> {
        std::str::from_utf8(bytes).ok()?.strip_prefix(prefix)?.parse().ok()
    };
    let id = request.once.iter().filter_map(|id| number(id, "id"));
    let mut all: Vec<u64> = id.collect();
    for command in &request.commands {
        if let Command::Set { value, .. }
        | Command::Append { value, .. }
        | Command::Cas { new: value, .. } = command
        {
            all.extend(number(value, "v"));
        } else if let Command::MSet { pairs } = command {
            all.extend(pairs.iter().filter_map(|(_, value)| number(value, "v")));
        }
    }
    all
}

/// Whether clients may send an operation again, under its id.
pub(super) fn has_id(action: &Action) -> bool {
    matches!(action, Action::Add(..) | Action::Delete(_))
}

/// The keys that an operation writes.
fn written(action: &Action) -> Vec<&Bytes> {
    match action {
        Action::Read(_) | Action::Scan(..) => Vec::new(),
        Action::Write(pairs) => pairs.iter().map(|(key, _)| key).collect(),
        Action::Delete(key)
        | Action::Append(key, _)
        | Action::Add(key, _)
        | Action::Swap { key, .. } => vec![key],
    }
}

/// Whether an operation does nothing but read, a key among others.
fn reads(action: &Action, key: &Bytes) -> bool {
    match action {
        Action::Read(keys) => keys.contains(key),
        Action::Scan(start, end) => key >= start && end.as_ref().is_none_or(|end| key < end),
        Action::Write(_)
        | Action::Delete(_)
        | Action::Append(..)
        | Action::Add(..)
        | Action::Swap { .. } => false,
    }
}
