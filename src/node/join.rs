//! How a node comes into a cluster that runs already: it asks one of the others, which writes it into the map
//! and tells it all that it needs. What it was told is kept in its data directory, so that it asks but once.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_cluster::NodeEntry;
use oarlock_cluster::hex::{decode_u128, encode_u128};
use oarlock_cluster::members::{self, Candidate, Member};
use oarlock_cluster::range_text;
use oarlock_types::{DiskId, NodeId, RangeDescriptor};
use serde::{Deserialize, Serialize};

use crate::bench::client::{Answer, Client};
use crate::config::Config;
use crate::disk::atomic_file::{replace, seal, unseal};
use crate::disk::data_dir::{DataDirError, draw_disk_id, make_directory, peek_identity};

const NAME: &str = "joined";
/// For one question.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two rounds of questions: writing a node into the map takes a few writes.
const ROUND_REST: Duration = Duration::from_millis(100);
/// So often what is in the way is said again.
const SAY_EVERY: u32 = 100;

/// Why a node can not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The data directory can not be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What was kept of an earlier start can not be read.
    #[error(
        "{path} is damaged: restore it from a backup, or empty the data directory, start the node anew \
         and give its former self up with `oarlock node remove`",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file can not be read or written.
    #[error("cannot use {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The node has another way to its cluster.
    #[error(
        "{path} belongs to a node that did not join: start it with the configuration that it had, without \
         `join`, or name an empty data directory",
        path = path.display()
    )]
    DidNotJoin {
        /// The data directory.
        path: PathBuf,
    },
    /// Others could not reach it.
    #[error(
        "others cannot reach this node at {address}: set {key} to the address at which they can, as in \
         \"10.0.0.4:{port}\"",
        port = address.port()
    )]
    Unreachable {
        /// The address.
        address: SocketAddr,
        /// The key to set.
        key: &'static str,
    },
    /// The cluster does not want it.
    #[error("{node} does not let this node join: {why}")]
    Refused {
        /// Who was asked.
        node: String,
        /// Its words.
        why: String,
    },
    /// What the cluster says is of another version.
    #[error("{node} says what this build does not understand ({why}): use the build that it runs")]
    NotUnderstood {
        /// Who was asked.
        node: String,
        /// What.
        why: String,
    },
}

/// What a node that has joined needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Its id.
    pub node: u64,
    /// What it must have alike: see [`Config::adopt`].
    pub settings: String,
    /// Where the meta group is: it may long have left its first place.
    pub meta: Option<String>,
    /// The nodes that have joined, itself among them.
    pub joined: Vec<NodeEntry>,
    /// The cluster's feature level.
    #[serde(default)]
    pub level: u16,
}

impl Admission {
    /// As a text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("invariant: numbers and texts")
    }

    /// The meta group's descriptor.
    #[must_use]
    pub fn meta(&self) -> Option<RangeDescriptor> {
        range_text::read(self.meta.as_ref()?.as_bytes())
    }
}

/// What is kept in the data directory: who asks, and what it was told once it was let in.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    disk: String,
    admission: Option<Admission>,
}

/// A node that is let in.
#[derive(Debug)]
pub struct Joined {
    /// Its data directory's identity.
    pub disk: DiskId,
    /// What it was told.
    pub admission: Admission,
}

/// Makes `config` that of a node of the cluster that it is to join; asks to be let in if it was not yet, until
/// somebody answers.
///
/// # Errors
/// Why it can not join.
pub fn join(config: &mut Config) -> Result<Joined, JoinError> {
    let directory = config.node.data_dir.clone();
    let kept = read(&directory)?;
    let disk = match &kept {
        Some(kept) => disk_of(&directory, kept)?,
        None => begin(&directory)?,
    };
    let admission = match kept.and_then(|kept| kept.admission) {
        Some(admission) => admission,
        None => {
            let entry = reachable_entry(config)?;
            let seeds: Vec<&str> = config.joins().collect();
            let member = Member { entry, disk };
            let admission = ask(&seeds, &Candidate { member, levels: config.levels() })?;
            write(&directory, disk, Some(admission.clone()))?;
            tracing::info!("this node has joined the cluster as node {}", admission.node);
            admission
        }
    };
    config
        .adopt(&admission.settings)
        .map_err(|why| JoinError::NotUnderstood { node: "the cluster".to_owned(), why })?;
    config.node.node_id = NodeId(admission.node);
    Ok(Joined { disk, admission })
}

