//! Some dozens of neighbouring pieces of the keyspace, packed. A chunk never changes once a map has
//! it, so maps share it; a change of the map packs the chunks that it touches anew.

use crate::{CoreAddr, GroupId, Index, RangeEpoch};

use super::Shared;
use super::keys::Keys;

/// A chunk with more pieces is cut.
pub(super) const PIECES_MAX: usize = 48;
/// How many pieces a chunk is given when there are many: room for some splits.
const PIECES: usize = 32;

/// Whose a piece of the keyspace is. A piece whose range is not known (a hole) belongs to the meta
/// group, which owns no key of clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) group: GroupId,
    /// The newest epoch that was heard of for these keys.
    pub(super) epoch: RangeEpoch,
    pub(super) configured: Index,
    replicas_end: u32,
}

impl Owner {
    pub(super) fn is_hole(&self) -> bool {
        self.group == GroupId::META
    }
}

/// A piece that is not packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) start: &'a [u8],
    pub(super) group: GroupId,
    pub(super) epoch: RangeEpoch,
    pub(super) configured: Index,
    pub(super) replicas: &'a [CoreAddr],
}

impl<'a> Piece<'a> {
    pub(super) fn hole(start: &'a [u8], epoch: RangeEpoch) -> Self {
        Self { start, group: GroupId::META, epoch, configured: Index(0), replicas: &[] }
    }

    pub(super) fn is_hole(&self) -> bool {
        self.group == GroupId::META
    }
}

/// Neighbouring pieces; each ends where the next one starts.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) starts: Keys,
    pub(super) owners: Vec<Owner>,
    replicas: Vec<CoreAddr>,
}

impl Chunk {
    fn new(pieces: &[Piece<'_>], end: Option<&[u8]>) -> Self {
        let count = pieces.iter().map(|piece| piece.replicas.len()).sum();
        let mut owners = Vec::with_capacity(pieces.len());
        let mut replicas = Vec::with_capacity(count);
        for Piece { group, epoch, configured, replicas: of_piece, .. } in pieces {
            replicas.extend_from_slice(of_piece);
            let end = u32::try_from(replicas.len()).expect("invariant: few replicas in a chunk");
            let (group, epoch, configured) = (*group, *epoch, *configured);
            owners.push(Owner { group, epoch, configured, replicas_end: end });
        }
        let starts = Keys::new(pieces.iter().map(|piece| piece.start), end);
        Self { starts, owners, replicas }
    }

    /// Packs neighbouring pieces into as many chunks as they need; `end` is where the last one ends.
    pub(super) fn pack(
        pieces: &[Piece<'_>],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Shared<Self>> {
        let chunks = if pieces.len() <= PIECES_MAX { 1 } else { pieces.len().div_ceil(PIECES) };
        let length = pieces.len().div_ceil(chunks);
        pieces.chunks(length).enumerate().map(move |(number, chunk)| {
            let next = pieces.get((number + 1) * length).map(|piece| piece.start);
            Shared::new(Self::new(chunk, next.or(end)))
        })
    }

    pub(super) fn start(&self) -> &[u8] {
        self.starts.get(0)
    }

    pub(super) fn replicas(&self, place: usize) -> &[CoreAddr] {
        let start = place.checked_sub(1).map_or(0, |before| self.owners[before].replicas_end);
        &self.replicas[start as usize..self.owners[place].replicas_end as usize]
    }

    /// Its pieces in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.owners.iter().enumerate().map(|(place, owner)| Piece {
            start: self.starts.get(place),
            group: owner.group,
            epoch: owner.epoch,
            configured: owner.configured,
            replicas: self.replicas(place),
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.starts.memory_bytes()
            + self.owners.capacity() * size_of::<Owner>()
            + self.replicas.capacity() * size_of::<CoreAddr>()
    }
}
