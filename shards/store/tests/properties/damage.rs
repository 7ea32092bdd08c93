//! Whatever happens to a checkpoint's bytes, a loader refuses it and says where, or it was whole.

use bytes::Bytes;
use crc32fast::Hasher;
use oarlock_store::{
    Batch, Command, Expiry, LoadError, Loader, Request, SetCondition, Store, StoreLimits,
};
use oarlock_types::{Index, WallMs};
use proptest::prelude::*;

use super::{LIMITS, checkpoint, load};

const HEADER_BYTES: usize = 60;
const CHUNK_BYTES: usize = 32 << 10;

/// Keys with and without expiry, and ids.
fn sample(keys: usize) -> Vec<u8> {
    let mut store = Store::new(StoreLimits { value_bytes_max: 1 << 20, ..LIMITS });
    let requests = (0..keys).map(|n| {
        let expiry = if n % 3 == 0 { Expiry::In(5000) } else { Expiry::None };
        let command = Command::Set {
            key: Bytes::from(format!("key-{n:05}")),
            value: Bytes::from(vec![b'v'; n % 40]),
            condition: SetCondition::Always,
            expiry,
            get: n % 2 == 0,
        };
        let once = (n % 4 == 0).then(|| Bytes::from(format!("id-{n}")));
        Request { once, transaction: n % 8 == 0, ..Request::one(command) }
    });
    let batch = Batch { stamp: WallMs(1000), requests: requests.collect() };
    store.apply(Index(9), batch, &mut Vec::new());
    checkpoint(&mut store)
}

/// The records of a checkpoint, without the frame around them.
fn payload(checkpoint: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), &checkpoint[HEADER_BYTES..]);
    while let Some((word, tail)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_le_bytes(*word) & !(1 << 31)).expect("small");
        out.extend_from_slice(&tail[4..4 + length]);
        rest = &tail[4 + length..];
    }
    out
}

/// A well-formed frame around any header fields and records.
fn frame(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut crc = Hasher::new();
    let mut out = header[..HEADER_BYTES - 4].to_vec();
    crc.update(&out);
    out.extend_from_slice(&crc.clone().finalize().to_le_bytes());
    let whole = payload.len() / CHUNK_BYTES;
    for n in 0..=whole {
        let piece = &payload[n * CHUNK_BYTES..payload.len().min((n + 1) * CHUNK_BYTES)];
        let mark = if n == whole { 1 << 31 } else { 0 };
        let word = (u32::try_from(piece.len()).expect("small") | mark).to_le_bytes();
        crc.update(&word);
        crc.update(piece);
        out.extend_from_slice(&word);
        out.extend_from_slice(&crc.clone().finalize().to_le_bytes());
        out.extend_from_slice(piece);
    }
    out
}

#[test]
fn the_frame_is_as_documented() {
    for keys in [0, 5, 3000] {
        let bytes = sample(keys);
        assert!(frame(&bytes, &payload(&bytes)) == bytes, "{keys} keys");
    }
}

#[test]
fn every_prefix_is_refused_at_its_end() {
    let bytes = sample(40);
    for cut in 0..bytes.len() {
        let offset = u64::try_from(cut).expect("small");
        assert_eq!(load(&bytes[..cut], 1000).err(), Some(LoadError::Truncated { offset }));
    }
    let long = sample(3000);
    for cut in (0..long.len()).step_by(997) {
        let offset = u64::try_from(cut).expect("small");
        assert_eq!(load(&long[..cut], 5000).err(), Some(LoadError::Truncated { offset }));
    }
    assert!(load(&long, 1).is_ok());
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut bytes = sample(40);
    let length = bytes.len() as u64;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let error = load(&bytes, 1 << 20).expect_err("a bit is flipped");
            // A last chunk that claims to be longer shows only when the file ends.
            let named = error.offset() <= at as u64
                || matches!(error, LoadError::Truncated { offset } if offset == length);
            assert!(named, "byte {at} bit {bit}: {error}");
            bytes[at] ^= 1 << bit;
        }
    }
    assert!(load(&bytes, 1 << 20).is_ok(), "all bits are back");
}

#[test]
fn chunks_that_are_lost_doubled_or_swapped_are_refused_where_it_happened() {
    let bytes = sample(4000);
    let chunk = 8 + CHUNK_BYTES;
    let (one, two) = (HEADER_BYTES, HEADER_BYTES + chunk);
    assert!(bytes.len() > two + chunk, "there are three chunks at least");
    let swapped =
        [&bytes[..one], &bytes[two..two + chunk], &bytes[one..two], &bytes[two + chunk..]].concat();
    let lost = [&bytes[..one], &bytes[two..]].concat();
    let doubled = [&bytes[..two], &bytes[one..]].concat();
    for (damaged, at) in [(swapped, one), (lost, one), (doubled, two)] {
        let offset = at as u64;
        assert_eq!(load(&damaged, 1 << 20).err(), Some(LoadError::ChunkChecksum { offset }));
    }
}

