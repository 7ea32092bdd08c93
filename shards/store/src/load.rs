//! Reads a checkpoint back, in slices. One per replica that starts or receives a snapshot.
//!
//! It must not trust a byte: any input gives a store that is exactly the one written, or an error
//! that says where, and takes no more memory than a few times what was fed.

use std::fmt;

use bytes::Bytes;
use crc32fast::Hasher;
use oarlock_types::{GroupId, Guard, Index, RangeBounds, RangeEpoch, WallMs};

use crate::checkpoint::{
    BOUNDS_HEAD_BYTES, CHUNK_BYTES, CHUNK_HEAD_BYTES, CHUNK_LAST, FROZEN_HEAD_BYTES, HEADER_BYTES,
    Header, KEY_HEAD_BYTES, MAGIC, ONCE_HEAD_BYTES, TAG_BOUNDS, TAG_FROZEN, TAG_KEY, TAG_ONCE,
    TAG_TAKEN, TAKEN_BYTES, VERSION,
};
use crate::key::Key;
use crate::map::Slot;
use crate::merge::Frozen;
use crate::once::OnceRecord;
use crate::reply_bytes::read_reply;
use crate::store::{Store, StoreLimits};

/// Why bytes are no whole checkpoint. The remedy is the same for all but a newer version: take the
/// checkpoint from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file does not begin like a checkpoint.
    NotACheckpoint,
    /// The format is of another version.
    Version {
        /// The version that was found.
        found: u16,
    },
    /// The header is damaged.
    Header,
    /// The chunk that begins at `offset` has an impossible length.
    ChunkLength {
        /// Where, in bytes from the file's beginning.
        offset: u64,
    },
    /// The chunk that begins at `offset` is damaged, or one before it is missing.
    ChunkChecksum {
        /// Where.
        offset: u64,
    },
    /// A record that ends in the chunk at `offset` makes no sense, though its checksum is right.
    Record {
        /// Where.
        offset: u64,
    },
    /// The file ends at `offset`, before its end mark.
    Truncated {
        /// Where.
        offset: u64,
    },
    /// There is something behind the end mark.
    TrailingBytes {
        /// Where.
        offset: u64,
    },
    /// The contents are not what the header announces.
    Contents {
        /// Where the file ends.
        offset: u64,
    },
    /// It is whole, and another one than was asked for.
    OtherState {
        /// The entry up to which it goes.
        found: Index,
    },
}

impl LoadError {
    /// How many bytes from the beginning the trouble is.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match *self {
            Self::NotACheckpoint
            | Self::Version { .. }
            | Self::Header
            | Self::OtherState { .. } => 0,
            Self::ChunkLength { offset }
            | Self::ChunkChecksum { offset }
            | Self::Record { offset }
            | Self::Truncated { offset }
            | Self::TrailingBytes { offset }
            | Self::Contents { offset } => offset,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::NotACheckpoint => "it does not begin like a checkpoint",
            Self::Version { found } => {
                return write!(
                    f,
                    "the checkpoint has format version {found}, this program reads {VERSION}: \
                     start the program version that wrote it"
                );
            }
            Self::OtherState { found } => {
                return write!(
                    f,
                    "the checkpoint is another one, whose state ends with entry {found}; rebuild \
                     this replica from its peers"
                );
            }
            Self::Header => "its header is damaged",
            Self::ChunkLength { .. } => "the chunk there has an impossible length",
            Self::ChunkChecksum { .. } => "the chunk there fails its checksum",
            Self::Record { .. } => "the chunk there ends a record that makes no sense",
            Self::Truncated { .. } => "it ends there, before its end mark",
            Self::TrailingBytes { .. } => "bytes follow there behind the end mark",
            Self::Contents { .. } => "its contents are not what its header announces",
        };
        write!(
            f,
            "the checkpoint is damaged at byte {}: {what}; rebuild this replica from its peers",
            self.offset()
        )
    }
}

impl std::error::Error for LoadError {}

/// What comes next in the file.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Header,
    ChunkHead,
    Chunk { length: usize, last: bool, checksum: u32 },
    End,
}

/// A checkpoint half read.
#[derive(Debug)]
pub struct Loader {
    store: Store,
    /// The entry with which the state must end, where that is known.
    ends_with: Option<Index>,
    header: Header,
    phase: Phase,
    failed: Option<LoadError>,
    /// Bytes of the part that is being read.
    part: Vec<u8>,
    /// Payload bytes of a record that is not yet whole.
    record: Vec<u8>,
    /// Bytes of whole parts so far.
    offset: u64,
    crc: Hasher,
}

