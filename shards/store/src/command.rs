//! What a client may ask of one range. Parsed from the Redis protocol by the listener, carried by
//! peer frames and log entries, carried out by the store. Pure data.

#![allow(missing_docs, reason = "rkyv gives the fields that it derives no documentation")]

use bytes::Bytes;
use oarlock_types::{GroupId, RangeEpoch, WallMs};
use rkyv::{Archive, Deserialize, Serialize};

use crate::order::Order;

/// The payload of one log entry: what one turn proposed to the group.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Batch {
    /// The leader's wall clock. The store's time is the largest stamp that it has applied.
    pub stamp: WallMs,
    /// Carried out in order; each yields one reply.
    pub requests: Vec<Request>,
}

/// One client request to one range: carried out as a whole, or not at all.
#[derive(
    Clone,
    Debug,
    Default,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Request {
    /// `OARLOCK ONCE`: a request with an id that the range remembers is not carried out again, its
    /// kept reply is given.
    pub once: Option<Bytes>,
    /// `WATCH`: if any version differs, nothing is done and the reply is nil.
    pub watches: Vec<Watch>,
    /// `MULTI`/`EXEC`: the reply is the array of the commands' replies. Else there is one command.
    pub transaction: bool,
    /// What to do, in order, nothing of others in between.
    pub commands: Vec<Command>,
}

impl Request {
    /// A request of one plain command.
    #[must_use]
    pub fn one(command: Command) -> Self {
        Self { commands: vec![command], ..Self::default() }
    }

    /// About how many bytes it takes in a log entry: what admission counts.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let once = self.once.as_ref().map_or(0, Bytes::len);
        let watches: usize = self.watches.iter().map(|watch| watch.key.len() + 32).sum();
        let commands: usize = self.commands.iter().map(Command::size_bytes).sum();
        64 + once + watches + commands
    }

    /// One of the keys that it names, by a number of which each value is as good: where its load falls, for who
    /// takes samples. A `Scan` counts where it begins. `None` if there is none.
    #[must_use]
    pub fn pick_key(&self, number: u64) -> Option<&Bytes> {
        let place = |number: u64, count: usize| usize::try_from(number % count.max(1) as u64).ok();
        let commands = self.commands.len();
        let (command, number) = (place(number, commands)?, number / commands.max(1) as u64);
        let command = self.commands.get(command)?;
        if let Command::Scan { start, .. } = command {
            return Some(start);
        }
        let keys = command.keys();
        keys.get(place(number, keys.len())?)
    }

    /// Whether it changes nothing, so that it needs no log entry.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.once.is_none() && self.commands.iter().all(Command::is_read)
    }

    /// The order that it is, if it is one.
    #[must_use]
    pub fn order(&self) -> Option<&Order> {
        match self.commands.as_slice() {
            [Command::Order(order)] => Some(order),
            _ => None,
        }
    }
}

/// A key as a client saw it when it said `WATCH`.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Watch {
    /// The key.
    pub key: Bytes,
    /// Its version then, zero if it was not there. (A version is a number that the range gives to
    /// each change of a key and to no other change. A key that was absent then, and is absent
    /// again, counts as unchanged.)
    pub version: u64,
}