/// What a node that has joined is in the map, as it was told itself.
///
/// # Errors
/// When that cannot be read.
pub fn own_member(directory: &Path) -> Result<Option<Member>, JoinError> {
    let Some(kept) = read(directory)? else { return Ok(None) };
    let disk = disk_of(directory, &kept)?;
    let Some(Admission { node, joined, .. }) = kept.admission else { return Ok(None) };
    let entry = joined.into_iter().find(|entry| entry.id == NodeId(node));
    Ok(entry.map(|entry| Member { entry, disk }))
}

fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

fn read(directory: &Path) -> Result<Option<Kept>, JoinError> {
    let path = path(directory);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let kept = unseal(&text).and_then(|body| serde_json::from_str(body).ok());
            kept.map(Some).ok_or(JoinError::Damaged { path })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JoinError::Io { path, source }),
    }
}

fn write(directory: &Path, disk: DiskId, admission: Option<Admission>) -> Result<(), JoinError> {
    let kept = Kept { disk: encode_u128(disk.get()), admission };
    let body = serde_json::to_string(&kept).expect("invariant: numbers and texts");
    replace(directory, NAME, seal(&(body + "\n")).as_bytes())
        .map_err(|source| JoinError::Io { path: path(directory), source })
}

fn disk_of(directory: &Path, kept: &Kept) -> Result<DiskId, JoinError> {
    let disk = decode_u128(&kept.disk).map(DiskId);
    disk.ok_or_else(|| JoinError::Damaged { path: path(directory) })
}

/// Who is not let in before it is ended asks as the same one when it is started again.
fn begin(directory: &Path) -> Result<DiskId, JoinError> {
    if peek_identity(directory).is_ok() {
        return Err(JoinError::DidNotJoin { path: directory.to_owned() });
    }
    make_directory(directory)?;
    let disk = draw_disk_id()?;
    write(directory, disk, None)?;
    Ok(disk)
}

fn reachable_entry(config: &Config) -> Result<NodeEntry, JoinError> {
    let entry = config.as_joining();
    for (address, key) in
        [(entry.peer_address, "peer_advertise"), (entry.client_address, "client_advertise")]
    {
        if address.ip().is_unspecified() {
            return Err(JoinError::Unreachable { address, key });
        }
    }
    Ok(entry)
}

/// Asks one after the other until one lets the node in.
fn ask(seeds: &[&str], candidate: &Candidate) -> Result<Admission, JoinError> {
    let text = members::write_candidate(candidate);
    for round in 0_u32.. {
        for seed in seeds {
            let why = match ask_one(seed, text.as_bytes()) {
                Ok(Answer::Bulk(admission)) => {
                    return serde_json::from_slice(&admission).map_err(|error| {
                        JoinError::NotUnderstood {
                            node: (*seed).to_owned(),
                            why: error.to_string(),
                        }
                    });
                }
                Ok(Answer::Error(why)) if is_final(&why) => {
                    return Err(JoinError::Refused { node: (*seed).to_owned(), why });
                }
                Ok(Answer::Nil) => "it writes this node into the map".to_owned(),
                Ok(other) => other.to_string(),
                Err(error) => error.to_string(),
            };
            if round % SAY_EVERY == 1 {
                tracing::info!("asked {seed} to let this node join, and asks again: {why}");
            }
        }
        std::thread::sleep(ROUND_REST);
    }
    unreachable!("it asks until it is let in, or refused")
}

/// What asking again does not mend; a node that is too busy or just starts says something else.
fn is_final(why: &str) -> bool {
    why.starts_with("ERR ")
}

fn ask_one(seed: &str, text: &[u8]) -> io::Result<Answer> {
    let address = seed.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
    Client::connect(address, CALL_TIMEOUT)?.call(&[b"OARLOCK", b"JOIN", text])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_what_it_is_in_the_map_once_it_was_let_in() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(own_member(folder.path()).unwrap(), None);
        write(folder.path(), DiskId(12), None).unwrap();
        assert_eq!(own_member(folder.path()).unwrap(), None);
        let line = r#"{"node":{"id":4,"peer_address":"10.0.0.4:1","client_address":"10.0.0.4:2","cores":2},
            "disk":"0000000000000000000000000000000c"}"#;
        let member = members::read(line.as_bytes()).unwrap();
        let joined = vec![member.entry.clone()];
        let admission =
            Admission { node: 4, settings: String::new(), meta: None, joined, level: 1 };
        write(folder.path(), DiskId(12), Some(admission)).unwrap();
        assert_eq!(own_member(folder.path()).unwrap(), Some(member));
    }
}
