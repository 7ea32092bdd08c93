//! What a plan says: tasks with their reasons, and what can not be done with its obstacle.
//!
//! A task is one step for the executor. It does not say how: that a new replica is a learner first,
//! that old and new members overlap in a joint configuration, how fast bytes are copied.

use std::fmt;

use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId, RangeEpoch};

/// One step, for one range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The range's group.
    pub group: GroupId,
    /// The range's version when this was planned.
    pub epoch: RangeEpoch,
    /// What to do.
    pub action: Action,
    /// What for.
    pub reason: Reason,
}

/// What to do with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new voter; a learner that is there already becomes it.
    Add {
        /// Where.
        to: CoreAddr,
    },
    /// A new voter instead of an old one, in one change. If the old one leads, the new one leads.
    Replace {
        /// Who goes.
        from: CoreAddr,
        /// Who comes; a learner that is there already becomes it.
        to: CoreAddr,
    },
    /// A member goes.
    Remove {
        /// Who.
        from: CoreAddr,
    },
    /// Another voter leads.
    Transfer {
        /// Who leads now.
        from: NodeId,
        /// Who should.
        to: NodeId,
    },
    /// A replica goes to another core of its node. It keeps its vote and its log.
    MoveCore {
        /// The node.
        node: NodeId,
        /// The core that has it.
        from: CoreId,
        /// The core that should.
        to: CoreId,
    },
    /// The range is cut in two, which stay where it was.
    Split(SplitAt),
    /// The range takes in its right neighbour.
    Merge {
        /// The neighbour.
        right: GroupId,
        /// Its version.
        right_epoch: RangeEpoch,
    },
}

/// Where a range is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitAt {
    /// Half of its bytes on either side.
    HalfOfBytes,
    /// Half of its load on either side, by the samples.
    HalfOfLoad,
    /// At the first key that is under other rules.
    Border,
}

/// What is shared out among nodes or cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Replicas, by their number.
    Replicas,
    /// Replicas, by their bytes.
    Bytes,
    /// Writes per second, at every replica.
    Writes,
    /// Leaders, by their number.
    Leaders,
    /// Reads per second, at the leader.
    Reads,
    /// Requests per second of a core.
    Load,
}

/// Why something is to be done. Its text ends a sentence about the range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A node with a replica is down for longer than the setting, for so many milliseconds.
    Gone(NodeId, u64),
    /// A node with a replica was removed by the operator, or is not known.
    Removed(NodeId),
    /// A node with a replica is being drained.
    Draining(NodeId),
    /// Other rules begin at this key inside it.
    Border(Vec<u8>),
    /// Fewer voters than the rules want: so many of so many.
    TooFew(usize, u8),
    /// More voters than the rules want: so many for so many.
    TooMany(usize, u8),
    /// A learner of a task that was given up.
    Leftover(NodeId),
    /// A replica is on a node that the rules do not allow.
    NotPinned(NodeId),
    /// Several replicas share this zone, and one could be elsewhere.
    SharedZone(String),
    /// The rules want the leader in this zone.
    LeaderZone(String),
    /// A node has more than its fair share, another less.
    UnevenNodes {
        /// Of what.
        share: Share,
        /// The fuller node.
        from: NodeId,
        /// What it has, in percent of its fair share.
        from_percent: u32,
        /// The emptier node.
        to: NodeId,
        /// What it has, in percent of its fair share.
        to_percent: u32,
    },
    /// A core has more than its fair share, another of the same node less.
    UnevenCores {
        /// Of what.
        share: Share,
        /// What the fuller core has, in percent of its fair share.
        from_percent: u32,
        /// What the emptier core has, in percent of its fair share.
        to_percent: u32,
    },
    /// Other replicas of the range are on this core number.
    Align(CoreId),
    /// It has grown to so many bytes and keys.
    Size(u64, u64),
    /// It has so many requests per second.
    Load(u64),
    /// It and a neighbour are small and cold: so many bytes and requests per second together.
    Small(GroupId, u64, u64),
}

/// Why something that should be done can not be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// Nobody leads the range, so that nothing of it can change.
    NoLeader,
    /// So many voters are up and caught up, and so many are needed.
    NoQuorum(usize, usize),
    /// All nodes that are up hold a replica.
    NoNode,
    /// All nodes that the rules allow hold a replica or are not up.
    NoPinnedNode,
    /// All nodes that could take it are full.
    Full,
    /// The replicas are in so many zones, and no node in a further one is up.
    NoZone(usize),
    /// No voter in the wanted zone, and no node there can take one.
    NoLeaderZone,
    /// The voters in the wanted zone are not up, caught up and on nodes that serve.
    NoVoterThere,
    /// Without that replica too few voters would be up and caught up.
    NeedsAll,
    /// A single key has most of the load.
    HotKey,
    /// It has a single key.
    SingleKey,
}

/// What should be done and can not be, once for all ranges that it is true of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What for.
    pub reason: Reason,
    /// What is in the way.
    pub obstacle: Obstacle,
    /// The first of the ranges, in the order of their keys.
    pub first: GroupId,
    /// How many ranges.
    pub count: usize,
}

