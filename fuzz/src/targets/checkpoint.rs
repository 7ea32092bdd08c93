//! Checkpoints: files that lay on a disk for long, and snapshots that came over the network.
//!
//! What holds: a loader gives an error, or the very state whose checkpoint these bytes are; it
//! matters not how they are cut; memory is a few times what was fed.

use oarlock_store::checkpoint::VERSION;
use oarlock_store::{Batch, CheckpointProgress, LoadError, Loader, Store, StoreLimits};
use oarlock_types::WallMs;

use crate::memory;
use crate::source::{Source, generate};
use crate::targets::outcome;

#[path = "../../../shards/store/tests/properties/generate.rs"]
#[allow(dead_code, reason = "made for another model, which uses more of it")]
mod traffic;

pub(super) const WORDS: &[&[u8]] = &[b"OARLOCKC", b"\x01\0\0\0\x01", b"\x02\0\0\0\x01\0\0\0\x01"];

const HEADER_BYTES: usize = 60;
const CHUNK_BYTES: usize = 32 << 10;
/// A key's place in memory may be so many times as long as the record of an empty one.
const RECORD_FACTOR: usize = 32;
const LIMITS: StoreLimits = StoreLimits {
    value_bytes_max: 4096,
    once_count_max: 1000,
    once_bytes_max: 1 << 20,
    once_keep_ms: 1 << 40,
    once_keep_min_ms: 1 << 40,
};

pub(super) fn run(input: &[u8]) -> u64 {
    let mut source = Source::new(input);
    match source.byte() % 3 {
        0 => {
            let lengths = Source::new(source.piece());
            outcome(&load(source.rest(), lengths).map(|store| store.len()))
        }
        1 => damaged(source),
        _ => sealed(source),
    }
}

fn feed<'a>(portions: impl IntoIterator<Item = &'a [u8]>) -> Result<Store, LoadError> {
    let mut loader = Loader::new(LIMITS);
    for portion in portions {
        loader.feed(portion)?;
    }
    loader.finish()
}

/// Loads as a whole and in portions; what is loaded has these very bytes as its checkpoint.
fn load(bytes: &[u8], mut lengths: Source<'_>) -> Result<Store, LoadError> {
    let portions = Source::new(lengths.rest()).cut(bytes);
    let bytes_max = 2 * CHUNK_BYTES + bytes.len() * RECORD_FACTOR;
    let whole = memory::bounded(bytes_max, || feed([bytes]));
    let cut = memory::bounded(bytes_max, || feed(portions));
    let hash = |result: &Result<Store, LoadError>| match result {
        Ok(store) => Ok(store.state_hash()),
        Err(error) => Err(*error),
    };
    assert_eq!(hash(&whole), hash(&cut), "it matters how a checkpoint is cut");
    let mut store = whole?;
    let again = written(&mut store);
    // What an older version wrote is written anew in the newest one, which says the same.
    let is_newest = bytes[8..10] == VERSION.to_le_bytes();
    let expected = if is_newest { bytes.to_vec() } else { written(&mut feed([&again[..]])?) };
    assert!(again == expected, "what was loaded is not what these bytes say");
    Ok(store)
}

fn written(store: &mut Store) -> Vec<u8> {
    store.checkpoint_begin();
    let mut bytes = Vec::new();
    while store.checkpoint_next(1 << 20, &mut bytes) == CheckpointProgress::More {}
    bytes
}

/// The checkpoint of a store after traffic that `seed` decides.
fn sample(seed: u32) -> Option<Vec<u8>> {
    let mut store = Store::new(LIMITS);
    let mut clock = 1000_i64;
    for step in generate(&traffic::steps(12), seed)? {
        clock = (clock + step.later_ms).max(0);
        let stamp = WallMs(u64::try_from(clock).unwrap_or(0));
        let batch = Batch { stamp, requests: step.requests };
        store.apply(store.applied().next(), batch, &mut Vec::new());
    }
    Some(written(&mut store))
}

fn damaged(mut source: Source<'_>) -> u64 {
    let Some(sound) = sample(source.long()) else { return 0 };
    let lengths = Source::new(source.piece());
    let mut bytes = sound.clone();
    source.damage(&mut bytes);
    let loaded = load(&bytes, lengths);
    assert_eq!(loaded.is_ok(), bytes == sound, "{:?}", loaded.err());
    outcome(&loaded.map(|store| store.len()))
}

/// Any records behind right checksums, announced as they are: what a bug would write.
fn sealed(mut source: Source<'_>) -> u64 {
    let Some(sound) = sample(source.long()) else { return 0 };
    let lengths = Source::new(source.piece());
    let mut records = payload(&sound);
    let mut header = sound[..HEADER_BYTES].to_vec();
    let extra = source.piece();
    records.splice(0..0, extra.iter().copied());
    source.damage(&mut records);
    if source.byte() % 4 == 3 {
        let at = 8 + source.below(HEADER_BYTES - 12);
        header[at] = source.byte();
    }
    // A store that got so far as this one says what the header must announce.
    let mut loader = Loader::new(LIMITS);
    if loader.feed(&framed(&header, &records)).is_ok() {
        let store = loader.abandon();
        let once = u32::try_from(store.once_len()).unwrap_or(u32::MAX);
        header[12..16].copy_from_slice(&once.to_le_bytes());
        header[40..48].copy_from_slice(&(store.len() as u64).to_le_bytes());
        header[48..56].copy_from_slice(&store.state_hash().to_le_bytes());
    }
    outcome(&load(&framed(&header, &records), lengths).map(|store| store.len()))
}

/// The records of a sound checkpoint, without the frame around them.
fn payload(checkpoint: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), &checkpoint[HEADER_BYTES..]);
    while let Some((word, tail)) = rest.split_first_chunk() {
        let length = (u32::from_le_bytes(*word) & !(1 << 31)) as usize;
        out.extend_from_slice(&tail[4..4 + length]);
        rest = &tail[4 + length..];
    }
    out
}

/// A well-formed frame around any header fields and records.
fn framed(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    let mut out = header[..HEADER_BYTES - 4].to_vec();
    crc.update(&out);
    out.extend_from_slice(&crc.clone().finalize().to_le_bytes());
    let whole = payload.len() / CHUNK_BYTES;
    for number in 0..=whole {
        let piece = &payload[number * CHUNK_BYTES..payload.len().min((number + 1) * CHUNK_BYTES)];
        let mark = if number == whole { 1 << 31 } else { 0 };
        let length = u32::try_from(piece.len()).unwrap_or(0);
        let word = (length | mark).to_le_bytes();
        crc.update(&word);
        crc.update(piece);
        out.extend_from_slice(&word);
        out.extend_from_slice(&crc.clone().finalize().to_le_bytes());
        out.extend_from_slice(piece);
    }
    out
}
