//! The commands that change nothing. One store at a time.
//!
//! They must not see a key that has expired as of the time they are given, even if it is still held.

use bytes::Bytes;
use oarlock_types::WallMs;

use crate::command::Command;
use crate::key::Key;
use crate::map::Slot;
use crate::reply::Reply;
use crate::store::Store;

/// A scan stops behind this many bytes of keys and values.
const SCAN_BYTES_MAX: usize = 1 << 20;

/// The arguments of a scan.
struct Scan<'a> {
    start: &'a [u8],
    end: Option<&'a [u8]>,
    limit: u32,
    reverse: bool,
    values: bool,
}

impl Store {
    /// The reply to a command that changes nothing, as of `now`; `None` for one that may.
    pub(crate) fn query(&self, command: &Command, now: WallMs) -> Option<Reply> {
        let value = |key: &Bytes| self.live(key, now).map(|slot| slot.value.clone());
        let reply = match command {
            Command::Get { key } => bulk(value(key)),
            Command::GetRange { key, start, end } => {
                Reply::Bulk(value(key).map_or_else(Bytes::new, |v| get_range(&v, *start, *end)))
            }
            Command::StrLen { key } => count(self.live(key, now).map_or(0, |s| s.value.len())),
            Command::Exists { keys } => {
                count(keys.iter().filter(|key| self.live(key, now).is_some()).count())
            }
            Command::MGet { keys } => {
                Reply::Array(keys.iter().map(|key| bulk(value(key))).collect())
            }
            Command::Ttl { key, in_ms } => Reply::Int(self.ttl(key, *in_ms, now)),
            Command::Type { key } => {
                let name = if self.live(key, now).is_some() { "string" } else { "none" };
                Reply::Simple(name.to_owned())
            }
            Command::Version { key } => {
                Reply::Int(i64::try_from(self.version(key, now)).unwrap_or(i64::MAX))
            }
            Command::Count => count(self.live_count(now)),
            Command::Scan { start, end, limit, reverse, values } => {
                let (end, limit) = (end.as_deref(), *limit);
                self.scan(&Scan { start, end, limit, reverse: *reverse, values: *values }, now)
            }
            Command::Set { .. }
            | Command::SetNx { .. }
            | Command::GetDel { .. }
            | Command::GetEx { .. }
            | Command::MSet { .. }
            | Command::MSetNx { .. }
            | Command::Del { .. }
            | Command::Append { .. }
            | Command::SetRange { .. }
            | Command::IncrBy { .. }
            | Command::IncrByFloat { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Cas { .. }
            | Command::Order(_)
            | Command::Absorb(_) => return None,
        };
        Some(reply)
    }

    /// The key's version; zero if it is not there.
    pub(crate) fn version(&self, key: &[u8], now: WallMs) -> u64 {
        self.live(key, now).map_or(0, |slot| slot.version)
    }

    fn ttl(&self, key: &[u8], in_ms: bool, now: WallMs) -> i64 {
        let Some(slot) = self.live(key, now) else { return -2 };
        let Some(at) = slot.expires else { return -1 };
        let left_ms = at.0 - now.0;
        let left = if in_ms { left_ms } else { left_ms.saturating_add(500) / 1000 };
        i64::try_from(left).unwrap_or(i64::MAX)
    }

    fn scan(&self, scan: &Scan<'_>, now: WallMs) -> Reply {
        let range = self.map.range(scan.start, scan.end);
        let entries = range.filter(|(_, slot)| !slot.is_expired(now));
        if scan.reverse { collect(entries.rev(), scan) } else { collect(entries, scan) }
    }
}

fn collect<'a>(entries: impl Iterator<Item = (&'a Key, &'a Slot)>, scan: &Scan<'_>) -> Reply {
    let mut replies = Vec::new();
    let mut bytes = 0;
    let limit = usize::try_from(scan.limit).unwrap_or(usize::MAX);
    for (key, slot) in entries.take(limit) {
        replies.push(Reply::Bulk(key.to_bytes()));
        bytes += key.len();
        if scan.values {
            replies.push(Reply::Bulk(slot.value.clone()));
            bytes += slot.value.len();
        }
        if bytes >= SCAN_BYTES_MAX {
            break;
        }
    }
    Reply::Array(replies)
}

/// `GETRANGE` with Redis's own reading of offsets: `0 -100` of a short value is its first byte.
fn get_range(value: &Bytes, start: i64, end: i64) -> Bytes {
    let length = i64::try_from(value.len()).expect("invariant: values are shorter than 8 EiB");
    if length == 0 || (start < 0 && end < 0 && start > end) {
        return Bytes::new();
    }
    let from_end = |offset: i64| if offset < 0 { (length + offset).max(0) } else { offset };
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end => value.slice(start..=end),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => Bytes::new(),
    }
}

/// A bulk string or nil.
pub(crate) fn bulk(value: Option<Bytes>) -> Reply {
    value.map_or(Reply::Nil, Reply::Bulk)
}

/// A length or number of keys as a reply.
pub(crate) fn count(n: usize) -> Reply {
    Reply::Int(i64::try_from(n).unwrap_or(i64::MAX))
}