/// A command. Times are milliseconds; "in" is relative to the entry's stamp.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Command {
    /// `GET`: the value or nil.
    Get {
        /// The key.
        key: Bytes,
    },
    /// `GETRANGE`: a piece of the value, Redis's inclusive and negative offsets.
    GetRange {
        /// The key.
        key: Bytes,
        /// First byte; negative counts from the end.
        start: i64,
        /// Last byte; negative counts from the end.
        end: i64,
    },
    /// `STRLEN`: the value's length, 0 if the key is not there.
    StrLen {
        /// The key.
        key: Bytes,
    },
    /// `EXISTS`: how many of the keys are there (a key named twice counts twice).
    Exists {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// `MGET`: an array of values and nils.
    MGet {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// `TTL`/`PTTL`: −2 no key, −1 no expiry, else what is left.
    Ttl {
        /// The key.
        key: Bytes,
        /// Milliseconds (`PTTL`) instead of seconds rounded to the nearest.
        in_ms: bool,
    },
    /// `TYPE`: the simple string `string` or `none`.
    Type {
        /// The key.
        key: Bytes,
    },
    /// The key's version for `WATCH`: an integer.
    Version {
        /// The key.
        key: Bytes,
    },
    /// The number of live keys of the whole range: an integer. For `DBSIZE`.
    Count,
    /// Keys (and values) of `[start, end)` in order: an array `[key, value, key, value…]`, or of
    /// keys alone. Stops after `limit` keys or about 1 MiB.
    Scan {
        /// The first key that may be returned.
        start: Bytes,
        /// Before this key; `None`: to the end of the range.
        end: Option<Bytes>,
        /// Most keys returned.
        limit: u32,
        /// From the end backwards.
        reverse: bool,
        /// With values.
        values: bool,
    },
    /// `SET` with all its options; `GETSET` is `SET … GET`. `OK`, or nil if the condition failed;
    /// with `get` the old value or nil.
    Set {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// `NX`, `XX`.
        condition: SetCondition,
        /// `EX`, `PX`, `EXAT`, `PXAT`, `KEEPTTL`.
        expiry: Expiry,
        /// `GET`: the reply is the old value.
        get: bool,
    },
    /// `SETNX`: 1 or 0.
    SetNx {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// `GETDEL`: the value or nil.
    GetDel {
        /// The key.
        key: Bytes,
    },
    /// `GETEX`: the value or nil, and a new expiry ([`Expiry::Keep`]: none given,
    /// [`Expiry::None`]: `PERSIST`).
    GetEx {
        /// The key.
        key: Bytes,
        /// The new expiry.
        expiry: Expiry,
    },
    /// `MSET`: `OK`. Clears expiries.
    MSet {
        /// Keys and values, the last of a key wins.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// `MSETNX`: 1, or 0 with nothing done if any key is there.
    MSetNx {
        /// Keys and values.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// `DEL`/`UNLINK`: how many were there.
    Del {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// `APPEND`: the new length. Keeps the expiry.
    Append {
        /// The key.
        key: Bytes,
        /// What to add.
        value: Bytes,
    },
    /// `SETRANGE`: the new length. Pads with zeros, keeps the expiry.
    SetRange {
        /// The key.
        key: Bytes,
        /// Where.
        offset: u64,
        /// What.
        value: Bytes,
    },
    /// `INCR`, `DECR`, `INCRBY`, `DECRBY`: the new value, or Redis's errors for a value that is no
    /// integer and for overflow. Keeps the expiry.
    IncrBy {
        /// The key.
        key: Bytes,
        /// What to add.
        delta: i64,
    },
    /// `INCRBYFLOAT`: the new value as a bulk string in Redis's notation. Keeps the expiry.
    IncrByFloat {
        /// The key.
        key: Bytes,
        /// What to add, as the bits of an `f64` (so that the command has equality).
        delta_bits: u64,
    },
    /// `EXPIRE` and its kin: 1, or 0. A time that is past deletes the key.
    Expire {
        /// The key.
        key: Bytes,
        /// When ([`Expiry::In`] or [`Expiry::At`]).
        expiry: Expiry,
        /// `NX`, `XX`, `GT`, `LT`.
        condition: ExpireCondition,
    },
    /// `PERSIST`: 1 if an expiry was taken off, else 0.
    Persist {
        /// The key.
        key: Bytes,
    },
    /// `OARLOCK CAS`: 1 if the value was `expected` (`None`: no such key) and is now `new`, without
    /// an expiry as with `SET`; else 0.
    Cas {
        /// The key.
        key: Bytes,
        /// What must be there.
        expected: Option<Bytes>,
        /// What shall be there.
        new: Bytes,
    },
    /// Asks something of the range itself. It stands alone in its request, and in no log entry.
    #[serde(with = "in_no_entry")]
    Order(Order),
    /// Brings the range behind this one into it: 1 once it is there, 0 if it never will be. No client's.
    Absorb(Absorb),
}

/// What no log entry holds has no packed form. (A variant that serde skips is counted when others are written,
/// and not when they are read.)
mod in_no_entry {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserializer, Serializer};

    use super::Order;

    const WHY: &str = "an order stands in no log entry";

    pub(super) fn serialize<S: Serializer>(_: &Order, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom(WHY))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(_: D) -> Result<Order, D::Error> {
        Err(D::Error::custom(WHY))
    }
}

/// A range that is frozen, for the neighbour before it.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Absorb {
    /// The neighbour's first key.
    pub start: Bytes,
    /// The neighbour's version: in another one it does not take the range.
    pub epoch: RangeEpoch,
    /// The group of the range that ends.
    pub group: GroupId,
    /// The version that it has while it is frozen.
    pub frozen: RangeEpoch,
    /// All that it holds: [`crate::Store::contents`].
    pub contents: Bytes,
}

impl Command {
    /// About how many bytes it takes in a log entry.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let payload = match self {
            Self::Get { key }
            | Self::GetRange { key, .. }
            | Self::StrLen { key }
            | Self::Ttl { key, .. }
            | Self::Type { key }
            | Self::Version { key }
            | Self::GetDel { key }
            | Self::GetEx { key, .. }
            | Self::IncrBy { key, .. }
            | Self::IncrByFloat { key, .. }
            | Self::Expire { key, .. }
            | Self::Persist { key } => key.len(),
            Self::Exists { keys } | Self::MGet { keys } | Self::Del { keys } => {
                keys.iter().map(|key| key.len() + 16).sum()
            }
            Self::Count => 0,
            Self::Order(Order::Split { at }) => at.len(),
            Self::Order(Order::Place { voters }) => 8 * voters.len(),
            Self::Order(Order::Transfer { .. } | Order::Explain { .. }) => 8,
            Self::Order(Order::MoveCore { .. }) => 16,
            Self::Order(Order::Report { ranges }) => 64 * ranges.len(),
            Self::Order(Order::Merge { start, into_start, .. }) => start.len() + into_start.len(),
            Self::Absorb(absorb) => absorb.start.len() + absorb.contents.len(),
            Self::Scan { start, end, .. } => start.len() + end.as_ref().map_or(0, Bytes::len),
            Self::Set { key, value, .. }
            | Self::SetNx { key, value }
            | Self::Append { key, value }
            | Self::SetRange { key, value, .. } => key.len() + value.len(),
            Self::MSet { pairs } | Self::MSetNx { pairs } => {
                pairs.iter().map(|(key, value)| key.len() + value.len() + 32).sum()
            }
            Self::Cas { key, expected, new } => {
                key.len() + expected.as_ref().map_or(0, Bytes::len) + new.len()
            }
        };
        64 + payload
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_read(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::GetRange { .. }
            | Self::StrLen { .. }
            | Self::Exists { .. }
            | Self::MGet { .. }
            | Self::Ttl { .. }
            | Self::Type { .. }
            | Self::Version { .. }
            | Self::Count
            | Self::Scan { .. } => true,
            Self::Set { .. }
            | Self::SetNx { .. }
            | Self::GetDel { .. }
            | Self::GetEx { .. }
            | Self::MSet { .. }
            | Self::MSetNx { .. }
            | Self::Del { .. }
            | Self::Append { .. }
            | Self::SetRange { .. }
            | Self::IncrBy { .. }
            | Self::IncrByFloat { .. }
            | Self::Expire { .. }
            | Self::Persist { .. }
            | Self::Cas { .. }
            | Self::Order(_)
            | Self::Absorb(_) => false,
        }
    }
}

/// When a key shall end.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Expiry {
    /// Never: an expiry that is there is taken off.
    #[default]
    None,
    /// As it is (`KEEPTTL`).
    Keep,
    /// So many milliseconds after the entry's stamp. May be negative (the key ends at once).
    In(i64),
    /// At this Unix time in milliseconds.
    At(i64),
}

