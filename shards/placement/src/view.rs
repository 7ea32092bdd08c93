//! What the planner sees: nodes, ranges with their replicas and rates, what is under way, settings.
//!
//! One view for each plan, made by the meta group's leader. Nothing here decides; nothing in it is
//! trusted to be consistent: a replica may name a node or a core that the view does not have.

use oarlock_types::{CoreAddr, GroupId, NodeId, RangeEpoch, WallMs};

use crate::{Settings, Task};

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The moment, on the clock of the meta group's leader.
    pub now: WallMs,
    /// What the operator wants.
    pub settings: Settings,
    /// All nodes that the cluster knows, in any order; of two with one id the first counts.
    pub nodes: Vec<Node>,
    /// The ranges in the order of their keys. The meta group may stand anywhere among them: it is
    /// placed like a range, and neither split nor merged.
    pub ranges: Vec<Range>,
    /// The tasks that were given out and have not ended yet.
    pub under_way: Vec<Task>,
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// How many cores it has; replicas live on `0..cores`.
    pub cores: u16,
    /// Bytes of replicas that it has room for. Also its weight when replicas are shared out.
    pub capacity_bytes: u64,
    /// What fails together with it: a rack, a building. Nodes with equal labels share a zone.
    pub zone: String,
    /// Since when nothing was heard of it; `None` while it is up.
    pub down_since: Option<WallMs>,
    /// What the operator has it do.
    pub duty: Duty,
}

/// What a node is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// It holds replicas.
    #[default]
    Serving,
    /// It is to be emptied, and gets nothing new.
    Draining,
    /// It never comes back: its replicas are lost, however short ago it was seen.
    Removed,
}

/// A range and its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The group that owns it.
    pub group: GroupId,
    /// The version of its bounds and replicas. Tasks carry it, so that a stale one is refused.
    pub epoch: RangeEpoch,
    /// Its group's members, at most one on each node.
    pub replicas: Vec<Replica>,
    /// The node whose replica leads, if one is known to.
    pub leader: Option<NodeId>,
    /// Bytes of its keys and values.
    pub bytes: u64,
    /// Number of its keys.
    pub keys: u64,
    /// Writes per second, smoothed. Each costs every replica.
    pub writes_per_s: u64,
    /// Reads per second, smoothed. Each costs the leader.
    pub reads_per_s: u64,
    /// What the samples of its requests' keys say.
    pub sample: LoadSample,
    /// When it was cut last, or came from a cut.
    pub last_split: Option<WallMs>,
    /// What its owner wants of it; where other rules begin inside it, of the keys before these.
    pub rules: Rules,
    /// The keys for which that was set, in words; `None`: nothing was.
    pub rules_of: Option<String>,
    /// The first of its keys that is under other rules: it is cut there.
    pub border: Option<Vec<u8>>,
}

/// One member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where it lives.
    pub at: CoreAddr,
    /// Whether it votes.
    pub role: ReplicaRole,
    /// Whether it has nearly all of the leader's log. The leader has it by nature.
    pub caught_up: bool,
}

/// Whether a replica counts towards a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaRole {
    /// It votes.
    Voter,
    /// It only receives the log.
    Learner,
}

/// What the samples of a range's keys say about splitting its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadSample {
    /// There are too few samples yet.
    #[default]
    Unknown,
    /// A key is known that parts the load in two halves, more or less.
    SplitPoint,
    /// A single key has most of the load: no cut would part it.
    HotKey,
}

/// What the owner of a range wants of its placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How many voters it has: 1, 3 or 5.
    pub replicas: u8,
    /// The zone that its leader should be in.
    pub leader_zone: Option<String>,
    /// The only nodes that may hold it; any may when there are none.
    pub pinned: Vec<NodeId>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { replicas: 3, leader_zone: None, pinned: Vec::new() }
    }
}

impl Rules {
    /// Whether a node may hold the range.
    #[must_use]
    pub fn allow(&self, node: NodeId) -> bool {
        self.pinned.is_empty() || self.pinned.contains(&node)
    }
}

/// What a node is good for at the view's moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Up, and may get more.
    Serving,
    /// Up, and is being emptied.
    Draining,
    /// Down for so many milliseconds, and expected back.
    Down(u64),
    /// Down for longer than the setting; so many milliseconds.
    Gone(u64),
    /// Removed by the operator.
    Removed,
}

impl Standing {
    /// Whether its replicas answer.
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Serving | Self::Draining)
    }

    /// Whether its replicas are to be replaced because they do not come back.
    pub(crate) fn is_lost(self) -> bool {
        matches!(self, Self::Gone(_) | Self::Removed)
    }
}

impl Node {
    pub(crate) fn standing(&self, now: WallMs, gone_after_ms: u64) -> Standing {
        let down_ms = self.down_since.map(|since| now.0.saturating_sub(since.0));
        match (self.duty, down_ms) {
            (Duty::Removed, _) => Standing::Removed,
            (Duty::Serving | Duty::Draining, Some(ms)) if ms >= gone_after_ms => Standing::Gone(ms),
            (Duty::Serving | Duty::Draining, Some(ms)) => Standing::Down(ms),
            (Duty::Serving, None) => Standing::Serving,
            (Duty::Draining, None) => Standing::Draining,
        }
    }
}

impl Range {
    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.role == ReplicaRole::Voter)
    }

    /// Requests per second.
    #[must_use]
    pub fn load_per_s(&self) -> u64 {
        self.writes_per_s.saturating_add(self.reads_per_s)
    }
}
