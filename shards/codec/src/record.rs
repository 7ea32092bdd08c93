//! Records of a core's write-ahead log. A frame of the log holds a row of them, each with a small
//! head of its own, so that a reader finds one group's records without reading the others', and
//! damage inside a frame can be laid at the door of the group whose record it hit.
//!
//! The head is 24 bytes: body length u32, CRC-32 of the padded body u32, group u64, kind u16,
//! flags u16, CRC-32 of the head so far u32. The body is an archive, padded with zeros to a
//! multiple of eight. Head and body have checksums of their own, so that the group that a damaged
//! body belongs to is known for certain.

use bytes::Bytes;
use oarlock_raft::{Configuration, Entry, HardState, SnapshotMeta};
use oarlock_types::{GroupId, Index};
use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Archived, Deserialize, Place, Serialize};
use thiserror::Error;

use crate::archive;

/// The length of a record's head.
pub const HEAD_BYTES: usize = 24;
const FLAG_MOVED: u16 = 1;

/// One thing that a core's log says of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Entries that follow each other. One at an index that the log has replaces it and all after.
    Entries {
        /// The group.
        group: GroupId,
        /// The entries, at least one.
        entries: Vec<Entry>,
    },
    /// The newest term and vote.
    HardState {
        /// The group.
        group: GroupId,
        /// The term and vote.
        hard_state: HardState,
    },
    /// A checkpoint's file is durable; entries before `keep_from` are no longer needed.
    Checkpoint {
        /// The group.
        group: GroupId,
        /// What the checkpoint holds.
        meta: SnapshotMeta,
        /// The first index that stays in the log; `Index(u64::MAX)` drops the whole log, as after
        /// a checkpoint from the leader that the log does not match.
        keep_from: Index,
    },
    /// The group has a replica here from now on. Whatever the log said of it before is void.
    Create {
        /// The group.
        group: GroupId,
        /// Its first configuration.
        configuration: Configuration,
        /// What the shard wants back when it opens the replica again; not looked into.
        details: Bytes,
    },
    /// The group's replica is gone from here, with all that the log says of it.
    Destroy {
        /// The group.
        group: GroupId,
    },
}

impl Record {
    /// Its group.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        match self {
            Self::Entries { group, .. }
            | Self::HardState { group, .. }
            | Self::Checkpoint { group, .. }
            | Self::Create { group, .. }
            | Self::Destroy { group } => *group,
        }
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> RecordKind {
        match self {
            Self::Entries { .. } => RecordKind::Entries,
            Self::HardState { .. } => RecordKind::HardState,
            Self::Checkpoint { .. } => RecordKind::Checkpoint,
            Self::Create { .. } => RecordKind::Create,
            Self::Destroy { .. } => RecordKind::Destroy,
        }
    }
}

/// The kinds of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum RecordKind {
    /// [`Record::Entries`].
    Entries = 1,
    /// [`Record::HardState`].
    HardState = 2,
    /// [`Record::Checkpoint`].
    Checkpoint = 3,
    /// [`Record::Create`].
    Create = 4,
    /// [`Record::Destroy`].
    Destroy = 5,
    /// [`Record::Entries`] in a shorter form, from [`oarlock_types::FeatureLevel::PACKED`] on.
    PackedEntries = 6,
}

impl RecordKind {
    const ALL: [Self; 6] = [
        Self::Entries,
        Self::HardState,
        Self::Checkpoint,
        Self::Create,
        Self::Destroy,
        Self::PackedEntries,
    ];
}

/// A record's checksum is right, but its content is not valid: this build did not write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a record's content is not valid although its checksum is right")]
pub struct BadRecord;

/// A record whose checksum was found right and whose body has not been read yet.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// The group.
    pub group: GroupId,
    /// The kind.
    pub kind: RecordKind,
    /// It was copied from an older segment: it says what already holds and replaces nothing.
    pub moved: bool,
    body: &'a [u8],
}

#[derive(Archive, Serialize, Deserialize)]
struct CheckpointBody {
    meta: SnapshotMeta,
    keep_from: Index,
}

#[derive(Archive, Serialize, Deserialize)]
struct CreateBody {
    configuration: Configuration,
    details: Bytes,
}

/// Archives borrowed entries as a `Vec<Entry>`, so that the hot path clones none.
struct Borrowed<'a>(&'a [Entry]);

impl Archive for Borrowed<'_> {
    type Archived = ArchivedVec<Archived<Entry>>;
    type Resolver = VecResolver;
    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(self.0, resolver, out);
    }
}

impl<S> Serialize<S> for Borrowed<'_>
where
    S: Fallible + Allocator + Writer + ?Sized,
    Entry: Serialize<S>,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedVec::<Archived<Entry>>::serialize_from_slice(self.0, serializer)
    }
}

/// Appends a record to a row of records. The row must start at a multiple of eight bytes.
pub fn encode(record: &Record, moved: bool, out: &mut Vec<u8>) {
    let group = record.group();
    match record {
        Record::Entries { entries, .. } => encode_entries(group, entries, false, moved, out),
        Record::HardState { hard_state, .. } => {
            put(group, RecordKind::HardState, moved, out, |out| archive::append(hard_state, out));
        }
        Record::Checkpoint { meta, keep_from, .. } => {
            let body = CheckpointBody { meta: meta.clone(), keep_from: *keep_from };
            put(group, RecordKind::Checkpoint, moved, out, |out| archive::append(&body, out));
        }
        Record::Create { configuration, details, .. } => {
            let body =
                CreateBody { configuration: configuration.clone(), details: details.clone() };
            put(group, RecordKind::Create, moved, out, |out| archive::append(&body, out));
        }
        Record::Destroy { .. } => put(group, RecordKind::Destroy, moved, out, |_| ()),
    }
}

