//! Which keys a command names.

use bytes::Bytes;

use crate::command::{Absorb, Command};
use crate::order::Order;

/// The keys that a command names, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys<'a> {
    /// It is about none, or about all of a range.
    None,
    /// Exactly one.
    One(&'a Bytes),
    /// As many as the client likes.
    Many(&'a [Bytes]),
    /// As many as the client likes, with a value each.
    Pairs(&'a [(Bytes, Bytes)]),
}

impl<'a> Keys<'a> {
    /// How many there are; a key that is named twice counts twice.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(keys) => keys.len(),
            Self::Pairs(pairs) => pairs.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The key at a place, counted from 0.
    #[must_use]
    pub fn get(self, place: usize) -> Option<&'a Bytes> {
        match self {
            Self::None => None,
            Self::One(key) => (place == 0).then_some(key),
            Self::Many(keys) => keys.get(place),
            Self::Pairs(pairs) => pairs.get(place).map(|(key, _)| key),
        }
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = &'a Bytes> {
        (0..self.len()).filter_map(move |place| self.get(place))
    }
}

impl Command {
    /// The keys that it names. `Scan` names none: its bounds need not be keys.
    #[must_use]
    pub fn keys(&self) -> Keys<'_> {
        match self {
            Self::Exists { keys } | Self::MGet { keys } | Self::Del { keys } => Keys::Many(keys),
            Self::MSet { pairs } | Self::MSetNx { pairs } => Keys::Pairs(pairs),
            Self::Get { key }
            | Self::GetRange { key, .. }
            | Self::StrLen { key }
            | Self::Ttl { key, .. }
            | Self::Type { key }
            | Self::Version { key }
            | Self::Set { key, .. }
            | Self::SetNx { key, .. }
            | Self::GetDel { key }
            | Self::GetEx { key, .. }
            | Self::Append { key, .. }
            | Self::SetRange { key, .. }
            | Self::IncrBy { key, .. }
            | Self::IncrByFloat { key, .. }
            | Self::Expire { key, .. }
            | Self::Persist { key }
            | Self::Cas { key, .. }
            | Self::Order(Order::Split { at: key } | Order::Merge { start: key, .. })
            | Self::Absorb(Absorb { start: key, .. }) => Keys::One(key),
            Self::Count
            | Self::Scan { .. }
            | Self::Order(
                Order::Place { .. }
                | Order::Transfer { .. }
                | Order::Report { .. }
                | Order::Explain { .. }
                | Order::MoveCore { .. },
            ) => Keys::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(command: &Command) -> Vec<&[u8]> {
        let keys = command.keys();
        assert_eq!((keys.len(), keys.is_empty()), (keys.iter().count(), keys.get(0).is_none()));
        assert_eq!(keys.get(keys.len()), None);
        keys.iter().map(|key| &key[..]).collect()
    }

    #[test]
    fn keys_come_in_the_order_in_which_they_are_named() {
        let [a, b, c] = ["a", "b", "c"].map(|key| Bytes::from_static(key.as_bytes()));
        assert_eq!(named(&Command::Count), [b""; 0]);
        assert_eq!(named(&Command::Get { key: a.clone() }), [b"a"]);
        assert_eq!(named(&Command::Order(Order::Split { at: c.clone() })), [b"c"]);
        let keys = vec![b.clone(), a.clone(), b.clone()];
        assert_eq!(named(&Command::Del { keys }), [b"b", b"a", b"b"]);
        let pairs = vec![(c.clone(), a.clone()), (b, c)];
        assert_eq!(named(&Command::MSet { pairs }), [b"c", b"b"]);
        let scan = Command::Scan { start: a, end: None, limit: 1, reverse: false, values: false };
        assert_eq!(named(&scan), [b""; 0]);
    }
}
