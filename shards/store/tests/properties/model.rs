//! What a range must answer, said as simply as possible: Redis's meaning over a plain map, with
//! everything that has expired removed at once.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "each function of the model deals with the commands that it names"
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_store::{Command, ErrorReply, ExpireCondition, Expiry, Reply, Request, SetCondition};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    pub(crate) expires: Option<u64>,
    pub(crate) version: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) keys: BTreeMap<Vec<u8>, Entry>,
    pub(crate) once: BTreeMap<Vec<u8>, Reply>,
    changes: u64,
}

pub(crate) const VALUE_MAX: usize = 64;

fn int(n: usize) -> Reply {
    Reply::Int(i64::try_from(n).expect("small"))
}

fn bulk(value: &[u8]) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(value))
}

fn flag(yes: bool) -> Reply {
    Reply::Int(i64::from(yes))
}

impl Model {
    pub(crate) fn advance(&mut self, stamp: u64) {
        self.now = self.now.max(stamp);
        let now = self.now;
        self.keys.retain(|_, entry| entry.expires.is_none_or(|at| at > now));
    }

    pub(crate) fn version(&self, key: &[u8]) -> u64 {
        self.keys.get(key).map_or(0, |entry| entry.version)
    }

    /// `watched`: what the request watches, with this model's versions of then.
    pub(crate) fn request(&mut self, request: &Request, watched: &[(Bytes, u64)]) -> Reply {
        if let Some(kept) = request.once.as_ref().and_then(|id| self.once.get(id.as_ref())) {
            return kept.clone();
        }
        let reply = if watched.iter().any(|(key, version)| self.version(key) != *version) {
            Reply::Nil
        } else {
            let mut replies: Vec<_> = request.commands.iter().map(|c| self.command(c)).collect();
            if request.transaction { Reply::Array(replies) } else { replies.pop().expect("one") }
        };
        if let Some(id) = &request.once {
            self.once.insert(id.to_vec(), reply.clone());
        }
        reply
    }

    fn get(&self, key: &[u8]) -> Option<&Vec<u8>> {
        self.keys.get(key).map(|entry| &entry.value)
    }

    fn value(&self, key: &[u8]) -> Reply {
        self.get(key).map_or(Reply::Nil, |value| bulk(value))
    }

    fn expiry_of(&self, key: &[u8]) -> Option<u64> {
        self.keys.get(key).and_then(|entry| entry.expires)
    }

    fn put(&mut self, key: &[u8], value: &[u8], expires: Option<u64>) {
        self.changes += 1;
        if expires.is_some_and(|at| at <= self.now) {
            self.keys.remove(key);
            return;
        }
        let entry = Entry { value: value.to_vec(), expires, version: self.changes };
        self.keys.insert(key.to_vec(), entry);
    }

    fn instant(&self, expiry: Expiry, old: Option<u64>) -> Option<u64> {
        let clamp = |at: i64| Some(u64::try_from(at).unwrap_or(0));
        match expiry {
            Expiry::None => None,
            Expiry::Keep => old,
            Expiry::In(ms) => clamp(i64::try_from(self.now).expect("small") + ms),
            Expiry::At(at) => clamp(at),
        }
    }

    fn command(&mut self, command: &Command) -> Reply {
        let too_long = match command {
            Command::Set { value, .. } | Command::SetNx { value, .. } => value.len() > VALUE_MAX,
            Command::Cas { new, .. } => new.len() > VALUE_MAX,
            Command::MSet { pairs } => pairs.iter().any(|(_, value)| value.len() > VALUE_MAX),
            Command::MSetNx { pairs } => {
                !pairs.iter().any(|(key, _)| self.get(key).is_some())
                    && pairs.iter().any(|(_, value)| value.len() > VALUE_MAX)
            }
            Command::Append { key, value } => {
                self.get(key).map_or(0, Vec::len) + value.len() > VALUE_MAX
            }
            Command::SetRange { offset, value, .. } => {
                !value.is_empty() && *offset + value.len() as u64 > VALUE_MAX as u64
            }
            _ => false,
        };
        if too_long {
            return Reply::Error(ErrorReply::ValueTooLarge);
        }
        self.read(command)
            .or_else(|| self.write(command))
            .or_else(|| self.edit(command))
            .expect("every command is one of the three")
    }

