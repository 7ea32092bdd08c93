//! Checkpoints for followers whose next entry is compacted away: offered, sent piece by piece from
//! where the follower stands, installed there. One per group; no bytes are kept here.
//!
//! A checkpoint never takes back what is committed, and a transfer that can not be finished starts
//! again with the newest checkpoint.

use std::time::Duration;

use oarlock_types::{Guard, NodeId, Term};

use crate::append::Sender;
use crate::group::Group;
use crate::progress::{Progress, ProgressState, SnapshotSend};
use crate::{
    Body, Context, Effects, LogPosition, Message, SnapshotChunk, SnapshotMeta, SnapshotRead,
    SnapshotWrite,
};

impl Sender<'_> {
    /// Offers the newest checkpoint.
    pub(crate) fn start_snapshot(&self, p: &mut Progress, out: &mut Effects) {
        self.read_snapshot(p, self.checkpoint, None, out);
    }

    fn read_snapshot(
        &self,
        p: &mut Progress,
        position: LogPosition,
        offset_bytes: Option<u64>,
        out: &mut Effects,
    ) {
        let send = SnapshotSend { position, size_bytes: None, offset_bytes, reading: true };
        p.state = ProgressState::Snapshot(Box::new(send));
        out.snapshot_reads.push(SnapshotRead { to_node: p.node, position, offset_bytes });
    }

    /// An answer is overdue: offers again, so that the follower says where it stands. A newer
    /// checkpoint takes the place of one of which nothing has arrived.
    pub(crate) fn retry_snapshot(&self, p: &mut Progress, out: &mut Effects) {
        let ProgressState::Snapshot(send) = &p.state else { return };
        if !send.reading {
            let position =
                if send.offset_bytes.is_none() { self.checkpoint } else { send.position };
            self.read_snapshot(p, position, None, out);
        }
    }
}

impl Group {
    /// A piece of a checkpoint that was wanted for `to_node`; empty for the offer.
    pub fn snapshot_read(
        &mut self,
        ctx: &Context<'_>,
        to_node: NodeId,
        chunk: SnapshotChunk,
        out: &mut Effects,
    ) {
        self.with_sender(ctx, |sender, leader| {
            let Some(p) = leader.find(to_node) else { return };
            let ProgressState::Snapshot(send) = &mut p.state else { return };
            if !send.reading || send.position != chunk.meta.position {
                return;
            }
            send.reading = false;
            send.size_bytes = Some(chunk.meta.size_bytes);
            p.active_at = ctx.now;
            if p.reachable {
                let body = Body::Snapshot(SnapshotChunk { core: sender.core, ..chunk });
                out.send_now.push((to_node, Message { term: sender.term, body }));
            }
        });
        self.finish(ctx, Duration::ZERO);
    }

    /// A piece that was wanted for `to_node` can not be had. If there is a newer checkpoint the
    /// transfer starts again with it, else it is tried again after the retry interval.
    pub fn snapshot_read_failed(&mut self, ctx: &Context<'_>, to_node: NodeId, out: &mut Effects) {
        self.with_sender(ctx, |sender, leader| {
            let Some(p) = leader.find(to_node) else { return };
            let ProgressState::Snapshot(send) = &mut p.state else { return };
            if send.position != sender.checkpoint {
                sender.start_snapshot(p, out);
            } else {
                send.reading = false;
                send.offset_bytes = None;
                p.active_at = ctx.now;
            }
        });
        self.finish(ctx, Duration::ZERO);
    }

