//! Values: how long they are, always the same or drawn evenly between two bounds, and what they hold. Pure.

use std::fmt;
use std::str::FromStr;

use oarlock_types::Random;

/// The longest value that the Redis protocol carries.
const BYTES_MAX: usize = 512 << 20;

/// Bytes of a value, both bounds included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueBytes {
    least: usize,
    most: usize,
}

impl ValueBytes {
    /// The most that is drawn.
    #[must_use]
    pub fn most(self) -> usize {
        self.most
    }

    /// Draws a length with the help of a function that draws a number below a bound.
    pub fn draw(self, below: impl FnOnce(u64) -> u64) -> usize {
        if self.least == self.most {
            return self.least;
        }
        let above = below((self.most - self.least + 1) as u64);
        self.least + usize::try_from(above).expect("invariant: below a length")
    }
}

/// Bytes that values are cut out of, at any place.
const POOL_BYTES: usize = 1 << 20;

/// What values hold: random letters, for each a piece of one long row, so that a system that compresses gains
/// nothing by values that are alike.
#[derive(Clone, Debug)]
pub struct Contents {
    pool: Vec<u8>,
    bytes: ValueBytes,
}

impl Contents {
    /// Of values of this length; the same for the same seed.
    #[must_use]
    pub fn new(bytes: ValueBytes, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let letters = std::iter::from_fn(|| Some(random.next_u64().to_be_bytes()));
        let letters = letters.flatten().map(|byte| b'a' + byte % 26);
        Self { pool: letters.take(POOL_BYTES + bytes.most()).collect(), bytes }
    }

    /// Draws a value with the help of a function that draws a number below a bound.
    pub fn draw(&self, mut below: impl FnMut(u64) -> u64) -> &[u8] {
        let length = self.bytes.draw(&mut below);
        let at = usize::try_from(below(POOL_BYTES as u64)).expect("invariant: below a length");
        &self.pool[at..at + length]
    }
}

impl From<usize> for ValueBytes {
    fn from(bytes: usize) -> Self {
        Self { least: bytes, most: bytes }
    }
}

impl fmt::Display for ValueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most {
            write!(f, "{}", self.least)
        } else {
            write!(f, "{}..{}", self.least, self.most)
        }
    }
}

impl serde::Serialize for ValueBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for ValueBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = |text: &str| match text.trim().parse::<usize>() {
            Ok(bytes) if bytes <= BYTES_MAX => Ok(bytes),
            Ok(_) => Err(format!("a value has at most {BYTES_MAX} bytes")),
            Err(_) => Err(format!("\"{text}\" is no number of bytes: write 128, or 64..4096")),
        };
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let (least, most) = (bytes(least)?, bytes(most)?);
        if least > most {
            return Err(format!("{least} is more than {most}"));
        }
        Ok(Self { least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_or_two_bounds_are_read_and_told_alike() {
        for text in ["0", "128", "64..4096"] {
            assert_eq!(text.parse::<ValueBytes>().unwrap().to_string(), text);
        }
        assert_eq!("7..7".parse(), Ok(ValueBytes::from(7)));
        let drawn = "64..4096".parse::<ValueBytes>().unwrap();
        assert_eq!((drawn.draw(|_| 0), drawn.draw(|bound| bound - 1)), (64, 4096));
    }

    #[test]
    fn values_are_as_long_as_asked_and_not_alike() {
        let contents = Contents::new("64..4096".parse().unwrap(), 7);
        let mut random = Random::new(1);
        let mut drawn: Vec<Vec<u8>> =
            (0..1000).map(|_| contents.draw(|bound| random.below(bound)).to_vec()).collect();
        assert!(drawn.iter().all(|value| (64..=4096).contains(&value.len())));
        assert!(drawn.iter().flatten().all(u8::is_ascii_lowercase));
        drawn.iter_mut().for_each(|value| value.truncate(16));
        drawn.sort_unstable();
        drawn.dedup();
        assert!(drawn.len() > 990, "{} are different", drawn.len());
        let last = contents.draw(|bound| bound - 1);
        assert_eq!(last.len(), 4096, "also at the end of the row");
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for (text, told) in [
            ("", "no number of bytes"),
            ("a lot", "no number of bytes"),
            ("-1", "no number of bytes"),
            ("64..", "no number of bytes"),
            ("65..64", "65 is more than 64"),
            ("1..99999999999", "at most"),
        ] {
            let error = text.parse::<ValueBytes>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
