//! What recovery found wrong, in words that an operator can act on. Pure data.

use std::fmt;

use oarlock_types::{FeatureLevels, GroupId, Lsn, SegmentId};

use crate::layout::{Owner, VERSION};

/// Something that is not as the log left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub segment: SegmentId,
    /// Where in the segment, in bytes.
    pub offset: u64,
    /// What.
    pub kind: DamageKind,
    /// Whom it concerns.
    pub affected: Affected,
}

/// The groups whose log may have lost something to a [`Damage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// Any group of the core.
    All,
    /// These; empty: nothing was lost.
    Groups(Vec<GroupId>),
}

/// The kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// A frame that was durable has changed.
    CorruptFrame {
        /// Its place in the log.
        lsn: Lsn,
    },
    /// Frames that were durable are not there.
    MissingFrames {
        /// The first that is missing.
        from: Lsn,
        /// The next that is there.
        until: Lsn,
    },
    /// Frames stand where older ones than the last are not expected.
    RepeatedFrames {
        /// The frame that is there.
        found: Lsn,
        /// The frame that was due.
        expected: Lsn,
    },
    /// A frame's head had one wrong bit, which was put right; its content is whole.
    RepairedFrame {
        /// Its place in the log.
        lsn: Lsn,
    },
    /// Segment files are not there, from the one named on.
    MissingSegments {
        /// How many.
        count: u64,
    },
    /// A segment file has another length than its header says.
    WrongLength {
        /// What it has.
        found: u64,
        /// What it should have.
        expected: u64,
    },
    /// A segment's header can not be read. Its frames prove themselves without it.
    BadHeader,
    /// A newer build wrote the segment, or frames of it: nothing is damaged, and this build must
    /// leave the log alone.
    NewerVersion {
        /// Its version.
        found: u16,
    },
    /// A record that is whole is none that this build knows. It is the same: a newer build wrote it.
    UnknownRecord {
        /// The place of its frame in the log.
        lsn: Lsn,
    },
    /// The segment belongs to another node, disk or core.
    ForeignSegment {
        /// Whose it is.
        owner: Owner,
    },
    /// The file's header names another segment than its file name.
    WrongSegment {
        /// The segment that the header names.
        found: SegmentId,
    },
    /// The log holds a group without its beginning, or with a hole.
    IncompleteGroup,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CorruptFrame { lsn } => {
                write!(f, "frame {} was durable and has changed", lsn.get())
            }
            Self::MissingFrames { from, until } => {
                write!(f, "frames {} to {} are missing", from.get(), until.get().saturating_sub(1))
            }
            Self::RepeatedFrames { found, expected } => {
                write!(f, "frame {} stands where {} was due", found.get(), expected.get())
            }
            Self::RepairedFrame { lsn } => {
                write!(f, "frame {} had one wrong bit, which was put right", lsn.get())
            }
            Self::MissingSegments { count: 1 } => write!(f, "the segment file is missing"),
            Self::MissingSegments { count } => {
                write!(f, "{count} segment files are missing, beginning with this one")
            }
            Self::WrongLength { found, expected } => {
                write!(f, "the file is {found} bytes long instead of {expected}")
            }
            Self::BadHeader => write!(f, "the segment's header can not be read"),
            Self::NewerVersion { found } => {
                write!(f, "written in format {found}, this build reads up to {VERSION}: upgrade it")
            }
            Self::UnknownRecord { lsn } => {
                let (lsn, levels) = (lsn.get(), FeatureLevels::BUILD);
                write!(
                    f,
                    "frame {lsn} has a record that this build does not know ({levels}): upgrade it"
                )
            }
            Self::ForeignSegment { owner } => {
                let Owner { cluster, node, disk, core } = owner;
                write!(f, "the file belongs to {node}/{core}, {disk}, {cluster}")
            }
            Self::WrongSegment { found } => {
                write!(f, "the file is segment {:016x} under another name", found.get())
            }
            Self::IncompleteGroup => write!(f, "a group's records are incomplete"),
        }
    }
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "all groups of the core"),
            Self::Groups(groups) if groups.is_empty() => write!(f, "nothing was lost"),
            Self::Groups(groups) => {
                for (n, group) in groups.iter().enumerate() {
                    write!(f, "{}{group}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, kind, affected } = self;
        write!(f, "segment {:016x} at byte {offset}: {kind} ({affected})", segment.get())
    }
}