    pub(crate) fn on_snapshot_reply(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        position: LogPosition,
        received_bytes: u64,
        installed: bool,
        out: &mut Effects,
    ) {
        self.with_sender(ctx, |sender, leader| {
            let Some(p) = leader.find(from) else { return };
            p.active_at = ctx.now;
            let ProgressState::Snapshot(send) = &mut p.state else { return };
            if installed && position.index <= sender.log.last().index {
                p.matched = p.matched.max(position.index);
                p.probe_from(p.matched.next());
                sender.fill(p, out);
            } else if !installed && send.position == position && !send.reading {
                // An answer to an earlier piece tells nothing new.
                let news = send.offset_bytes.is_none_or(|offset| received_bytes > offset);
                if send.size_bytes == Some(received_bytes) {
                    // All is there; what is awaited now is the install.
                    send.offset_bytes = Some(received_bytes);
                } else if news {
                    sender.read_snapshot(p, position, Some(received_bytes), out);
                }
            }
        });
        self.advance_commit(ctx, out);
        self.push_transfer(out);
    }

    pub(crate) fn on_snapshot(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        chunk: SnapshotChunk,
        out: &mut Effects,
    ) {
        let SnapshotChunk { core, meta, offset_bytes, data } = chunk;
        let position = meta.position;
        if term < self.hard.term {
            let body = Body::SnapshotReply { position, received_bytes: 0, installed: false };
            self.send_claim(from, body, self.log.durable(), out);
            return;
        }
        if !self.follow(ctx, from, term, core, out) {
            return;
        }
        self.catch_up(position, out);
        if position.index <= self.commit {
            self.reply_installed(from, &meta, out);
            return;
        }
        out.snapshot_writes.push(SnapshotWrite { from_node: from, meta, offset_bytes, data });
    }

    fn reply_installed(&self, to: NodeId, meta: &SnapshotMeta, out: &mut Effects) {
        let SnapshotMeta { position, size_bytes, .. } = *meta;
        let body = Body::SnapshotReply { position, received_bytes: size_bytes, installed: true };
        self.send_claim(to, body, position.index, out);
    }

    /// All bytes of the checkpoint before `received_bytes` are on this replica's disk.
    pub fn snapshot_written(
        &mut self,
        ctx: &Context<'_>,
        from_node: NodeId,
        position: LogPosition,
        received_bytes: u64,
        out: &mut Effects,
    ) {
        if self.follows() && self.leader == Some(from_node) && position.index > self.commit {
            let body = Body::SnapshotReply { position, received_bytes, installed: false };
            self.send_claim(from_node, body, self.log.durable(), out);
        }
        self.finish(ctx, Duration::ZERO);
    }

    /// A checkpoint from a leader is whole, verified and durable, its record in the WAL included.
    /// True if it takes the place of this replica's state: the store then becomes what it holds,
    /// and what comes after is applied on top. False if this replica has all that it holds, applied
    /// or to be applied from `out`; then it is an ordinary checkpoint, for [`Group::compact`].
    ///
    /// After a restart the log may still hold entries behind the checkpoint that do not continue
    /// it; [`Group::new`] tells them by their lower term and drops them.
    #[must_use]
    pub fn snapshot_installed(
        &mut self,
        ctx: &Context<'_>,
        meta: SnapshotMeta,
        out: &mut Effects,
    ) -> bool {
        self.catch_up(meta.position, out);
        let installs = meta.position.index > self.commit;
        if installs {
            assert!(!self.is_leader(), "invariant: a leader has all that is committed");
            self.log.install(meta.position);
            self.commit = meta.position.index;
            if Guard::SnapshotSetsMembers.is_on() {
                self.configurations = vec![(meta.configuration_index, meta.configuration.clone())];
            }
            self.checkpoint = meta.position;
            out.append.clear();
            out.status_changed = true;
        }
        if let Some(leader) = self.leader.filter(|l| *l != self.node) {
            self.reply_installed(leader, &meta, out);
        }
        self.finish(ctx, Duration::ZERO);
        installs
    }

    /// A checkpoint holds only what is committed: whoever has its last entry may apply up to it.
    fn catch_up(&mut self, position: LogPosition, out: &mut Effects) {
        if position.index > self.commit && self.log.term(position.index) == Some(position.term) {
            self.commit_to(position.index, out);
            self.evict();
        }
    }
}
