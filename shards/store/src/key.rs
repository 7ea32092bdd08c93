//! A key as a range holds it. It must not know what a key means.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// The longest key that stands where it is held.
const SHORT_BYTES_MAX: usize = 23;

/// A key. A short one stands in the tree's own nodes: a search compares with it without following a
/// pointer to other memory for each key that it passes.
#[derive(Clone)]
pub(crate) enum Key {
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Bytes),
}

// As large as the handle of a long one alone.
const _: () = assert!(size_of::<Key>() == size_of::<Bytes>());

impl Key {
    /// The key as something that can be handed out.
    pub(crate) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Short { .. } => Bytes::copy_from_slice(self),
            Self::Long(bytes) => bytes.clone(),
        }
    }
}

impl From<Bytes> for Key {
    fn from(key: Bytes) -> Self {
        if key.len() > SHORT_BYTES_MAX {
            return Self::Long(key);
        }
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(&key);
        let len = u8::try_from(key.len()).expect("invariant: it was compared with the most");
        Self::Short { len, bytes }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_length_is_its_bytes_and_ordered_as_they_are() {
        let text: Vec<u8> = (0..=255).collect();
        let lengths = [0, 1, SHORT_BYTES_MAX - 1, SHORT_BYTES_MAX, SHORT_BYTES_MAX + 1, 200];
        let bytes = lengths.map(|length| Bytes::copy_from_slice(&text[..length]));
        for one in &bytes {
            let key = Key::from(one.clone());
            assert_eq!(*key, **one);
            assert_eq!(key.to_bytes(), one);
            let is_long = one.len() > SHORT_BYTES_MAX;
            assert_eq!(matches!(key, Key::Long(_)), is_long);
            for other in &bytes {
                assert_eq!(key.cmp(&Key::from(other.clone())), one.cmp(other));
            }
        }
    }
}
