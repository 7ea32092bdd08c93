//! How much a command holds while it waits. Pure.

use bytes::Bytes;
use oarlock_store::Command;

/// About how many bytes `command` holds while it waits.
#[must_use]
pub fn held_bytes(command: &Command) -> usize {
    let keys = command.keys().iter().map(|key| key.len() + size_of::<Bytes>());
    size_of::<Command>()
        + keys.sum::<usize>()
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
            Command::Absorb(absorb) => absorb.contents.len(),
        }
}
