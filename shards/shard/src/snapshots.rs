//! Checkpoints on their way between replicas: sent piece by piece from the leader's file, each received
//! into a file and loaded as it comes, marked in the log, and only then put in place.

use bytes::Bytes;
use oarlock_codec::Record;
use oarlock_raft::{LogPosition, SnapshotChunk, SnapshotMeta, SnapshotRead, SnapshotWrite};
use oarlock_store::{Loader, Store};
use oarlock_types::{GroupId, Guard, Index, NodeId};

use crate::checkpoints::Mark;
use crate::files::Purpose;
use crate::output::{CheckpointFile, FileDone, FileJob};
use crate::shard::Shard;

/// A checkpoint that comes from the leader.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) meta: SnapshotMeta,
    from_node: NodeId,
    received_bytes: u64,
    /// A piece is being written.
    writing_bytes: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The state as far as its pieces have come.
    Loading(Box<Loader>),
    /// Loaded; its mark rides in a frame of the log.
    Marked(Box<Store>),
}

impl Incoming {
    pub(crate) fn is_marked(&self) -> bool {
        matches!(self.stage, Stage::Marked(_))
    }

    /// All has come, and the file gets its name, or has it.
    fn is_whole(&self) -> bool {
        self.received_bytes >= self.meta.size_bytes
    }

    /// What has been loaded, which nobody needs any more.
    fn abandon(self) -> Store {
        match self.stage {
            Stage::Loading(loader) => loader.abandon(),
            Stage::Marked(store) => *store,
        }
    }
}

impl Shard {
    /// A follower wants a piece of this replica's newest checkpoint.
    pub(crate) fn read_snapshot(&mut self, group: GroupId, wanted: SnapshotRead) {
        // What was wanted before, by a transfer that has started over since, is wanted no more.
        let is_other =
            |&(of, read): &(GroupId, SnapshotRead)| of != group || read.to_node != wanted.to_node;
        self.files.unsent.retain(is_other);
        if self.replicas.get(&group).is_some_and(|replica| replica.base.is_some()) {
            self.send_piece(group, wanted, FileDone::Failed); // its first checkpoint is being made
        } else if wanted.offset_bytes.is_some() {
            self.files.unsent.push_back((group, wanted));
        } else {
            // The offer needs the meta data alone.
            self.send_piece(group, wanted, FileDone::Read(Bytes::new()));
        }
    }

    /// Starts the reads that the sending budget allows.
    pub(crate) fn feed_snapshots(&mut self) {
        let chunk = self.limits.snapshot_chunk_bytes;
        while !self.files.unsent.is_empty()
            && self.files.snapshot_budget.allows(self.now)
            && let Some((group, wanted)) = self.files.unsent.pop_front()
        {
            let newest = self.replicas.get(&group).map(|replica| &replica.checkpoint);
            let Some(meta) = newest.filter(|meta| meta.position == wanted.position) else {
                // A newer checkpoint has replaced that file: begin anew.
                self.send_piece(group, wanted, FileDone::Failed);
                continue;
            };
            let size_bytes = meta.size_bytes;
            let file = CheckpointFile { group, position: wanted.position };
            let offset_bytes = wanted.offset_bytes.unwrap_or(0);
            let len_bytes = up_to(size_bytes, offset_bytes, chunk);
            self.files.snapshot_budget.take(len_bytes as u64);
            let job = FileJob::Read { file, offset_bytes, len_bytes };
            self.start_job(Purpose::Send(group, wanted), job);
        }
    }

    pub(crate) fn send_piece(&mut self, group: GroupId, wanted: SnapshotRead, done: FileDone) {
        let Some(replica) = self.replicas.get(&group) else { return };
        let meta = replica.checkpoint.clone();
        let data = match done {
            FileDone::Read(data) if meta.position == wanted.position => data,
            // A newer checkpoint has replaced that file meanwhile, or the disk failed: begin anew.
            FileDone::Read(_) | FileDone::Written | FileDone::Failed => {
                self.with_group(group, |raft, ctx, out| {
                    raft.snapshot_read_failed(ctx, wanted.to_node, out);
                });
                return;
            }
        };
        let chunk = SnapshotChunk {
            core: self.addr.core,
            meta,
            offset_bytes: wanted.offset_bytes.unwrap_or(0),
            data,
        };
        self.with_group(group, |raft, ctx, out| {
            raft.snapshot_read(ctx, wanted.to_node, chunk, out);
        });
    }

