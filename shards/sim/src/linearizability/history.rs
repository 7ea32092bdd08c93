//! What a history is made of: operations, what each does to a range, and what its client was told.
//! It decides nothing about orders.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What a client asked of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The values of keys, read at one moment. A plain read names one.
    Read(Vec<Bytes>),
    /// All keys from the first on and before the second (to the end, if `None`), with values.
    Scan(Bytes, Option<Bytes>),
    /// Sets keys, all at one moment.
    Write(Vec<(Bytes, Bytes)>),
    /// Removes a key; its outcome is how many were there.
    Delete(Bytes),
    /// Appends to a key's value; its outcome is the new length.
    Append(Bytes, Bytes),
    /// Adds to a key's number (none counts as zero); its outcome is the new number.
    Add(Bytes, i64),
    /// Replaces a key's value if it is the expected one; its outcome is 1 or 0.
    Swap {
        /// The key.
        key: Bytes,
        /// What must be there; `None`: no such key.
        expected: Option<Bytes>,
        /// What shall be there.
        new: Bytes,
    },
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// A number.
    Number(i64),
    /// Values, each where a key of the read stands.
    Values(Vec<Option<Bytes>>),
    /// Keys and values in order.
    Pairs(Vec<(Bytes, Bytes)>),
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked; for people.
    pub client: u64,
    /// When it was called, on any clock that all operations share.
    pub called_at: u64,
    /// What was asked.
    pub action: Action,
    /// When the answer came, and what it was. `None`: the outcome is not known.
    pub answer: Option<(u64, Answer)>,
}

/// The range's state: its live keys.
pub(super) type State = BTreeMap<Bytes, Bytes>;

impl Action {
    /// What it does to the state, and what its client must be told.
    pub(super) fn apply(&self, state: &mut State) -> Answer {
        match self {
            Self::Read(_) | Self::Scan(..) => self.read(state).expect("invariant: it reads"),
            Self::Write(pairs) => {
                state.extend(pairs.iter().cloned());
                Answer::Done
            }
            Self::Delete(key) => Answer::Number(i64::from(state.remove(key).is_some())),
            Self::Append(key, more) => {
                let mut value = state.get(key).map_or_else(Vec::new, |value| value.to_vec());
                value.extend_from_slice(more);
                let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
                state.insert(key.clone(), value.into());
                Answer::Number(length)
            }
            Self::Add(key, delta) => {
                let text = state.get(key).map_or("0".into(), |v| String::from_utf8_lossy(v));
                let sum = text.parse::<i64>().unwrap_or(i64::MIN).saturating_add(*delta);
                state.insert(key.clone(), sum.to_string().into());
                Answer::Number(sum)
            }
            Self::Swap { key, expected, new } => {
                let fits = state.get(key) == expected.as_ref();
                if fits {
                    state.insert(key.clone(), new.clone());
                }
                Answer::Number(i64::from(fits))
            }
        }
    }

    /// What the client of a read must be told; `None`: it is none.
    pub(super) fn read(&self, state: &State) -> Option<Answer> {
        match self {
            Self::Read(keys) => {
                Some(Answer::Values(keys.iter().map(|key| state.get(key).cloned()).collect()))
            }
            Self::Scan(from, to) => {
                let until = |key: &Bytes| to.as_ref().is_none_or(|to| key < to);
                let pairs = state.range(from.clone()..).take_while(|(key, _)| until(key));
                let pairs = pairs.map(|(key, value)| (key.clone(), value.clone()));
                Some(Answer::Pairs(pairs.collect()))
            }
            Self::Write(_)
            | Self::Delete(_)
            | Self::Append(..)
            | Self::Add(..)
            | Self::Swap { .. } => None,
        }
    }

    /// The keys that it names; a scan names none.
    pub(super) fn keys(&self) -> Vec<&Bytes> {
        match self {
            Self::Read(keys) => keys.iter().collect(),
            Self::Scan(..) => Vec::new(),
            Self::Write(pairs) => pairs.iter().map(|(key, _)| key).collect(),
            Self::Delete(key) | Self::Append(key, _) | Self::Add(key, _) => vec![key],
            Self::Swap { key, .. } => vec![key],
        }
    }

    pub(super) fn touches(&self, other: &Self) -> bool {
        let scans = |action: &Self| matches!(action, Self::Scan(..));
        scans(self) || scans(other) || self.keys().iter().any(|key| other.keys().contains(key))
    }

    /// Whether a key may have this value by it, or by it and others behind it.
    pub(super) fn may_make(&self, key: &Bytes, value: Option<&Bytes>) -> bool {
        let is_number = |text: &Bytes| String::from_utf8_lossy(text).parse::<i64>().is_ok();
        let begins = |with: &Bytes| {
            value.is_some_and(|v| v.starts_with(with) || (is_number(v) && is_number(with)))
        };
        match self {
            Self::Read(_) | Self::Scan(..) => false,
            Self::Write(pairs) => pairs.iter().any(|(of, new)| of == key && begins(new)),
            Self::Swap { key: of, new, .. } => of == key && begins(new),
            Self::Append(of, more) => {
                let holds = |value: &Bytes| value.windows(more.len().max(1)).any(|w| w == more);
                of == key && value.is_some_and(holds)
            }
            Self::Add(of, _) => of == key && value.is_some(),
            // What is appended or added to begins anew behind it.
            Self::Delete(of) => of == key,
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Scan(..))
    }
}

/// What a read was told of a key; `None` if it did not look at it.
pub(super) fn saw(action: &Action, answer: &Answer, key: &Bytes) -> Option<Option<Bytes>> {
    match (action, answer) {
        (Action::Read(keys), Answer::Values(values)) => {
            let place = keys.iter().position(|other| other == key)?;
            values.get(place).cloned()
        }
        (Action::Scan(from, to), Answer::Pairs(pairs)) => {
            let is_in = key >= from && to.as_ref().is_none_or(|to| key < to);
            let pair = pairs.iter().find(|(other, _)| other == key);
            is_in.then(|| pair.map(|(_, value)| value.clone()))
        }
        _ => None,
    }
}

pub(super) fn tell(at: usize, operation: &Operation) -> String {
    let Operation { client, called_at, action, answer } = operation;
    match answer {
        Some((answered, answer)) => {
            format!("#{at} client {client} [{called_at}, {answered}] {action:?} -> {answer:?}")
        }
        None => format!("#{at} client {client} [{called_at}, …] {action:?} -> not known"),
    }
}
