//! How identifiers and positions stand in the files that people carry from host to host: as numbers,
//! 32 hexadecimal digits, or `index@term`. Pure.

use oarlock_types::{
    ClusterId, CoreId, DiskId, FeatureLevel, GroupId, Incarnation, Index, NodeId, RangeEpoch, Term,
    WallMs,
};

/// What stands there as a number.
pub trait Number: Sized {
    /// The number.
    fn number(&self) -> u64;
    /// What has this number; `None` if it is too large.
    fn of(number: u64) -> Option<Self>;
}

macro_rules! number {
    ($($name:ident),*) => {
        $(impl Number for $name {
            fn number(&self) -> u64 {
                self.0.into()
            }

            fn of(number: u64) -> Option<Self> {
                number.try_into().ok().map(Self)
            }
        })*
    };
}

number!(CoreId, FeatureLevel, GroupId, Incarnation, Index, NodeId, RangeEpoch, Term, WallMs);

/// What stands there as 32 digits.
pub trait Digits: Sized {
    /// The number.
    fn bits(&self) -> u128;
    /// What has this number.
    fn of(bits: u128) -> Self;
}

macro_rules! digits {
    ($($name:ident),*) => {
        $(impl Digits for $name {
            fn bits(&self) -> u128 {
                self.0
            }

            fn of(bits: u128) -> Self {
                Self(bits)
            }
        })*
    };
}

digits!(ClusterId, DiskId);

/// For `#[serde(with)]`.
pub mod number {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Number;

    /// Writes it.
    pub fn serialize<T: Number, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.number())
    }

    /// Reads it.
    pub fn deserialize<'de, T: Number, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let number = u64::deserialize(from)?;
        T::of(number).ok_or_else(|| D::Error::custom(format!("{number} is too large")))
    }
}

/// For `#[serde(with)]` on a list of numbers.
pub mod numbers {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Number;

    /// Writes them.
    pub fn serialize<T: Number, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(Number::number))
    }

    /// Reads them.
    pub fn deserialize<'de, T: Number, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
        let numbers = Vec::<u64>::deserialize(from)?;
        let read = |number: u64| {
            T::of(number).ok_or_else(|| D::Error::custom(format!("{number} is too large")))
        };
        numbers.into_iter().map(read).collect()
    }
}

/// For `#[serde(with)]`.
pub mod digits {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Digits;
    use oarlock_cluster::hex::{decode_u128, encode_u128};

    /// Writes it.
    pub fn serialize<T: Digits, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode_u128(value.bits()))
    }

    /// Reads it.
    pub fn deserialize<'de, T: Digits, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        let bits = decode_u128(&text);
        bits.map(T::of).ok_or_else(|| D::Error::custom(format!("{text} is not 32 digits 0-9a-f")))
    }
}

/// For `#[serde(with)]`: `index@term`.
pub mod position {
    use oarlock_raft::LogPosition;
    use oarlock_types::{Index, Term};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(value: &LogPosition, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<LogPosition, D::Error> {
        let text = String::deserialize(from)?;
        let read = || {
            let (index, term) = text.split_once('@')?;
            Some(LogPosition { term: Term(term.parse().ok()?), index: Index(index.parse().ok()?) })
        };
        read().ok_or_else(|| D::Error::custom(format!("{text} is no position of a log")))
    }
}

/// For `#[serde(with)]`: voters, those before, learners.
pub mod members {
    use oarlock_raft::Configuration;
    use oarlock_types::NodeId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::numbers;

    #[derive(Deserialize, Serialize)]
    struct Text {
        #[serde(with = "numbers")]
        voters: Vec<NodeId>,
        #[serde(with = "numbers", default, skip_serializing_if = "Vec::is_empty")]
        outgoing: Vec<NodeId>,
        #[serde(with = "numbers", default, skip_serializing_if = "Vec::is_empty")]
        learners: Vec<NodeId>,
    }

    /// Writes it.
    pub fn serialize<S: Serializer>(value: &Configuration, to: S) -> Result<S::Ok, S::Error> {
        let Configuration { voters, outgoing, learners } = value.clone();
        Text { voters, outgoing, learners }.serialize(to)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Configuration, D::Error> {
        let Text { voters, outgoing, learners } = Text::deserialize(from)?;
        Ok(Configuration { voters, outgoing, learners })
    }
}

/// For `#[serde(with)]`: nodes that have joined, a line of JSON each.
pub mod joined {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use oarlock_cluster::members::{self, Member};

    /// Writes them.
    pub fn serialize<S: Serializer>(values: &[Member], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(members::write))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Member>, D::Error> {
        let lines = Vec::<String>::deserialize(from)?;
        let read = |line: &String| {
            members::read(line.as_bytes())
                .ok_or_else(|| D::Error::custom(format!("{line} is no node")))
        };
        lines.iter().map(read).collect()
    }
}

/// For `#[serde(with)]`: ranges, a line of JSON each.
pub mod ranges {
    use oarlock_types::RangeDescriptor;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use oarlock_cluster::range_text;

    /// Writes them.
    pub fn serialize<S: Serializer>(values: &[RangeDescriptor], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|range| range_text::write(&range.as_range())))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<RangeDescriptor>, D::Error> {
        let lines = Vec::<String>::deserialize(from)?;
        let read = |line: &String| {
            range_text::read(line.as_bytes())
                .ok_or_else(|| D::Error::custom(format!("{line} is no range")))
        };
        lines.iter().map(read).collect()
    }
}
