//! A group's state machine, a map in memory, and the file that keeps a snapshot of it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use ahash::AHashMap;
use bytes::{Buf, BufMut, Bytes};

/// Keys and values of one group.
#[derive(Clone, Debug, Default)]
pub struct State {
    map: AHashMap<Bytes, Bytes>,
}

/// Entries that stay when the log is compacted, so that a node that was away shortly needs no
/// snapshot.
#[must_use]
pub const fn kept(snapshot_every: u64) -> u64 {
    snapshot_every / 20
}

/// Appends a write to a log entry's data.
pub fn push_write(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("invariant: bounded before");
    data.put_u32_le(length(key));
    data.put_u32_le(length(value));
    data.put_slice(key);
    data.put_slice(value);
}

impl State {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.map.get(key).cloned()
    }

    /// Does all writes of an entry's data.
    pub fn apply(&mut self, mut data: Bytes) {
        while data.len() >= 8 {
            let (key, value) = (data.get_u32_le() as usize, data.get_u32_le() as usize);
            assert!(data.len() >= key + value, "an entry that was proposed is whole");
            let key = data.split_to(key);
            self.map.insert(key, data.split_to(value));
        }
    }

    /// All keys and values, in the form that [`State::apply`] takes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for (key, value) in &self.map {
            push_write(&mut data, key, value);
        }
        data
    }

    /// The state that [`State::encode`] was given.
    #[must_use]
    pub fn decode(data: Bytes) -> Self {
        let mut state = Self::default();
        state.apply(data);
        state
    }
}

/// Puts a snapshot where the last one was, durably or not at all.
///
/// # Errors
/// If the disk refuses.
pub fn save_snapshot(path: &Path, meta: &[u8], data: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut head = Vec::new();
    head.put_u64_le(meta.len() as u64);
    head.put_slice(meta);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(data);
    let mut file = File::create(&new)?;
    file.write_all(&crc.finalize().to_le_bytes())?;
    file.write_all(&head)?;
    file.write_all(data)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Meta and data of the last snapshot, if there is one.
///
/// # Errors
/// If the file cannot be read or is not what was written.
pub fn load_snapshot(path: &Path) -> io::Result<Option<(Bytes, Bytes)>> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the snapshot is damaged");
    let crc = bytes.try_get_u32_le().map_err(|_| broken())?;
    if crc32fast::hash(&bytes) != crc {
        return Err(broken());
    }
    let length = bytes.try_get_u64_le().map_err(|_| broken())?;
    let length = usize::try_from(length).map_err(|_| broken())?;
    if bytes.len() < length {
        return Err(broken());
    }
    let meta = bytes.split_to(length);
    Ok(Some((meta, bytes)))
}