impl Loader {
    /// A loader for a store with these limits.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Self {
        Self {
            store: Store::new(limits),
            ends_with: None,
            header: Header {
                version: VERSION,
                once_count: 0,
                applied: 0,
                stamp: 0,
                revision: 0,
                key_count: 0,
                state_hash: 0,
            },
            phase: Phase::Header,
            failed: None,
            part: Vec::new(),
            record: Vec::new(),
            offset: 0,
            crc: Hasher::new(),
        }
    }

    /// The same, for the one checkpoint whose state ends with that entry: an older one, however
    /// whole, would skip entries that the log no longer has.
    #[must_use]
    pub fn ending_with(limits: StoreLimits, index: Index) -> Self {
        Self { ends_with: Some(index), ..Self::new(limits) }
    }

    /// Takes the next bytes, cut anywhere. The work is in proportion to them: 32 KiB took 50 to
    /// 80 µs with 128-byte values; the piece that completes a value of 1 MiB took 240 µs.
    ///
    /// # Errors
    /// As soon as the bytes so far cannot be a checkpoint's beginning. Every later call gives the
    /// same error.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), LoadError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !bytes.is_empty() {
            let whole = match self.phase {
                Phase::Header => HEADER_BYTES,
                Phase::ChunkHead => CHUNK_HEAD_BYTES,
                Phase::Chunk { length, .. } => length,
                Phase::End => return self.fail(LoadError::TrailingBytes { offset: self.offset }),
            };
            let (now, later) = bytes.split_at(bytes.len().min(whole - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
            if self.part.len() == whole
                && let Err(error) = self.take_part()
            {
                return self.fail(error);
            }
        }
        Ok(())
    }

    /// The store, if the end mark was reached and everything is as the header announced.
    ///
    /// # Errors
    /// If it was not.
    pub fn finish(self) -> Result<Store, LoadError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let offset = self.offset + self.part.len() as u64;
        if !matches!(self.phase, Phase::End) {
            return Err(LoadError::Truncated { offset });
        }
        let mut store = self.store;
        store.applied = Index(self.header.applied);
        let as_announced = store.map.len() as u64 == self.header.key_count
            && store.once.len() as u64 == u64::from(self.header.once_count)
            && (store.state_hash() == self.header.state_hash
                || !Guard::CheckpointIsChecked.is_on());
        if as_announced { Ok(store) } else { Err(LoadError::Contents { offset }) }
    }

    /// The store as far as it came, to be freed in slices when a load is given up.
    #[must_use]
    pub fn abandon(self) -> Store {
        self.store
    }

    fn fail(&mut self, error: LoadError) -> Result<(), LoadError> {
        self.failed = Some(error);
        Err(error)
    }

    /// Deals with a part that is whole.
    fn take_part(&mut self) -> Result<(), LoadError> {
        match self.phase {
            Phase::Header => self.take_header()?,
            Phase::ChunkHead => self.take_chunk_head()?,
            Phase::Chunk { last, checksum, .. } => self.take_chunk(last, checksum)?,
            Phase::End => {}
        }
        self.offset += self.part.len() as u64;
        self.part.clear();
        // A last chunk may be empty, and no byte would come to complete it.
        if let Phase::Chunk { length: 0, last, checksum } = self.phase {
            self.take_chunk(last, checksum)?;
        }
        Ok(())
    }

    fn take_header(&mut self) -> Result<(), LoadError> {
        let mut reader = Reader(&self.part);
        if reader.take(MAGIC.len()) != MAGIC {
            return Err(LoadError::NotACheckpoint);
        }
        let found = reader.u16();
        let reserved = reader.u16();
        self.header = Header {
            version: found,
            once_count: reader.u32(),
            applied: reader.u64(),
            stamp: reader.u64(),
            revision: reader.u64(),
            key_count: reader.u64(),
            state_hash: reader.u64(),
        };
        self.crc.update(&self.part[..HEADER_BYTES - 4]);
        if reader.u32() != self.crc.clone().finalize() {
            return Err(LoadError::Header);
        }
        // Only a version that the checksum vouches for is one: flipped bits must not look like it.
        if !(1..=VERSION).contains(&found) {
            return Err(LoadError::Version { found });
        }
        if reserved != 0 {
            return Err(LoadError::Header);
        }
        let found = Index(self.header.applied);
        if self.ends_with.is_some_and(|wanted| wanted != found) {
            return Err(LoadError::OtherState { found });
        }
        self.store.stamp = WallMs(self.header.stamp);
        self.store.revision = self.header.revision;
        self.phase = Phase::ChunkHead;
        Ok(())
    }

    fn take_chunk_head(&mut self) -> Result<(), LoadError> {
        let mut reader = Reader(&self.part);
        let (word, checksum) = (reader.u32(), reader.u32());
        let last = word & CHUNK_LAST != 0;
        let length = usize::try_from(word & !CHUNK_LAST).unwrap_or(usize::MAX);
        let possible = if last { length < CHUNK_BYTES } else { length == CHUNK_BYTES };
        if !possible {
            return Err(LoadError::ChunkLength { offset: self.offset });
        }
        self.crc.update(&self.part[..4]);
        self.phase = Phase::Chunk { length, last, checksum };
        Ok(())
    }

    fn take_chunk(&mut self, last: bool, checksum: u32) -> Result<(), LoadError> {
        let offset = self.offset.saturating_sub(CHUNK_HEAD_BYTES as u64);
        self.crc.update(&self.part);
        if self.crc.clone().finalize() != checksum && Guard::CheckpointIsChecked.is_on() {
            return Err(LoadError::ChunkChecksum { offset });
        }
        self.record.extend_from_slice(&self.part);
        let mut done = 0;
        while let Some(length) = record_length(&self.record[done..], offset)? {
            let Some(record) = self.record[done..].get(..length) else { break };
            if !take_record(&mut self.store, record) {
                return Err(LoadError::Record { offset });
            }
            done += length;
        }
        self.record.drain(..done);
        if last && !self.record.is_empty() {
            return Err(LoadError::Record { offset });
        }
        self.phase = if last { Phase::End } else { Phase::ChunkHead };
        Ok(())
    }
}

