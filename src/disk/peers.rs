//! The peers file: which disk each other node was last seen with. A node that comes back with
//! another one has lost what it promised, and must not vote as its former self. This file only
//! remembers; who is let in is decided elsewhere. One per node.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oarlock_cluster::hex::{decode_u128, encode_u128};
use oarlock_types::{DiskId, NodeId};
use serde::{Deserialize, Serialize};

use super::atomic_file::{replace, seal, unseal};
use super::data_dir::DataDirError;

const NAME: &str = "peers";

/// The disks of the other nodes, as they were last seen.
#[derive(Debug)]
pub struct PeerDisks {
    directory: PathBuf,
    known: BTreeMap<NodeId, DiskId>,
}

#[derive(Default, Deserialize, Serialize)]
struct Text {
    disks: BTreeMap<String, String>,
}

impl PeerDisks {
    /// Reads the file of a data directory; without one nothing is known.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn open(directory: &Path) -> Result<Self, DataDirError> {
        let path = directory.join(NAME);
        let known = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).ok_or(DataDirError::PeersDamaged { path })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(DataDirError::Io { action: "read", path, source }),
        };
        Ok(Self { directory: directory.to_owned(), known })
    }

    /// The disk that `node` was last seen with.
    #[must_use]
    pub fn known_disk(&self, node: NodeId) -> Option<DiskId> {
        self.known.get(&node).copied()
    }

    /// All of them, in the order of the nodes.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, DiskId)> + '_ {
        self.known.iter().map(|(node, disk)| (*node, *disk))
    }

    /// Remembers a node's disk, durably; writes only what is new. Blocks for a disk write, which
    /// happens once in the life of a node's disk.
    ///
    /// # Errors
    /// When it cannot be written; then it is not remembered.
    pub fn remember_disk(&mut self, node: NodeId, disk: DiskId) -> Result<(), DataDirError> {
        if self.known_disk(node) == Some(disk) {
            return Ok(());
        }
        let mut known = self.known.clone();
        known.insert(node, disk);
        replace(&self.directory, NAME, to_text(&known).as_bytes()).map_err(|source| {
            DataDirError::Io { action: "write", path: self.directory.join(NAME), source }
        })?;
        self.known = known;
        Ok(())
    }
}

fn to_text(known: &BTreeMap<NodeId, DiskId>) -> String {
    let disks = known
        .iter()
        .map(|(node, disk)| (node.get().to_string(), encode_u128(disk.get())))
        .collect();
    seal(&toml::to_string(&Text { disks }).expect("invariant: a table of strings"))
}

fn parse(text: &str) -> Option<BTreeMap<NodeId, DiskId>> {
    let text: Text = toml::from_str(unseal(text)?).ok()?;
    text.disks
        .iter()
        .map(|(node, disk)| Some((NodeId(node.parse().ok()?), DiskId(decode_u128(disk)?))))
        .collect()
}