    pub(crate) fn read(&self, command: &Command) -> Option<Reply> {
        let reply = match command {
            Command::Get { key } => self.value(key),
            Command::GetRange { key, start, end } => {
                bulk(&range(self.get(key).map_or(&[], Vec::as_slice), *start, *end))
            }
            Command::StrLen { key } => int(self.get(key).map_or(0, Vec::len)),
            Command::Exists { keys } => int(keys.iter().filter(|k| self.get(k).is_some()).count()),
            Command::MGet { keys } => Reply::Array(keys.iter().map(|k| self.value(k)).collect()),
            Command::Ttl { key, in_ms } => match self.keys.get(key.as_ref()) {
                None => Reply::Int(-2),
                Some(Entry { expires: None, .. }) => Reply::Int(-1),
                Some(Entry { expires: Some(at), .. }) => {
                    let ms = i64::try_from(at - self.now).expect("small");
                    Reply::Int(if *in_ms { ms } else { (ms + 500) / 1000 })
                }
            },
            Command::Type { key } => {
                let name = if self.get(key).is_some() { "string" } else { "none" };
                Reply::Simple(name.to_owned())
            }
            Command::Count => int(self.keys.len()),
            Command::Scan { start, end, limit, reverse, values } => {
                let inside = |key: &[u8]| {
                    key >= start.as_ref() && end.as_ref().is_none_or(|end| key < end.as_ref())
                };
                let mut found: Vec<_> = self.keys.iter().filter(|(key, _)| inside(key)).collect();
                if *reverse {
                    found.reverse();
                }
                let both = found.into_iter().take(*limit as usize).flat_map(|(key, entry)| {
                    let value = values.then(|| bulk(&entry.value));
                    std::iter::once(bulk(key)).chain(value)
                });
                Reply::Array(both.collect())
            }
            _ => return None,
        };
        Some(reply)
    }

    fn write(&mut self, command: &Command) -> Option<Reply> {
        let reply = match command {
            Command::Set { key, value, condition, expiry, get } => {
                let old = self.value(key);
                let met = match condition {
                    SetCondition::Always => true,
                    SetCondition::Absent => old == Reply::Nil,
                    SetCondition::Present => old != Reply::Nil,
                };
                if met {
                    let expires = self.instant(*expiry, self.expiry_of(key));
                    self.put(key, value, expires);
                }
                match (get, met) {
                    (true, _) => old,
                    (false, true) => Reply::Ok,
                    (false, false) => Reply::Nil,
                }
            }
            Command::SetNx { key, value } => {
                let absent = self.get(key).is_none();
                if absent {
                    self.put(key, value, None);
                }
                flag(absent)
            }
            Command::MSet { pairs } => {
                pairs.iter().for_each(|(key, value)| self.put(key, value, None));
                Reply::Ok
            }
            Command::MSetNx { pairs } => {
                let free = pairs.iter().all(|(key, _)| self.get(key).is_none());
                if free {
                    pairs.iter().for_each(|(key, value)| self.put(key, value, None));
                }
                flag(free)
            }
            Command::Cas { key, expected, new } => {
                let met = self.get(key).map(Vec::as_slice) == expected.as_deref();
                if met {
                    self.put(key, new, None);
                }
                flag(met)
            }
            Command::Del { keys } => {
                int(keys.iter().filter(|k| self.keys.remove(k.as_ref()).is_some()).count())
            }
            Command::GetDel { key } => {
                let old = self.value(key);
                self.keys.remove(key.as_ref());
                old
            }
            Command::GetEx { key, expiry } => {
                let Some(entry) = self.keys.get(key.as_ref()).cloned() else {
                    return Some(Reply::Nil);
                };
                let expires = self.instant(*expiry, entry.expires);
                if expires != entry.expires {
                    self.put(key, &entry.value, expires);
                }
                bulk(&entry.value)
            }
            _ => return None,
        };
        Some(reply)
    }