/// Version 1 has no bounds; else it is the same.
#[test]
fn a_checkpoint_of_version_1_is_read() {
    let newest = sample(4000);
    let mut old = newest.clone();
    old[8] = 1;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&old[..HEADER_BYTES - 4]);
    let sum = crc.clone().finalize();
    old[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    let mut at = HEADER_BYTES;
    while at < old.len() {
        let end = (at + 8 + CHUNK_BYTES).min(old.len());
        crc.update(&old[at..at + 4]);
        crc.update(&old[at + 8..end]);
        let sum = crc.clone().finalize();
        old[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
    let (old, newest) = (load(&old, 1 << 20).unwrap(), load(&newest, 1 << 20).unwrap());
    assert_eq!((old.state_hash(), old.len()), (newest.state_hash(), newest.len()));
    assert_eq!(old.bounds().epoch.get(), 0, "its bounds are not known");
}

#[test]
fn a_foreign_file_a_newer_version_and_a_tail_are_named() {
    let bytes = sample(3);
    assert_eq!(load(&[b'x'; 100], 100).err(), Some(LoadError::NotACheckpoint));
    let mut newer = bytes.clone();
    newer[8] = 4;
    assert_eq!(load(&newer, 100).err(), Some(LoadError::Header), "no checksum vouches for it");
    let crc = crc32fast::hash(&newer[..HEADER_BYTES - 4]);
    newer[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let error = load(&newer, 100).expect_err("it is newer");
    assert_eq!(error, LoadError::Version { found: 4 });
    assert!(error.to_string().contains("version 4, this program reads 3"), "{error}");
    let offset = bytes.len() as u64;
    let tail = [&bytes[..], b"x"].concat();
    assert_eq!(load(&tail, 7).err(), Some(LoadError::TrailingBytes { offset }));
}

#[test]
fn another_state_than_the_one_asked_for_is_refused() {
    // The sample ends with entry 9, and so passes an entry without a batch behind it.
    let bytes = sample(40);
    for wanted in [0, 8, 10, u64::MAX] {
        let mut loader = Loader::ending_with(LIMITS, Index(wanted));
        let found = Index(9);
        assert_eq!(loader.feed(&bytes).err(), Some(LoadError::OtherState { found }), "{wanted}");
    }
    let mut loader = Loader::ending_with(LIMITS, Index(9));
    loader.feed(&bytes).unwrap();
    let mut store = loader.finish().unwrap();
    store.pass(Index(10));
    let later = checkpoint(&mut store);
    let mut loader = Loader::ending_with(LIMITS, Index(10));
    loader.feed(&later).unwrap();
    assert_eq!(loader.finish().unwrap().applied(), Index(10));
}

#[test]
fn records_that_break_a_rule_are_refused_behind_a_right_checksum() {
    let bytes = sample(0);
    let key = |key: &[u8], version: u64| {
        let mut record = vec![1];
        record.extend_from_slice(&u32::try_from(key.len()).expect("small").to_le_bytes());
        record.extend_from_slice(&0_u32.to_le_bytes());
        record.extend_from_slice(&version.to_le_bytes());
        record.extend_from_slice(&0_u64.to_le_bytes());
        record.extend_from_slice(key);
        record
    };
    let once = |at: u64, reply: &[u8]| {
        let mut record = vec![2, 1, 0, 0, 0];
        record.extend_from_slice(&u32::try_from(reply.len()).expect("small").to_le_bytes());
        record.extend_from_slice(&at.to_le_bytes());
        record.push(b'i');
        record.extend_from_slice(reply);
        record
    };
    let huge = [&[1][..], &[0xff; 8], &[0; 16]].concat();
    for (what, payload) in [
        ("an unknown tag", vec![9]),
        ("keys out of order", [key(b"b", 0), key(b"a", 0)].concat()),
        ("a key twice", [key(b"a", 0), key(b"a", 0)].concat()),
        ("a version from the future", key(b"a", 1)),
        ("an id behind a key", [key(b"a", 0), once(0, &[0])].concat()),
        ("an id twice", [once(0, &[0]), once(0, &[0])].concat()),
        ("ids out of order", [once(5, &[0]), once(0, &[0])].concat()),
        ("an id from the future", once(2000, &[0])),
        ("a reply that is none", once(0, &[77])),
        ("lengths beyond the end", huge),
        ("half a record", key(b"a", 0)[..7].to_vec()),
    ] {
        let result = load(&frame(&bytes, &payload), 100);
        assert_eq!(result.err(), Some(LoadError::Record { offset: 60 }), "{what}");
    }
    let unannounced = frame(&bytes, &key(b"a", 0));
    let offset = unannounced.len() as u64;
    assert_eq!(load(&unannounced, 100).err(), Some(LoadError::Contents { offset }));
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(load(&bytes, 64).is_err());
    }

    #[test]
    fn changed_records_behind_right_checksums_never_pass(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
        keys in 1_usize..30,
    ) {
        let bytes = sample(keys);
        let mut records = payload(&bytes);
        for (at, xor) in changes {
            let at = at.index(records.len());
            records[at] ^= xor;
        }
        let unchanged = records == payload(&bytes);
        prop_assert_eq!(load(&frame(&bytes, &records), 500).is_ok(), unchanged);
    }
}
