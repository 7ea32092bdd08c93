//! The commands that may change keys, with Redis's meaning of each. One store at a time.
//!
//! A command must check everything before it changes anything: one that fails has changed nothing.

use bytes::Bytes;
use oarlock_types::WallMs;

use crate::command::{Command, ExpireCondition, Expiry, SetCondition};
use crate::numbers::{FloatError, add_float, format_integer, parse_integer};
use crate::read::{bulk, count};
use crate::reply::{ErrorReply, Reply};
use crate::store::Store;

/// The arguments of `SET` beside the key.
struct Set {
    value: Bytes,
    condition: SetCondition,
    expiry: Expiry,
    get: bool,
}

impl Store {
    /// Carries one command out at the store's time.
    pub(crate) fn execute(&mut self, command: Command) -> Reply {
        let done = match command {
            Command::Set { key, value, condition, expiry, get } => {
                self.set(key, Set { value, condition, expiry, get })
            }
            Command::SetNx { key, value } => self.set_nx(key, value),
            Command::GetDel { key } => Ok(self.get_del(&key)),
            Command::GetEx { key, expiry } => self.get_ex(key, expiry),
            Command::MSet { pairs } => self.m_set(pairs),
            Command::MSetNx { pairs } => self.m_set_nx(pairs),
            Command::Del { keys } => Ok(self.del(&keys)),
            Command::Append { key, value } => self.append(key, value),
            Command::SetRange { key, offset, value } => self.set_range(key, offset, &value),
            Command::IncrBy { key, delta } => self.incr_by(key, delta),
            Command::IncrByFloat { key, delta_bits } => {
                self.incr_by_float(key, f64::from_bits(delta_bits))
            }
            Command::Expire { key, expiry, condition } => self.expire(key, expiry, condition),
            Command::Persist { key } => Ok(self.persist(key)),
            Command::Cas { key, expected, new } => self.cas(key, expected.as_deref(), new),
            Command::Absorb(absorb) => Ok(self.absorb(&absorb)),
            Command::Order(_) => Err(ErrorReply::OrderNotAlone),
            read @ (Command::Get { .. }
            | Command::GetRange { .. }
            | Command::StrLen { .. }
            | Command::Exists { .. }
            | Command::MGet { .. }
            | Command::Ttl { .. }
            | Command::Type { .. }
            | Command::Version { .. }
            | Command::Count
            | Command::Scan { .. }) => {
                Ok(self.query(&read, self.stamp).expect("invariant: these commands are reads"))
            }
        };
        done.unwrap_or_else(Reply::Error)
    }

    fn set(&mut self, key: Bytes, set: Set) -> Result<Reply, ErrorReply> {
        self.check_length(set.value.len())?;
        // A plain SET needs no look at what was there.
        let looks = set.get
            || !matches!(set.condition, SetCondition::Always)
            || matches!(set.expiry, Expiry::Keep);
        let old = if looks { self.live(&key, self.stamp) } else { None };
        let expires = resolve(set.expiry, old.and_then(|slot| slot.expires), self.stamp)?;
        let met = match set.condition {
            SetCondition::Always => true,
            SetCondition::Absent => old.is_none(),
            SetCondition::Present => old.is_some(),
        };
        let reply = match (set.get, met) {
            (true, _) => bulk(old.map(|slot| slot.value.clone())),
            (false, true) => Reply::Ok,
            (false, false) => Reply::Nil,
        };
        if met {
            self.put_or_end(key, set.value, expires);
        }
        Ok(reply)
    }

    fn set_nx(&mut self, key: Bytes, value: Bytes) -> Result<Reply, ErrorReply> {
        self.check_length(value.len())?;
        if self.live(&key, self.stamp).is_some() {
            return Ok(Reply::Int(0));
        }
        self.put(key, value, None);
        Ok(Reply::Int(1))
    }

    fn get_del(&mut self, key: &[u8]) -> Reply {
        let value = self.live(key, self.stamp).map(|slot| slot.value.clone());
        if value.is_some() {
            self.remove(key);
        }
        bulk(value)
    }

    fn get_ex(&mut self, key: Bytes, expiry: Expiry) -> Result<Reply, ErrorReply> {
        let Some(slot) = self.live(&key, self.stamp) else { return Ok(Reply::Nil) };
        let (value, old) = (slot.value.clone(), slot.expires);
        let expires = resolve(expiry, old, self.stamp)?;
        if expires != old {
            self.put_or_end(key, value.clone(), expires);
        }
        Ok(Reply::Bulk(value))
    }

    fn m_set(&mut self, pairs: Vec<(Bytes, Bytes)>) -> Result<Reply, ErrorReply> {
        for (_, value) in &pairs {
            self.check_length(value.len())?;
        }
        for (key, value) in pairs {
            self.put(key, value, None);
        }
        Ok(Reply::Ok)
    }

    fn m_set_nx(&mut self, pairs: Vec<(Bytes, Bytes)>) -> Result<Reply, ErrorReply> {
        if pairs.iter().any(|(key, _)| self.live(key, self.stamp).is_some()) {
            return Ok(Reply::Int(0));
        }
        self.m_set(pairs).map(|_| Reply::Int(1))
    }

    fn del(&mut self, keys: &[Bytes]) -> Reply {
        let mut removed = 0;
        for key in keys {
            if self.live(key, self.stamp).is_some() {
                self.remove(key);
                removed += 1;
            }
        }
        count(removed)
    }