/// Appends a [`Record::Entries`] of borrowed entries, packed or as an archive.
pub fn encode_entries(
    group: GroupId,
    entries: &[Entry],
    packed: bool,
    moved: bool,
    out: &mut Vec<u8>,
) {
    if packed {
        put(group, RecordKind::PackedEntries, moved, out, |out| {
            let packed = postcard::to_extend(entries, std::mem::take(out));
            *out = packed.expect("invariant: plain values in memory can always be packed");
        });
    } else {
        put(group, RecordKind::Entries, moved, out, |out| archive::append(&Borrowed(entries), out));
    }
}

fn put(
    group: GroupId,
    kind: RecordKind,
    moved: bool,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    body(out);
    let body_bytes = u32::try_from(out.len() - start - HEAD_BYTES)
        .expect("invariant: a record fits into a frame, which is far below 4 GiB");
    out.resize(out.len().next_multiple_of(8), 0);
    let record = &mut out[start..];
    record[0..4].copy_from_slice(&body_bytes.to_le_bytes());
    record[8..16].copy_from_slice(&group.get().to_le_bytes());
    record[16..18].copy_from_slice(&(kind as u16).to_le_bytes());
    record[18..20].copy_from_slice(&(if moved { FLAG_MOVED } else { 0 }).to_le_bytes());
    let body_crc = crc32fast::hash(&record[HEAD_BYTES..]);
    record[4..8].copy_from_slice(&body_crc.to_le_bytes());
    let head_crc = crc32fast::hash(&record[..20]);
    record[20..24].copy_from_slice(&head_crc.to_le_bytes());
}

/// A row of records, read from its start.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records in `row`.
    #[must_use]
    pub const fn new(row: &'a [u8]) -> Self {
        Self { rest: row }
    }
}

/// One step through a row.
#[derive(Debug)]
pub enum Step<'a> {
    /// A record whose checksums are right.
    Record(RawRecord<'a>),
    /// A record whose body changed. What follows it can be read.
    Bad {
        /// The group that it belongs to.
        group: GroupId,
    },
    /// A record whose checksums are right, of a kind or with flags that this build does not know: a newer one
    /// wrote it. What follows it can be read.
    Unknown {
        /// The group that it belongs to.
        group: GroupId,
    },
    /// A record's head changed: the rest of the row can not be cut into records.
    Lost,
}

impl<'a> Iterator for Records<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let row = std::mem::take(&mut self.rest);
        let head = row.first_chunk::<HEAD_BYTES>();
        let Some(head) = head.filter(|head| crc32fast::hash(&head[..20]) == word(&head[20..]))
        else {
            return Some(Step::Lost);
        };
        let group = GroupId(u64::from(word(&head[8..])) | u64::from(word(&head[12..])) << 32);
        let body_end = HEAD_BYTES.saturating_add(word(head) as usize);
        let padded = body_end.checked_next_multiple_of(8).filter(|end| *end <= row.len());
        let Some(padded) = padded else { return Some(Step::Lost) };
        self.rest = &row[padded..];
        let code = u16::from_le_bytes([head[16], head[17]]);
        let flags = u16::from_le_bytes([head[18], head[19]]);
        let kind = RecordKind::ALL.into_iter().find(|kind| *kind as u16 == code);
        let whole = crc32fast::hash(&row[HEAD_BYTES..padded]) == word(&head[4..]);
        Some(match kind {
            Some(kind) if whole && flags <= FLAG_MOVED => {
                let body = &row[HEAD_BYTES..body_end];
                Step::Record(RawRecord { group, kind, moved: flags == FLAG_MOVED, body })
            }
            Some(_) | None if whole => Step::Unknown { group },
            Some(_) | None => Step::Bad { group },
        })
    }
}

fn unpack(body: &[u8]) -> Option<Vec<Entry>> {
    let (entries, rest) = postcard::take_from_bytes(body).ok()?;
    rest.is_empty().then_some(entries)
}

fn entries(group: GroupId, entries: Vec<Entry>) -> Result<Record, BadRecord> {
    let in_order = entries.windows(2).all(|two| two[0].at.index.next() == two[1].at.index);
    if entries.is_empty() || !in_order {
        return Err(BadRecord);
    }
    Ok(Record::Entries { group, entries })
}

/// The first four bytes as a number.
fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl RawRecord<'_> {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is no valid archive of its kind.
    pub fn decode(&self) -> Result<Record, BadRecord> {
        let group = self.group;
        let bad = BadRecord;
        Ok(match self.kind {
            RecordKind::Entries => entries(group, archive::read(self.body).ok_or(bad)?)?,
            RecordKind::PackedEntries => entries(group, unpack(self.body).ok_or(bad)?)?,
            RecordKind::HardState => {
                Record::HardState { group, hard_state: archive::read(self.body).ok_or(bad)? }
            }
            RecordKind::Checkpoint => {
                let CheckpointBody { meta, keep_from } = archive::read(self.body).ok_or(bad)?;
                Record::Checkpoint { group, meta, keep_from }
            }
            RecordKind::Create => {
                let CreateBody { configuration, details } = archive::read(self.body).ok_or(bad)?;
                Record::Create { group, configuration, details }
            }
            RecordKind::Destroy => Record::Destroy { group },
        })
    }

    /// Bytes that it takes in the row.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        (HEAD_BYTES + self.body.len()).next_multiple_of(8)
    }
}
