//! A group's state machine on openraft: a map in memory, rebuilt from last snapshot and log.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EmptyNode, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, StorageError, StorageIOError, StoredMembership,
};

use super::types::Types;
use crate::shared::state::{State, load_snapshot, save_snapshot};

type Fault = StorageError<u64>;
type Meta = SnapshotMeta<u64, EmptyNode>;

/// A group's state; clones are the same state.
#[derive(Clone)]
pub struct Machine {
    file: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Default)]
struct Inner {
    state: State,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, EmptyNode>,
}

fn fault(error: impl std::error::Error + 'static) -> Fault {
    StorageIOError::write(AnyError::new(&error)).into()
}

impl Machine {
    /// The state of the last snapshot.
    pub fn open(folder: &Path, group: u64) -> io::Result<Self> {
        let file = folder.join(format!("snapshot-{group}"));
        let mut inner = Inner::default();
        if let Some((meta, data)) = load_snapshot(&file)? {
            let meta: Meta = postcard::from_bytes(&meta).map_err(io::Error::other)?;
            inner = Inner {
                state: State::decode(data),
                applied: meta.last_log_id,
                membership: meta.last_membership,
            };
        }
        Ok(Self { file, inner: Arc::new(Mutex::new(inner)) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.inner().state.get(key)
    }

    async fn save(&self, meta: Meta, data: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let (file, meta) = (self.file.clone(), postcard::to_stdvec(&meta).map_err(fault)?);
        let job = move || save_snapshot(&file, &meta, &data).map(|()| data);
        tokio::task::spawn_blocking(job).await.map_err(fault)?.map_err(fault)
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Fault> {
        let Inner { state, applied, membership } = self.inner().clone();
        let snapshot_id = applied.map_or_else(String::new, |log_id| log_id.to_string());
        let meta = Meta { last_log_id: applied, last_membership: membership, snapshot_id };
        let encode = tokio::task::spawn_blocking(move || state.encode());
        let data = self.save(meta.clone(), encode.await.map_err(fault)?).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, EmptyNode>), Fault> {
        let inner = self.inner();
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Fault>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = self.inner();
        let mut outcomes = Vec::new();
        for entry in entries {
            inner.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(data) => inner.state.apply(data),
                EntryPayload::Membership(members) => {
                    inner.membership = StoredMembership::new(Some(entry.log_id), members);
                }
            }
            outcomes.push(());
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Fault> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Fault> {
        let data = self.save(meta.clone(), snapshot.into_inner()).await?;
        eprintln!("{} took a leader's snapshot {}", self.file.display(), meta.snapshot_id);
        *self.inner() = Inner {
            state: State::decode(data.into()),
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Fault> {
        let Some((meta, data)) = load_snapshot(&self.file).map_err(fault)? else {
            return Ok(None);
        };
        let meta = postcard::from_bytes(&meta).map_err(fault)?;
        Ok(Some(Snapshot { meta, snapshot: Box::new(Cursor::new(data.to_vec())) }))
    }
}