    fn append(&mut self, key: Bytes, tail: Bytes) -> Result<Reply, ErrorReply> {
        let Some(slot) = self.live(&key, self.stamp) else {
            self.check_length(tail.len())?;
            let length = tail.len();
            self.put(key, tail, None);
            return Ok(count(length));
        };
        let length = slot.value.len() + tail.len();
        self.check_length(length)?;
        let mut value = Vec::with_capacity(length);
        value.extend_from_slice(&slot.value);
        value.extend_from_slice(&tail);
        let expires = slot.expires;
        self.put(key, Bytes::from(value), expires);
        Ok(count(length))
    }

    fn set_range(&mut self, key: Bytes, offset: u64, piece: &[u8]) -> Result<Reply, ErrorReply> {
        let slot = self.live(&key, self.stamp);
        let old: &[u8] = slot.map_or(&[], |slot| &slot.value);
        if piece.is_empty() {
            return Ok(count(old.len()));
        }
        let expires = slot.and_then(|slot| slot.expires);
        let start = usize::try_from(offset).map_err(|_| ErrorReply::ValueTooLarge)?;
        let end = start.checked_add(piece.len()).ok_or(ErrorReply::ValueTooLarge)?;
        let length = end.max(old.len());
        self.check_length(length)?;
        let mut value = Vec::with_capacity(length);
        value.extend_from_slice(old);
        value.resize(length, 0);
        value[start..end].copy_from_slice(piece);
        self.put(key, Bytes::from(value), expires);
        Ok(count(length))
    }

    fn incr_by(&mut self, key: Bytes, delta: i64) -> Result<Reply, ErrorReply> {
        let slot = self.live(&key, self.stamp);
        let old = match slot {
            Some(slot) => parse_integer(&slot.value).ok_or(ErrorReply::NotAnInteger)?,
            None => 0,
        };
        let expires = slot.and_then(|slot| slot.expires);
        let new = old.checked_add(delta).ok_or(ErrorReply::Overflow)?;
        self.put(key, Bytes::from(format_integer(new)), expires);
        Ok(Reply::Int(new))
    }

    fn incr_by_float(&mut self, key: Bytes, delta: f64) -> Result<Reply, ErrorReply> {
        let slot = self.live(&key, self.stamp);
        let old: &[u8] = slot.map_or(b"0", |slot| &slot.value);
        let expires = slot.and_then(|slot| slot.expires);
        let new = Bytes::from(add_float(old, delta).map_err(|error| match error {
            FloatError::NotAFloat => ErrorReply::NotAFloat,
            FloatError::NotFinite => ErrorReply::NotFinite,
        })?);
        self.check_length(new.len())?;
        self.put(key, new.clone(), expires);
        Ok(Reply::Bulk(new))
    }

    fn expire(
        &mut self,
        key: Bytes,
        expiry: Expiry,
        condition: ExpireCondition,
    ) -> Result<Reply, ErrorReply> {
        if matches!(expiry, Expiry::None | Expiry::Keep) {
            return Err(ErrorReply::InvalidExpire);
        }
        let expires = resolve(expiry, None, self.stamp)?;
        let Some(slot) = self.live(&key, self.stamp) else { return Ok(Reply::Int(0)) };
        // No expiry is the latest of all.
        let rank = |at: Option<WallMs>| at.map_or(u64::MAX, |at| at.0);
        let met = match condition {
            ExpireCondition::Always => true,
            ExpireCondition::Absent => slot.expires.is_none(),
            ExpireCondition::Present => slot.expires.is_some(),
            ExpireCondition::Later => rank(expires) > rank(slot.expires),
            ExpireCondition::PresentEarlier => slot.expires.is_some_and(|old| expires < Some(old)),
            ExpireCondition::Earlier => rank(expires) < rank(slot.expires),
        };
        if !met {
            return Ok(Reply::Int(0));
        }
        let value = slot.value.clone();
        self.put_or_end(key, value, expires);
        Ok(Reply::Int(1))
    }

    fn persist(&mut self, key: Bytes) -> Reply {
        let Some(slot) = self.live(&key, self.stamp) else { return Reply::Int(0) };
        if slot.expires.is_none() {
            return Reply::Int(0);
        }
        let value = slot.value.clone();
        self.put(key, value, None);
        Reply::Int(1)
    }

    fn cas(
        &mut self,
        key: Bytes,
        expected: Option<&[u8]>,
        new: Bytes,
    ) -> Result<Reply, ErrorReply> {
        self.check_length(new.len())?;
        let found = self.live(&key, self.stamp).map(|slot| slot.value.as_ref());
        if found != expected {
            return Ok(Reply::Int(0));
        }
        self.put(key, new, None);
        Ok(Reply::Int(1))
    }

    /// Puts a key, or removes it if its expiry is already past.
    fn put_or_end(&mut self, key: Bytes, value: Bytes, expires: Option<WallMs>) {
        if expires.is_some_and(|at| at <= self.stamp) {
            self.remove(&key);
        } else {
            self.put(key, value, expires);
        }
    }

    fn check_length(&self, length: usize) -> Result<(), ErrorReply> {
        if length > self.limits.value_bytes_max { Err(ErrorReply::ValueTooLarge) } else { Ok(()) }
    }
}

/// The instant that an expiry means at `now` for a key that has `old`. An instant before 1970 is
/// one that is past.
fn resolve(expiry: Expiry, old: Option<WallMs>, now: WallMs) -> Result<Option<WallMs>, ErrorReply> {
    let at = match expiry {
        Expiry::None => return Ok(None),
        Expiry::Keep => return Ok(old),
        Expiry::In(ms) => {
            let now = i64::try_from(now.0).map_err(|_| ErrorReply::InvalidExpire)?;
            now.checked_add(ms).ok_or(ErrorReply::InvalidExpire)?
        }
        Expiry::At(ms) => ms,
    };
    Ok(Some(WallMs(u64::try_from(at).unwrap_or(0))))
}
