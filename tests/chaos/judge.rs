//! Judges what was recorded: whether it could have come from one copy, and how long clients went
//! without an answer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use oarlock_sim::linearizability::{Action, Answer, Operation, check};

/// How long a history may take. A correct one takes a moment; the search for an explanation that
/// does not exist may take for ever.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(120);

/// Whether a range's history is that of one copy; if not, the report.
///
/// Each key is judged alone first: what a cut-down history cannot explain the whole cannot, and the
/// small search gives the shorter report.
pub(crate) fn judge(history: &[Operation]) -> Result<(), String> {
    let keys: BTreeSet<&Bytes> = history.iter().flat_map(|op| keys(&op.action)).collect();
    let mut all: Vec<Vec<Operation>> = keys.iter().map(|key| of_key(history, key)).collect();
    all.push(history.to_vec());
    for part in all {
        let size = part.len();
        let (verdict, told) = mpsc::channel();
        std::thread::spawn(move || verdict.send(check(&part).map_err(|found| found.report)).ok());
        told.recv_timeout(VERDICT_TIMEOUT)
            .map_err(|_| format!("no verdict on {size} operations within {VERDICT_TIMEOUT:?}"))??;
    }
    Ok(())
}

fn keys(action: &Action) -> Vec<&Bytes> {
    match action {
        Action::Read(keys) => keys.iter().collect(),
        Action::Scan(..) => Vec::new(),
        Action::Write(pairs) => pairs.iter().map(|(key, _)| key).collect(),
        Action::Delete(key) | Action::Append(key, _) | Action::Add(key, _) => vec![key],
        Action::Swap { key, .. } => vec![key],
    }
}

/// What a history says of one key.
pub(crate) fn of_key(history: &[Operation], key: &Bytes) -> Vec<Operation> {
    history.iter().filter_map(|operation| cut_down(operation, key)).collect()
}

fn cut_down(operation: &Operation, key: &Bytes) -> Option<Operation> {
    let mut operation = operation.clone();
    match &mut operation.action {
        Action::Read(keys) => {
            let at = keys.iter().position(|read| read == key)?;
            *keys = vec![key.clone()];
            if let Some((_, Answer::Values(values))) = &mut operation.answer {
                *values = vec![values[at].clone()];
            }
        }
        Action::Scan(from, to) => {
            let inside = *from <= *key && to.as_ref().is_none_or(|to| key < to);
            if !inside {
                return None;
            }
            if let Some((_, Answer::Pairs(pairs))) = &operation.answer {
                let value = pairs.iter().find(|(found, _)| found == key);
                let answer = Answer::Values(vec![value.map(|(_, value)| value.clone())]);
                operation.answer = operation.answer.as_ref().map(|(at, _)| (*at, answer));
            }
            operation.action = Action::Read(vec![key.clone()]);
        }
        Action::Write(pairs) => {
            pairs.retain(|(written, _)| written == key);
            if pairs.is_empty() {
                return None;
            }
        }
        Action::Delete(_) | Action::Append(..) | Action::Add(..) | Action::Swap { .. } => {
            if keys(&operation.action) != [key] {
                return None;
            }
        }
    }
    Some(operation)
}

/// Alters one answer of a good history of one key so that it is stale: a read gives a value that
/// had been overwritten before it was asked. Tells which; `None` if no read lends itself to it.
pub(crate) fn make_stale(history: &mut [Operation]) -> Option<String> {
    // When each value was surely there, by writes that were answered.
    let written = |operation: &Operation| match (&operation.action, &operation.answer) {
        (Action::Write(pairs), Some((answered, _))) => {
            Some((operation.called_at, *answered, pairs[0].1.clone()))
        }
        _ => None,
    };
    let writes: Vec<(u64, u64, Bytes)> = history.iter().filter_map(written).collect();
    for (at, operation) in history.iter_mut().enumerate().rev() {
        let called_at = operation.called_at;
        let (Action::Read(_), Some((_, Answer::Values(values)))) =
            (&operation.action, &mut operation.answer)
        else {
            continue;
        };
        let Some(Some(fresh)) = values.first() else { continue };
        let by = writes.iter().find(|(_, answered, value)| value == fresh && *answered < called_at);
        let Some((overwritten_at, ..)) = by else { continue };
        let old = writes.iter().rev().find(|(_, answered, _)| answered < overwritten_at);
        let Some((_, _, old)) = old else { continue };
        let told = format!("#{at} read {fresh:?}, now {old:?}");
        *values = vec![Some(old.clone())];
        return Some(told);
    }
    None
}

/// The longest time between two answers of a history.
pub(crate) fn longest_silence(history: &[Operation]) -> Duration {
    let answered = |operation: &Operation| operation.answer.as_ref().map(|(at, _)| *at);
    let mut times: Vec<u64> = history.iter().filter_map(answered).collect();
    times.extend(history.first().map(|operation| operation.called_at));
    times.sort_unstable();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
    Duration::from_nanos(longest.unwrap_or(0))
}

/// Writes a history down, one operation a line, by the time of its call in nanoseconds.
pub(crate) fn keep(history: &[Operation], file: &Path) {
    let line = |(at, operation): (usize, &Operation)| {
        let Operation { client, called_at, action, answer } = operation;
        let told = answer
            .as_ref()
            .map_or_else(|| "not known".to_owned(), |(at, answer)| format!("{answer:?} at {at}"));
        format!("#{at} client {client} called at {called_at}: {action:?} -> {told}\n")
    };
    let text: String = history.iter().enumerate().map(line).collect();
    std::fs::write(file, text).unwrap();
}

/// Alters a good history of one key so that an acknowledged write is gone: one is added at the end,
/// and a read behind it that finds nothing.
pub(crate) fn lose_the_last_write(history: &mut Vec<Operation>, key: &Bytes) {
    let answered = history.iter().filter_map(|op| op.answer.as_ref().map(|(at, _)| *at)).max();
    let end = answered.unwrap_or(0);
    let operation = |at: u64, action: Action, answer: Answer| Operation {
        client: 0,
        called_at: end + at,
        action,
        answer: Some((end + at + 1, answer)),
    };
    let write = Action::Write(vec![(key.clone(), Bytes::from_static(b"acknowledged"))]);
    history.push(operation(1, write, Answer::Done));
    let read = Action::Read(vec![key.clone()]);
    history.push(operation(3, read, Answer::Values(vec![None])));
}