impl Reason {
    /// Whether replicas are out of order, and not only uneven.
    pub(crate) fn is_need(&self) -> bool {
        match self {
            Self::Gone(..)
            | Self::Removed(_)
            | Self::Draining(_)
            | Self::Border(_)
            | Self::TooFew(..)
            | Self::TooMany(..)
            | Self::Leftover(_)
            | Self::NotPinned(_)
            | Self::SharedZone(_)
            | Self::LeaderZone(_) => true,
            Self::UnevenNodes { .. }
            | Self::UnevenCores { .. }
            | Self::Align(_)
            | Self::Size(..)
            | Self::Load(_)
            | Self::Small(..) => false,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.group, self.action, self.reason)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { to } => write!(f, "add {to}"),
            Self::Replace { from, to } => write!(f, "replace {from} by {to}"),
            Self::Remove { from } => write!(f, "remove {from}"),
            Self::Transfer { from, to } => write!(f, "transfer from {from} to {to}"),
            Self::MoveCore { node, from, to } => write!(f, "move {node}/{from} to {node}/{to}"),
            Self::Split(SplitAt::HalfOfBytes) => write!(f, "split at half of its bytes"),
            Self::Split(SplitAt::HalfOfLoad) => write!(f, "split at half of its load"),
            Self::Split(SplitAt::Border) => write!(f, "split where other rules begin"),
            Self::Merge { right, .. } => write!(f, "merge {right} into it"),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replicas => "replicas",
            Self::Bytes => "bytes",
            Self::Writes => "writes",
            Self::Leaders => "leaders",
            Self::Reads => "reads",
            Self::Load => "load",
        })
    }
}

/// Milliseconds as people say them.
pub(crate) struct Spell(pub(crate) u64);

impl fmt::Display for Spell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms @ 0..1_000 => write!(f, "{ms} ms"),
            ms @ 1_000..600_000 => write!(f, "{} s", ms / 1_000),
            ms @ 600_000..36_000_000 => write!(f, "{} min", ms / 60_000),
            ms => write!(f, "{} h", ms / 3_600_000),
        }
    }
}

/// Bytes as people say them.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0..1_024 => return write!(f, "{} B", self.0),
            1_024..0x10_0000 => (1 << 10, "KiB"),
            0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
            _ => (1 << 30, "GiB"),
        };
        write!(f, "{}.{} {name}", self.0 / unit, self.0 % unit * 10 / unit)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(node, ms) => write!(f, "{node} has been down for {}", Spell(*ms)),
            Self::Removed(node) => write!(f, "{node} was removed"),
            Self::Draining(node) => write!(f, "{node} is being drained"),
            Self::Border(key) => {
                write!(f, "other rules begin at \"{}\" inside it", key.escape_ascii())
            }
            Self::TooFew(have, want) => write!(f, "it has {have} of {want} replicas"),
            Self::TooMany(have, want) => write!(f, "it has {have} replicas for {want}"),
            Self::Leftover(node) => write!(f, "the learner on {node} was left over"),
            Self::NotPinned(node) => write!(f, "it is pinned to other nodes than {node}"),
            Self::SharedZone(zone) => write!(f, "several of its replicas share zone {zone}"),
            Self::LeaderZone(zone) => write!(f, "its leader should be in zone {zone}"),
            Self::UnevenNodes { share, from, from_percent, to, to_percent } => write!(
                f,
                "{from} has {from_percent} % of its fair share of {share}, {to} {to_percent} %"
            ),
            Self::UnevenCores { share, from_percent, to_percent } => write!(
                f,
                "the core has {from_percent} % of its fair share of {share}, the other {to_percent} %"
            ),
            Self::Align(core) => write!(f, "other replicas of it are on {core}"),
            Self::Size(bytes, keys) => write!(f, "it has {} and {keys} keys", Bytes(*bytes)),
            Self::Load(per_s) => write!(f, "it has {per_s} requests/s"),
            Self::Small(other, bytes, per_s) => {
                write!(f, "with {other} it has {} and {per_s} requests/s", Bytes(*bytes))
            }
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => write!(f, "nobody leads it"),
            Self::NoQuorum(sound, needed) => {
                write!(f, "{sound} of its voters are up and caught up, and {needed} are needed")
            }
            Self::NoNode => write!(f, "every node that is up holds a replica of it"),
            Self::NoPinnedNode => {
                write!(f, "no node that it is pinned to is up and without a replica of it")
            }
            Self::Full => write!(f, "every node that could take it is full"),
            Self::NoZone(zones) => {
                let further = match zones {
                    1 => "second",
                    2 => "third",
                    3 => "fourth",
                    4 => "fifth",
                    _ => "further",
                };
                write!(f, "no node in a {further} zone is up")
            }
            Self::NoLeaderZone => write!(f, "no node there can take a replica"),
            Self::NoVoterThere => write!(f, "no voter there can lead now"),
            Self::NeedsAll => write!(f, "without that replica too few voters would be up"),
            Self::HotKey => write!(f, "a single key has most of them, and no split would part it"),
            Self::SingleKey => write!(f, "a single key can not be split"),
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.count > 1 {
            write!(f, " and {} more", self.count - 1)?;
        }
        write!(f, ": {}, but {}", self.reason, self.obstacle)
    }
}
