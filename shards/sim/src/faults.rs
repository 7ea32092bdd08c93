//! What may go wrong: each fault with its time and length, in words that a person can read and a
//! scenario can write. What a fault does to the world stands in `trouble`.

use std::fmt;

use oarlock_types::{CoreAddr, GroupId, Limits, NodeId};

use crate::cluster::NodeTrouble;

/// A fault of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its place in the schedule that the seed drew: it keeps it when others are left out.
    pub number: usize,
    /// When it begins.
    pub at_us: u64,
    /// How long it lasts.
    pub lasts_us: u64,
    /// What it is.
    pub trouble: Trouble,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at_us / 1000, self.lasts_us / 1000);
        write!(f, "#{} at {at} ms for {lasts} ms: {:?}", self.number, self.trouble)
    }
}

/// The kinds of trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// These nodes and the others do not hear each other.
    Split(Vec<NodeId>),
    /// Nothing gets from the first to the second.
    OneWay(NodeId, NodeId),
    /// These two do not hear each other; others hear both.
    Pair(NodeId, NodeId),
    /// Data does not get from the first to the second, pulses do.
    DataOnly(NodeId, NodeId),
    /// Pulses do not get from the first to the second, data does.
    PulsesOnly(NodeId, NodeId),
    /// Everything from the first to the second takes so much longer.
    SlowLink(NodeId, NodeId, u64),
    /// The connections from the first to the second break.
    BreakLinks(NodeId, NodeId),
    /// They break at the first's end only; the second does not notice.
    HalfOpen(NodeId, NodeId),
    /// The process is killed, and started again at the end.
    Kill(NodeId),
    /// Power fails: what was not flushed is lost, nobody is told.
    PowerLoss(NodeId),
    /// Power fails everywhere at once.
    PowerLossAll,
    /// The process dies, by a kill or by power loss, after so many more effects.
    CrashAtEffect(NodeId, u64, bool),
    /// The process stands still.
    Pause(NodeId),
    /// A core's loop stands still, its node lives.
    StuckCore(CoreAddr),
    /// Writes of a core's log do not end.
    WalStall(CoreAddr),
    /// Writes of a core's log take so many times as long.
    WalSlow(CoreAddr, u64),
    /// The next write of a core's log fails: the process stops.
    WalFail(CoreAddr),
    /// File jobs do not end.
    FilesStall(CoreAddr),
    /// File jobs fail.
    FilesFail(CoreAddr),
    /// The disk is full.
    DiskFull(NodeId),
    /// A node's clock runs at so many thousandths of real time's speed.
    ClockRate(NodeId, u64),
    /// A node's wall clock jumps by so many milliseconds.
    WallJump(NodeId, i64),
    /// A node comes back with blank disks under its old id.
    Blank(NodeId),
    /// A bit flips on the disk while the process is down.
    FlipBit(CoreAddr),
    /// A file is gone.
    DropFile(CoreAddr),
    /// Two segments of the log are exchanged.
    SwapFiles(CoreAddr),
    /// A checkpoint holds an older state than its name and its mark in the log say.
    OldCheckpoint(CoreAddr),
    /// All files of a core are gone, though its node knows who it is.
    LoseFiles(CoreAddr),
    /// Leadership of a group is handed over.
    Transfer(GroupId),
    /// A group's members change.
    Members(GroupId),
    /// A group's range is cut in two.
    Cut(GroupId),
    /// A range that was cut goes back into the one before it.
    Merge(GroupId),
    /// A replica of a group moves to another node.
    Move(GroupId),
    /// A replica of a group goes to another core of its node.
    MoveCore(GroupId),
    /// A node is started with so many cores from now on, at the end first; the first such start dies behind so many
    /// steps, if it does.
    ChangeCores(NodeId, u16, Option<u64>),
    /// What is done with nodes of a cluster that keeps its own map.
    Node(NodeTrouble),
    /// Nodes are gone for good and a group has no quorum: the others are stopped at the end, and gone on from. What
    /// is drawn for that comes from this number.
    LoseQuorum(u64),
}

impl Trouble {
    /// Whether it is beyond what leases promise to withstand.
    #[must_use]
    pub fn is_outside_model(&self, limits: &Limits) -> bool {
        let bound = u64::from(limits.drift_per_mille_max);
        matches!(self, Self::ClockRate(_, rate) if rate.abs_diff(1000) > bound)
    }

    /// The node whose disk it spoils for good, if it does: only so many nodes may suffer that.
    #[must_use]
    pub fn spoils(&self) -> Option<NodeId> {
        match self {
            Self::Blank(node) => Some(*node),
            Self::FlipBit(core)
            | Self::DropFile(core)
            | Self::SwapFiles(core)
            | Self::OldCheckpoint(core)
            | Self::LoseFiles(core) => Some(core.node),
            Self::Split(_)
            | Self::OneWay(..)
            | Self::Pair(..)
            | Self::DataOnly(..)
            | Self::PulsesOnly(..)
            | Self::SlowLink(..)
            | Self::BreakLinks(..)
            | Self::HalfOpen(..)
            | Self::Kill(_)
            | Self::PowerLoss(_)
            | Self::PowerLossAll
            | Self::CrashAtEffect(..)
            | Self::Pause(_)
            | Self::StuckCore(_)
            | Self::WalStall(_)
            | Self::WalSlow(..)
            | Self::WalFail(_)
            | Self::FilesStall(_)
            | Self::FilesFail(_)
            | Self::DiskFull(_)
            | Self::ClockRate(..)
            | Self::WallJump(..)
            | Self::Transfer(_)
            | Self::Members(_)
            | Self::Move(_)
            | Self::MoveCore(_)
            | Self::Merge(_)
            | Self::Cut(_)
            | Self::ChangeCores(..)
            | Self::Node(_)
            | Self::LoseQuorum(_) => None,
        }
    }
}