    /// Lets go of a snapshot that would bring nothing new: entries have come in its place, and no more of it does.
    pub(crate) fn drop_void_incoming(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get(&group) else { return };
        let is_void = replica.incoming.as_ref().is_some_and(|incoming| {
            !incoming.is_marked() && incoming.meta.position.index <= replica.applied
        });
        if is_void {
            self.drop_incoming(group);
        }
    }

    /// A piece from the leader, or its offer.
    pub(crate) fn write_snapshot(&mut self, group: GroupId, piece: SnapshotWrite) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        if replica.base.is_some() {
            return; // it saves its own state first, and a log may wait for that
        }
        let known = replica.incoming.as_ref().map(|incoming| incoming.meta.position);
        if known != Some(piece.meta.position) {
            if replica.incoming.as_deref().is_some_and(Incoming::is_whole) {
                return; // one is being put in place: the leader's offer is repeated later
            }
            if let Some(old) = replica.incoming.take() {
                let position = old.meta.position;
                self.graveyard.push(old.abandon());
                self.delete(CheckpointFile { group, position });
            }
            self.abandon_checkpoint(group);
            let store_limits = Self::store_limits(&self.limits);
            let loader = Loader::ending_with(store_limits, piece.meta.position.index);
            let incoming = Incoming {
                meta: piece.meta.clone(),
                from_node: piece.from_node,
                received_bytes: 0,
                writing_bytes: 0,
                stage: Stage::Loading(Box::new(loader)),
            };
            if let Some(replica) = self.replicas.get_mut(&group) {
                replica.incoming = Some(Box::new(incoming));
            }
        }
        self.write_piece(group, piece);
    }

    fn write_piece(&mut self, group: GroupId, piece: SnapshotWrite) {
        let Some(incoming) = self.incoming(group) else { return };
        incoming.from_node = piece.from_node;
        let is_next = piece.offset_bytes == incoming.received_bytes
            && incoming.writing_bytes == 0
            && !incoming.is_whole()
            && !piece.data.is_empty();
        if let Stage::Loading(loader) = &mut incoming.stage
            && is_next
        {
            if loader.feed(&piece.data).is_err() {
                self.drop_incoming(group);
                return;
            }
            incoming.writing_bytes = piece.data.len() as u64;
            let file = CheckpointFile { group, position: incoming.meta.position };
            let (offset_bytes, data) = (piece.offset_bytes, piece.data.to_vec());
            let job = FileJob::Append { file, offset_bytes, data };
            self.start_job(Purpose::ReceivePiece(file), job);
        } else if incoming.writing_bytes == 0 {
            self.acknowledge_piece(group);
        }
    }

    fn incoming(&mut self, group: GroupId) -> Option<&mut Incoming> {
        self.replicas.get_mut(&group)?.incoming.as_deref_mut()
    }

    fn acknowledge_piece(&mut self, group: GroupId) {
        let Some(incoming) = self.incoming(group) else { return };
        let (node, position) = (incoming.from_node, incoming.meta.position);
        let received = incoming.received_bytes;
        self.with_group(group, |raft, ctx, out| {
            raft.snapshot_written(ctx, node, position, received, out);
        });
    }

    pub(crate) fn piece_written(&mut self, group: GroupId, done: &FileDone) {
        if *done != FileDone::Written {
            self.drop_incoming(group);
            return;
        }
        let Some(incoming) = self.incoming(group) else { return };
        incoming.received_bytes += std::mem::take(&mut incoming.writing_bytes);
        if incoming.is_whole() {
            let file = CheckpointFile { group, position: incoming.meta.position };
            self.start_job(Purpose::ReceiveFinish(file), FileJob::Finish { file });
        }
        self.acknowledge_piece(group);
    }

    pub(crate) fn receive_finished(&mut self, group: GroupId, done: &FileDone) {
        if *done == FileDone::Written {
            self.loaded(group);
        } else {
            self.drop_incoming(group);
        }
    }

    /// The state stands in memory; its mark goes into the log, which forgets what was before.
    fn loaded(&mut self, group: GroupId) {
        if self.splits.needs_log_of(group) {
            self.drop_incoming(group); // it would take the log's place
            return;
        }
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(mut incoming) = replica.incoming.take() else { return };
        let meta = incoming.meta.clone();
        let position = meta.position;
        let Stage::Loading(loader) = incoming.stage else { return };
        match loader.finish() {
            Ok(store) if replica.raft.needs_install(position) => {
                incoming.stage = Stage::Marked(Box::new(store));
                replica.incoming = Some(incoming);
                let keep_from = Index(u64::MAX);
                let lsn = self.log(&Record::Checkpoint { group, meta, keep_from });
                if Guard::MarkBeforeInstall.is_on() {
                    self.after_durable.marks.push_back((lsn, Mark::Received(group)));
                } else {
                    self.install(group);
                }
            }
            // The log has caught up meanwhile: what is there is not taken back.
            Ok(store) => {
                self.graveyard.push(store);
                self.delete(CheckpointFile { group, position });
                self.with_group(group, |raft, ctx, out| raft.snapshot_installed(ctx, meta, out));
            }
            Err(_) => self.begin_anew(group, incoming.from_node, position),
        }
    }

    /// The mark is durable: the state is put in place and replication goes on behind it.
    pub(crate) fn install(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(incoming) = replica.incoming.take() else { return };
        let Stage::Marked(store) = incoming.stage else { return };
        let meta = incoming.meta;
        self.graveyard.push(std::mem::replace(&mut replica.store, *store));
        replica.applied = meta.position.index;
        self.note_frozen(group);
        self.replace_checkpoint(group, meta.clone());
        self.forget_outcomes(group, meta.position.index);
        let installed =
            self.with_group(group, |raft, ctx, out| raft.snapshot_installed(ctx, meta, out));
        assert_eq!(installed, Some(true), "invariant: nothing was said to the group meanwhile");
    }

    /// Gives a transfer up that the log has overtaken: another leader went on from where this
    /// replica stood, and nobody will finish it. A checkpoint that is being loaded finds out itself.
    pub(crate) fn drop_overtaken(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let commit = replica.raft.commit();
        let overtaken = replica
            .incoming
            .take_if(|incoming| !incoming.is_marked() && incoming.meta.position.index <= commit);
        if let Some(incoming) = overtaken {
            let position = incoming.meta.position;
            self.graveyard.push(incoming.abandon());
            self.delete(CheckpointFile { group, position });
        }
    }

    /// Gives a received checkpoint up; the leader's next offer begins anew.
    pub(crate) fn drop_incoming(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(incoming) = replica.incoming.take() else { return };
        let (node, position) = (incoming.from_node, incoming.meta.position);
        self.graveyard.push(incoming.abandon());
        self.begin_anew(group, node, position);
    }

    /// Tells the leader that nothing of a checkpoint is here.
    fn begin_anew(&mut self, group: GroupId, node: NodeId, position: LogPosition) {
        let Some(replica) = self.replicas.get(&group) else { return };
        if position != replica.checkpoint.position {
            self.delete(CheckpointFile { group, position });
        }
        self.with_group(group, |raft, ctx, out| {
            raft.snapshot_written(ctx, node, position, 0, out);
        });
    }
}

/// The length of a piece of at most `piece` bytes at `offset`: a file's end holds more than the
/// checkpoint.
fn up_to(size_bytes: u64, offset_bytes: u64, piece: usize) -> usize {
    usize::try_from(size_bytes.saturating_sub(offset_bytes)).unwrap_or(usize::MAX).min(piece)
}
