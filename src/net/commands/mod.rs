//! The commands: which there are, and what their arguments mean. No state, no sockets, no effects.
//!
//! Map: [`table`] lists every command with its arity, flags and keys, [`strings`] and [`expiry`]
//! read the data commands, [`connection`] those that a connection answers itself, [`oarlock`] the
//! commands that Redis has not, `rules` those of them about rules for keys, [`error`] what is wrong with a command in Redis's words, [`glob`]
//! Redis's patterns, [`held_bytes`] what a parsed command takes, [`describe`] answers `COMMAND`.

mod clients;
pub mod connection;
pub mod describe;
pub mod error;
pub mod expiry;
pub mod glob;
mod held;
pub mod oarlock;
mod rules;
pub mod strings;
pub mod table;

use bytes::Bytes;
use oarlock_store::{Command, Order};
use oarlock_types::{GroupId, NodeId};

pub use clients::{ClientFilter, KillReply};
pub use connection::Local;
pub use error::CommandError;
pub use held::held_bytes;
pub use table::{Spec, lookup};

use crate::net::resp::{Args, strict_i64};
use crate::net::session::Query;

/// How long a command's keys and values may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
}

/// A command whose arguments have been understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// For the ranges that own its keys.
    Data(Command),
    /// `OARLOCK ONCE`: for one range, at most once.
    Once {
        /// The request id.
        id: Bytes,
        /// What to do.
        command: Command,
    },
    /// Answered by the connection itself.
    Local(Local),
    /// For all cores of this node.
    Query(Query),
    /// `CLIENT LIST`.
    ClientList(ClientFilter),
    /// `CLIENT KILL`.
    ClientKill(ClientFilter, KillReply),
    /// Asks something of the range of a key.
    Order(Order),
    /// For one group, whatever keys it names.
    Group {
        /// The group.
        group: GroupId,
        /// What to do.
        command: Command,
    },
    /// `OARLOCK REBUILD`.
    Rebuild {
        /// The range's group.
        group: GroupId,
        /// Whose replica.
        node: NodeId,
    },
    /// `SCAN`.
    Scan(ScanArgs),
    /// `OARLOCK SCAN`.
    RangeScan(RangeScanArgs),
    /// `DBSIZE`.
    DbSize,
    /// `MULTI`.
    Multi,
    /// `EXEC`.
    Exec,
    /// `DISCARD`.
    Discard,
    /// `WATCH`.
    Watch(Vec<Bytes>),
    /// `UNWATCH`.
    Unwatch,
}

/// What `SCAN` was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanArgs {
    /// Zero to begin, else what the last reply named.
    pub cursor: u64,
    /// `MATCH`: the pattern of the keys that are returned.
    pub pattern: Option<Bytes>,
    /// `COUNT`: about how many keys are looked at.
    pub count: u32,
    /// `TYPE`: whether it names the one type that there is, or none was given.
    pub strings: bool,
}

/// What `OARLOCK SCAN` was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeScanArgs {
    /// The first key that may be returned.
    pub start: Bytes,
    /// Before this key; `None`: to the last.
    pub end: Option<Bytes>,
    /// Most keys returned.
    pub limit: u32,
    /// From the end backwards.
    pub reverse: bool,
}

/// Reads the arguments of the command that `spec` describes; the arity has been checked.
///
/// # Errors
/// In Redis's words, where Redis has the command.
pub fn parse(spec: &Spec, args: &Args<'_>, limits: &KeyLimits) -> Result<Parsed, CommandError> {
    (spec.parse)(&Input { args: *args, limits })
}

/// A command's arguments and the limits that they must keep.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    args: Args<'a>,
    limits: &'a KeyLimits,
}

impl<'a> Input<'a> {
    /// How many arguments, the command's name included.
    fn len(&self) -> usize {
        self.args.len()
    }

    /// The argument at `index`, if it is there.
    fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.args.get(index)
    }

    /// The argument at `index`, which the syntax demands.
    fn required(&self, index: usize) -> Result<&'a [u8], CommandError> {
        self.args.get(index).ok_or(CommandError::Syntax)
    }

    /// The key at `index`.
    fn key(&self, index: usize) -> Result<Bytes, CommandError> {
        let key = self.required(index)?;
        if key.len() > self.limits.key_bytes_max {
            return Err(CommandError::KeyTooLong(self.limits.key_bytes_max));
        }
        Ok(Bytes::copy_from_slice(key))
    }

    /// The keys from `first` on.
    fn keys(&self, first: usize) -> Result<Vec<Bytes>, CommandError> {
        (first..self.len()).map(|index| self.key(index)).collect()
    }

    /// The value at `index`.
    fn value(&self, index: usize) -> Result<Bytes, CommandError> {
        let value = self.required(index)?;
        if value.len() > self.limits.value_bytes_max {
            return Err(CommandError::ValueTooLong(self.limits.value_bytes_max));
        }
        Ok(Bytes::copy_from_slice(value))
    }

    /// The integer at `index`.
    fn integer(&self, index: usize) -> Result<i64, CommandError> {
        strict_i64(self.required(index)?).ok_or(CommandError::NotAnInteger)
    }

    /// Whether the argument at `index` is `word`, in any case.
    fn is(&self, index: usize, word: &str) -> bool {
        self.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The arguments from `first` on, as a command of their own.
    fn skip(&self, first: usize) -> Self {
        Self { args: self.args.skip(first), limits: self.limits }
    }
}