/// Under what condition `SET` sets.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum SetCondition {
    /// Always.
    #[default]
    Always,
    /// `NX`: only if the key is not there.
    Absent,
    /// `XX`: only if it is.
    Present,
}

/// Under what condition `EXPIRE` sets an expiry. No expiry counts as infinite.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum ExpireCondition {
    /// Always.
    #[default]
    Always,
    /// `NX`: only if there is none.
    Absent,
    /// `XX`: only if there is one.
    Present,
    /// `GT`: only if later than the one there is.
    Later,
    /// `LT`: only if earlier.
    Earlier,
    /// `XX LT`: only if there is one, and it is later.
    PresentEarlier,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_request_is_picked_equally_often_by_some_number() {
        let keys = ["b".into(), "c".into()].to_vec();
        let get = Command::Get { key: "a".into() };
        let commands = vec![get, Command::Del { keys }];
        let request = Request { transaction: true, commands, ..Request::default() };
        let picked: Vec<&[u8]> =
            (0..8).filter_map(|number| request.pick_key(number)).map(|key| &key[..]).collect();
        assert_eq!(picked, [b"a", b"b", b"a", b"c", b"a", b"b", b"a", b"c"]);
        for none in [vec![], vec![Command::Count], vec![Command::MGet { keys: vec![] }]] {
            let request = Request { commands: none, ..Request::default() };
            assert_eq!(request.pick_key(7), None);
        }
    }
}