/// How long the record is that `bytes` begin with; `None` if that cannot be seen yet.
fn record_length(bytes: &[u8], offset: u64) -> Result<Option<usize>, LoadError> {
    let Some(&tag) = bytes.first() else { return Ok(None) };
    let head = match tag {
        TAG_KEY => KEY_HEAD_BYTES,
        TAG_ONCE => ONCE_HEAD_BYTES,
        TAG_BOUNDS => BOUNDS_HEAD_BYTES,
        TAG_FROZEN => FROZEN_HEAD_BYTES,
        TAG_TAKEN => TAKEN_BYTES,
        0 | 6..=u8::MAX => return Err(LoadError::Record { offset }),
    };
    if bytes.len() < head {
        return Ok(None);
    }
    let mut reader = Reader(&bytes[1..]);
    let lengths = u64::from(reader.u32()) + u64::from(reader.u32());
    Ok(usize::try_from(lengths).ok().and_then(|lengths| lengths.checked_add(head)))
}

/// Puts one whole record into the store; false if it breaks a rule of the format.
fn take_record(store: &mut Store, record: &[u8]) -> bool {
    let mut reader = Reader(record);
    let tag = reader.take(1)[0];
    let first = usize::try_from(reader.u32()).unwrap_or(usize::MAX);
    let second = usize::try_from(reader.u32()).unwrap_or(usize::MAX);
    let number = reader.u64();
    if tag == TAG_ONCE {
        let (id, reply) = (reader.bytes(first), reader.bytes(second));
        return take_id(store, OnceRecord { id, at: WallMs(number), reply });
    }
    if tag == TAG_BOUNDS {
        let has_end = reader.take(1)[0];
        let (start, end) = (reader.bytes(first), reader.bytes(second));
        let end = (has_end == 1).then_some(end);
        let is_first =
            store.bounds.epoch.get() == 0 && store.map.len() == 0 && store.once.len() == 0;
        store.bounds = RangeBounds { epoch: RangeEpoch(number), start, end };
        return is_first && number > 0 && has_end <= 1 && (has_end == 1 || second == 0);
    }
    if tag == TAG_FROZEN || tag == TAG_TAKEN {
        let is_early = store.map.len() == 0 && store.once.len() == 0 && second == 0;
        let merges = store.merges.get_or_insert_default();
        if tag == TAG_TAKEN {
            let is_new = merges.taken.insert((GroupId(number), RangeEpoch(reader.u64())));
            return is_early && is_new && first == 0;
        }
        let (into_start, into_epoch) = (reader.bytes(first), RangeEpoch(number));
        let is_first = merges.frozen.replace(Frozen { into_start, into_epoch }).is_none();
        return is_early && is_first && merges.taken.is_empty();
    }
    let expires = Some(WallMs(reader.u64())).filter(|at| at.0 != 0);
    let (key, value) = (reader.bytes(first), reader.bytes(second));
    let key = Key::from(key);
    let in_order = store.map.last_key().is_none_or(|last| *last < key);
    if !in_order || !store.bounds.contains(&key) || number > store.revision {
        return false;
    }
    let slot = Slot::new(&key, value, number, expires);
    store.expiry.change(&key, None, expires);
    store.map.put(key, slot);
    true
}

fn take_id(store: &mut Store, record: OnceRecord) -> bool {
    let in_order = store.once.last().is_none_or(|last| last.at <= record.at);
    let good = in_order
        && store.map.len() == 0
        && record.at <= store.stamp
        && store.once.get(&record.id).is_none()
        && read_reply(&record.reply).is_some();
    if good {
        store.once.push(record);
    }
    good
}

/// Reads parts whose length was checked before.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("invariant: the length was checked");
        self.0 = rest;
        *taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn bytes(&mut self, count: usize) -> Bytes {
        Bytes::copy_from_slice(self.take(count))
    }
}