    /// Commands that make a new value or expiry out of the old one.
    fn edit(&mut self, command: &Command) -> Option<Reply> {
        let (Command::Append { key, .. }
        | Command::SetRange { key, .. }
        | Command::IncrBy { key, .. }
        | Command::IncrByFloat { key, .. }
        | Command::Expire { key, .. }
        | Command::Persist { key }) = command
        else {
            return None;
        };
        let (mut value, expires) =
            (self.get(key).cloned().unwrap_or_default(), self.expiry_of(key));
        let absent = self.get(key).is_none();
        let reply = match command {
            Command::Append { value: tail, .. } => {
                value.extend_from_slice(tail);
                int(value.len())
            }
            Command::SetRange { offset, value: piece, .. } => {
                if piece.is_empty() {
                    return Some(int(value.len()));
                }
                let at = usize::try_from(*offset).expect("small");
                value.resize(value.len().max(at + piece.len()), 0);
                value[at..at + piece.len()].copy_from_slice(piece);
                int(value.len())
            }
            Command::IncrBy { delta, .. } => {
                let text = String::from_utf8_lossy(&value).into_owned();
                let old: i64 = if absent { 0 } else { text.parse().unwrap_or(0) };
                if !absent && old.to_string() != text {
                    return Some(Reply::Error(ErrorReply::NotAnInteger));
                }
                let Some(new) = old.checked_add(*delta) else {
                    return Some(Reply::Error(ErrorReply::Overflow));
                };
                value = new.to_string().into_bytes();
                Reply::Int(new)
            }
            Command::IncrByFloat { delta_bits, .. } => {
                let text = String::from_utf8_lossy(&value).into_owned();
                let old = if absent { Some(0) } else { thousandths(&text) };
                let Some(old) = old else { return Some(Reply::Error(ErrorReply::NotAFloat)) };
                let sum = old + as_thousandths(f64::from_bits(*delta_bits));
                let sign = if sum < 0 { "-" } else { "" };
                let (whole, rest) = (sum.abs() / 1000, sum.abs() % 1000);
                let text = format!("{sign}{whole}.{rest:03}");
                value = text.trim_end_matches('0').trim_end_matches('.').as_bytes().to_vec();
                bulk(&value)
            }
            Command::Persist { .. } => {
                let was = expires.is_some();
                if was {
                    self.put(key, &value, None);
                }
                return Some(flag(was));
            }
            Command::Expire { expiry, condition, .. } => {
                return Some(flag(!absent && self.expire(key, *expiry, *condition)));
            }
            _ => return None,
        };
        self.put(key, &value, expires);
        Some(reply)
    }

    fn expire(&mut self, key: &[u8], expiry: Expiry, condition: ExpireCondition) -> bool {
        let new = self.instant(expiry, None).expect("given");
        let entry = self.keys[key].clone();
        let met = match (condition, entry.expires) {
            (ExpireCondition::Always, _)
            | (ExpireCondition::Absent, None)
            | (ExpireCondition::Present, Some(_))
            | (ExpireCondition::Earlier, None) => true,
            (ExpireCondition::Later, Some(old)) => new > old,
            (ExpireCondition::Earlier | ExpireCondition::PresentEarlier, Some(old)) => new < old,
            (ExpireCondition::Absent, Some(_))
            | (
                ExpireCondition::Present | ExpireCondition::Later | ExpireCondition::PresentEarlier,
                None,
            ) => false,
        };
        if met {
            self.put(key, &entry.value, Some(new));
        }
        met
    }
}

/// Redis's `GETRANGE`, one byte at a time.
fn range(value: &[u8], start: i64, end: i64) -> Vec<u8> {
    if start < 0 && end < 0 && start > end {
        return Vec::new();
    }
    let length = i64::try_from(value.len()).expect("small");
    let absolute = |offset: i64| if offset < 0 { (offset + length).max(0) } else { offset };
    let inside = |at: &i64| *at >= absolute(start) && *at <= absolute(end);
    (0..length).filter(inside).map(|at| value[usize::try_from(at).expect("small")]).collect()
}

/// A float's text in thousandths: exact for what the generator makes, up to the largest integers.
fn thousandths(text: &str) -> Option<i128> {
    let value: f64 = text.parse().ok()?;
    if text.contains(['e', 'E']) {
        return Some(as_thousandths(value));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<3}").parse().ok()
}

fn as_thousandths(value: f64) -> i128 {
    format!("{value:.3}").replace('.', "").parse().expect("finite")
}
