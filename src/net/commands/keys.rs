//! Which keys a command touches. Pure.

use bytes::Bytes;
use oarlock_store::{Command, Order};

/// Calls `visit` with each key of `command`, in order. `Count` and `Scan` name none.
pub fn for_each<'a>(command: &'a Command, mut visit: impl FnMut(&'a Bytes)) {
    match command {
        Command::Exists { keys } | Command::MGet { keys } | Command::Del { keys } => {
            keys.iter().for_each(visit);
        }
        Command::MSet { pairs } | Command::MSetNx { pairs } => {
            pairs.iter().for_each(|(key, _)| visit(key));
        }
        Command::Get { key }
        | Command::GetRange { key, .. }
        | Command::StrLen { key }
        | Command::Ttl { key, .. }
        | Command::Type { key }
        | Command::Version { key }
        | Command::Set { key, .. }
        | Command::SetNx { key, .. }
        | Command::GetDel { key }
        | Command::GetEx { key, .. }
        | Command::Append { key, .. }
        | Command::SetRange { key, .. }
        | Command::IncrBy { key, .. }
        | Command::IncrByFloat { key, .. }
        | Command::Expire { key, .. }
        | Command::Persist { key }
        | Command::Cas { key, .. }
        | Command::Order(Order::Split { at: key }) => visit(key),
        Command::Count
        | Command::Scan { .. }
        | Command::Order(
            Order::Place { .. }
            | Order::Transfer { .. }
            | Order::Report { .. }
            | Order::Explain { .. },
        ) => {}
    }
}

/// The first key of `command`.
#[must_use]
pub fn first(command: &Command) -> Option<&Bytes> {
    let mut first = None;
    for_each(command, |key| {
        first.get_or_insert(key);
    });
    first
}

/// About how many bytes `command` holds while it waits.
#[must_use]
pub fn held_bytes(command: &Command) -> usize {
    let mut bytes = size_of::<Command>();
    for_each(command, |key| bytes += key.len() + size_of::<Bytes>());
    bytes
        + match command {
            Command::Set { value, .. }
            | Command::SetNx { value, .. }
            | Command::Append { value, .. }
            | Command::SetRange { value, .. } => value.len(),
            Command::MSet { pairs } | Command::MSetNx { pairs } => {
                pairs.iter().map(|(_, value)| value.len()).sum()
            }
            Command::Cas { expected, new, .. } => {
                new.len() + expected.as_ref().map_or(0, Bytes::len)
            }
            Command::Get { .. }
            | Command::GetRange { .. }
            | Command::StrLen { .. }
            | Command::Exists { .. }
            | Command::MGet { .. }
            | Command::Ttl { .. }
            | Command::Type { .. }
            | Command::Version { .. }
            | Command::Count
            | Command::Scan { .. }
            | Command::GetDel { .. }
            | Command::GetEx { .. }
            | Command::Del { .. }
            | Command::IncrBy { .. }
            | Command::IncrByFloat { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Order(_) => 0,
        }
}

/// Whether `command` has a list of keys (perhaps of one).
#[must_use]
pub fn several(command: &Command) -> bool {
    matches!(
        command,
        Command::Exists { .. }
            | Command::MGet { .. }
            | Command::Del { .. }
            | Command::MSet { .. }
            | Command::MSetNx { .. }
    )
}
