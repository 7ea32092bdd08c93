//! The one place that calls rkyv: values to archives at the end of a growing buffer, and back,
//! validated. Knows no frame and no record. Stateless.

use std::num::NonZeroUsize;

use bytes::Bytes;
use rkyv::api::access_with_context;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Positional, Writer};
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Deserialize, Portable, Serialize};

/// Deepest nesting of an archive that is read: a hostile one must not exhaust the stack.
const DEPTH_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("invariant: 64 is not zero");

/// The rkyv serializer of this crate.
pub(crate) type Serializer<'a> = HighSerializer<Appender, ArenaHandle<'a>, Failure>;
/// The rkyv validator of this crate.
pub(crate) type Checker<'a> = HighValidator<'a, Failure>;
/// The rkyv deserializer of this crate.
pub(crate) type Deserializer = HighDeserializer<Failure>;

/// Writes behind what the buffer already holds, but counts positions from there, so that an
/// archive's alignment does not depend on what precedes it.
#[derive(Debug)]
pub(crate) struct Appender {
    buffer: Vec<u8>,
    base: usize,
}

impl Positional for Appender {
    fn pos(&self) -> usize {
        self.buffer.len() - self.base
    }
}

impl<E> Writer<E> for Appender {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends the archive of `value` to `out`.
pub(crate) fn append<T>(value: &T, out: &mut Vec<u8>)
where
    T: for<'a> Serialize<Serializer<'a>>,
{
    let base = out.len();
    let appender = Appender { buffer: std::mem::take(out), base };
    let appender = to_bytes_in::<_, Failure>(value, appender)
        .expect("invariant: plain values in memory can always be archived");
    *out = appender.buffer;
}

/// The archive of `value` alone.
pub(crate) fn encode<T>(value: &T) -> Bytes
where
    T: for<'a> Serialize<Serializer<'a>>,
{
    let mut bytes = Vec::new();
    append(value, &mut bytes);
    bytes.into()
}

/// Reads a validated archive; `None` if it is not a valid one. Copies it first if it does not
/// stand aligned in memory.
pub(crate) fn read<T>(bytes: &[u8]) -> Option<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<Checker<'a>> + Deserialize<T, Deserializer> + Portable,
{
    if bytes.as_ptr().align_offset(align_of::<T::Archived>().max(8)) == 0 {
        return read_aligned(bytes);
    }
    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    read_aligned(&aligned)
}

fn read_aligned<T>(bytes: &[u8]) -> Option<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<Checker<'a>> + Deserialize<T, Deserializer> + Portable,
{
    let mut context = Validator::new(
        ArchiveValidator::with_max_depth(bytes, Some(DEPTH_MAX)),
        SharedValidator::new(),
    );
    let archived: &T::Archived = access_with_context::<_, _, Failure>(bytes, &mut context).ok()?;
    rkyv::deserialize::<T, Failure>(archived).ok()
}
