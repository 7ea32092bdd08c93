//! Clients' requests: admission, one proposal per group and turn, reads, replies.

use std::time::Duration;

use oarlock_codec::{Lane, Refusal, commands};
use oarlock_raft::{Entry, LogPosition, Payload, ProposeError, ReadOutcome};
use oarlock_store::{Batch, Order, Request};
use oarlock_types::{CoreAddr, FeatureLevels, GroupId, Guard, Index, RangeEpoch, WallMs};

use crate::merges::serves;
use crate::replica::{PendingEntry, Queued};
use crate::shard::Shard;

/// After this a request whose fate is still open is answered `UNKNOWN`. The router's own time-out
/// is shorter; this one bounds what a shard remembers.
const OUTCOME_WAIT_MAX: Duration = Duration::from_secs(30);

/// A lane's writes that were sent before the sender heard of a refusal arrive within this time, or the
/// sender has given them up.
const LANE_CLOSED: Duration = Duration::from_secs(60);

/// Whose writes must keep their order among themselves: the core that sent them, its connection, and
/// the group.
pub(crate) type LaneKey = (CoreAddr, u64, GroupId);

/// A read that waits for its barrier.
#[derive(Debug)]
pub(crate) struct WaitingRead {
    pub(crate) token: u64,
    pub(crate) group: GroupId,
    epoch: RangeEpoch,
    request: Request,
    pub(crate) bytes: usize,
}

impl Shard {
    /// Takes a request. Its outcome comes with some turn's [`crate::Output::replies`], exactly once.
    /// `epoch` is the range's version by which the sender routed it.
    pub fn request(&mut self, token: u64, group: GroupId, epoch: RangeEpoch, request: Request) {
        self.request_in_lane(token, group, epoch, None, request);
    }

    /// As [`Shard::request`], for a write that keeps its place among those of its lane, which this
    /// core sent. Once one of them is refused, those that follow it are, too, though this replica may
    /// lead by the time they come: applied now they would overtake it.
    pub fn request_in_lane(
        &mut self,
        token: u64,
        group: GroupId,
        epoch: RangeEpoch,
        lane: Option<(CoreAddr, Lane)>,
        request: Request,
    ) {
        let key = lane.map(|(from, lane)| (from, lane.connection, group));
        let follows = lane.is_some_and(|(_, lane)| lane.follows);
        match key {
            Some(key)
                if follows
                    && self.lanes_closed.contains_key(&key)
                    && Guard::LaneKeepsOrder.is_on() =>
            {
                self.out.replies.push((token, Err(Refusal::OutOfTurn)));
                return;
            }
            // The sender has heard of every refusal before it: it is the next in turn.
            Some(key) if !follows => drop(self.lanes_closed.remove(&key)),
            Some(_) | None => {}
        }
        if let Err(refusal) = self.accept(token, group, epoch, key, request) {
            // Of these the client does not hear: they are tried again.
            let again = matches!(
                refusal,
                Refusal::NotLeader { .. } | Refusal::StaleEpoch | Refusal::NoSuchGroup
            );
            if let Some(key) = key.filter(|_| again) {
                self.lanes_closed.insert(key, self.now);
            }
            self.out.replies.push((token, Err(refusal)));
        }
    }

    pub(crate) fn forget_closed_lanes(&mut self) {
        let now = self.now;
        self.lanes_closed.retain(|_, closed_at| now.since(*closed_at) < LANE_CLOSED);
    }

    fn accept(
        &mut self,
        token: u64,
        group: GroupId,
        epoch: RangeEpoch,
        lane: Option<LaneKey>,
        request: Request,
    ) -> Result<(), Refusal> {
        let replica = self.replicas.get_mut(&group).ok_or(Refusal::NoSuchGroup)?;
        if self.hand_overs.holds(group) {
            return Err(Refusal::NoSuchGroup); // in a moment another core has it
        }
        if replica.store.bounds().epoch != epoch && Guard::EpochIsChecked.is_on() {
            return Err(Refusal::StaleEpoch);
        }
        if !serves(&replica.store) {
            return Err(Refusal::StaleEpoch);
        }
        let order = request.order();
        let is_for_this = order.and_then(Order::replica_on) == Some(self.addr.node);
        if !replica.raft.is_leader() && !is_for_this {
            let leader = replica.raft.leader();
            self.elect_soon(group);
            return Err(Refusal::NotLeader { leader });
        }
        if let Some(order) = order {
            return self.order(token, group, order);
        }
        let bytes = request.size_bytes();
        let is_read = request.is_read();
        let load = replica.load.get_or_insert_with(|| self.loads.begin(group, self.now));
        load.count(&request, is_read);
        if is_read {
            return self.read(token, group, epoch, request, bytes);
        }
        if self.disk_full {
            return Err(Refusal::DiskFull);
        }
        if bytes > self.limits.entry_bytes_max {
            return Err(Refusal::TooLarge);
        }
        if !self.admission.admit(bytes) {
            return Err(Refusal::Busy);
        }
        if replica.queued.is_empty() {
            self.queued.push(group);
        }
        replica.queued.push(Queued { token, request, bytes, lane });
        Ok(())
    }

    fn read(
        &mut self,
        token: u64,
        group: GroupId,
        epoch: RangeEpoch,
        request: Request,
        bytes: usize,
    ) -> Result<(), Refusal> {
        if !self.admission.admit(bytes) {
            return Err(Refusal::Busy);
        }
        self.next_read += 1;
        let id = self.next_read;
        self.reads.insert(id, WaitingRead { token, group, epoch, request, bytes });
        self.with_group(group, |raft, ctx, out| raft.read(ctx, id, out));
        Ok(())
    }

    /// Proposes this turn's writes: one entry per group, several where one would grow too large.
    pub(crate) fn propose_queued(&mut self) {
        let mut groups = std::mem::take(&mut self.queued);
        let mut held = Vec::new();
        for group in groups.drain(..) {
            let Some(stamp) = self.next_stamp(group) else { continue };
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            if replica.raft.is_leader() && replica.raft.is_splitting() {
                held.push(group); // it is not known yet which range will have their keys
                continue;
            }
            let mut queued = std::mem::take(&mut replica.queued);
            if queued.is_empty() {
                continue; // a split has sent them back
            }
            let mut entry = Vec::new();
            let mut bytes = 0;
            for write in queued.drain(..) {
                if bytes + write.bytes > self.limits.entry_bytes_max && !entry.is_empty() {
                    self.propose(group, stamp, &mut entry, bytes);
                    bytes = 0;
                }
                bytes += write.bytes;
                entry.push(write);
            }
            self.propose(group, stamp, &mut entry, bytes);
            if let Some(replica) = self.replicas.get_mut(&group) {
                replica.queued = queued;
            }
        }
        groups.append(&mut held);
        self.queued = groups;
    }

    /// Proposes an entry that holds no request.
    pub(crate) fn propose_empty(&mut self, group: GroupId) {
        let Some(stamp) = self.next_stamp(group) else { return };
        self.propose(group, stamp, &mut Vec::new(), 0);
    }

    /// The stamp of the group's next entry. It never runs backwards within a leader, though the wall
    /// clock may.
    fn next_stamp(&mut self, group: GroupId) -> Option<WallMs> {
        let replica = self.replicas.get_mut(&group)?;
        replica.stamp = replica.stamp.max(self.wall).max(replica.store.stamp());
        Some(replica.stamp)
    }

    // WRITE 4/9: the turn's writes of one group become one entry, proposed once.
    fn propose(&mut self, group: GroupId, stamp: WallMs, writes: &mut Vec<Queued>, bytes: usize) {
        // What is sent back is tried again elsewhere: nothing of its lane may overtake it here.
        if !self.replicas.get(&group).is_some_and(|replica| replica.raft.leads_on()) {
            let lanes = writes.iter().filter_map(|write| write.lane);
            self.lanes_closed.extend(lanes.map(|lane| (lane, self.now)));
        }
        let mut tokens = Vec::with_capacity(writes.len());
        let mut requests = Vec::with_capacity(writes.len());
        for write in writes.drain(..) {
            tokens.push(write.token);
            requests.push(write.request);
        }
        let commands = commands::payload(&Batch { stamp, requests }, self.feature_level());
        self.files.proposed(bytes);
        let since = self.now;
        let proposed = self.with_group(group, |raft, ctx, out| raft.propose(ctx, commands, out));
        let refusal = match proposed {
            Some(Ok(at)) => {
                let entry = PendingEntry { at, tokens, bytes, since };
                if let Some(replica) = self.replicas.get_mut(&group) {
                    let behind = replica.pending.partition_point(|e| e.at.index <= at.index);
                    replica.pending.insert(behind, entry);
                }
                return;
            }
            Some(Err(ProposeError::NotLeader { leader })) => Refusal::NotLeader { leader },
            // Whoever takes over will have it.
            Some(Err(ProposeError::Transferring)) => Refusal::NotLeader { leader: None },
            Some(Err(ProposeError::WindowFull | ProposeError::Splitting)) => Refusal::Busy,
            None => Refusal::NoSuchGroup,
        };
        self.admission.release(tokens.len(), bytes);
        self.out.replies.extend(tokens.into_iter().map(|token| (token, Err(refusal))));
    }
}

impl Shard {
    /// Carries out a committed entry and answers whoever proposed it here.
    // WRITE 8/9: the store applies, the same on every replica.
    pub(crate) fn apply(&mut self, group: GroupId, entry: &Entry) {
        match &entry.payload {
            Payload::Split(bytes) => self.cut(group, entry.at, bytes),
            Payload::Merge(bytes) => self.apply_merge(group, entry.at, bytes),
            Payload::Noop | Payload::Config(_) | Payload::Commands(_) | Payload::Packed(_) => {}
        }
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let mut replies = std::mem::take(&mut self.replies);
        match &entry.payload {
            Payload::Commands(_) | Payload::Packed(_) => {
                let batch = decoded(group, entry);
                let before = replica.store.bounds().epoch;
                replica.store.apply(entry.at.index, batch, &mut replies);
                if replica.store.bounds().epoch != before {
                    self.out.reshaped.push(group); // it has taken its neighbour
                }
            }
            Payload::Noop | Payload::Config(_) => replica.store.pass(entry.at.index),
            Payload::Split(_) | Payload::Merge(_) => {}
        }
        assert_eq!(replica.applied.next(), entry.at.index, "invariant: applied once, in order");
        replica.applied = entry.at.index;
        while replica.pending.front().is_some_and(|front| front.at.index <= entry.at.index) {
            let Some(front) = replica.pending.pop_front() else { break };
            self.admission.release(front.tokens.len(), front.bytes);
            if front.at == entry.at || !Guard::ReplyIsOfItsEntry.is_on() {
                assert_eq!(front.tokens.len(), replies.len(), "invariant: a reply per request");
                self.writes_acknowledged += front.tokens.len() as u64;
                let outcomes = replies.drain(..).map(Ok);
                self.out.replies.extend(front.tokens.into_iter().zip(outcomes));
            } else {
                // Another leader's entry stands at that index for good, so ours never will.
                let refused = front.tokens.into_iter().map(|token| (token, Err(Refusal::Busy)));
                self.out.replies.extend(refused);
            }
        }
        replies.clear();
        self.replies = replies;
    }

    /// Answers reads that Raft has decided.
    pub(crate) fn settle_reads(&mut self, outcomes: &mut Vec<ReadOutcome>) {
        for outcome in outcomes.drain(..) {
            let (id, index) = match outcome {
                ReadOutcome::Ready { token, index } => (token, Some(index)),
                ReadOutcome::Refused { token } => (token, None),
            };
            let Some(read) = self.reads.remove(&id) else { continue };
            self.admission.release(1, read.bytes);
            let outcome = match (self.replicas.get(&read.group), index) {
                // The range may have been cut while the read waited.
                (Some(replica), Some(_))
                    if replica.store.bounds().epoch != read.epoch
                        && Guard::EpochIsChecked.is_on() =>
                {
                    Err(Refusal::StaleEpoch)
                }
                (Some(replica), Some(index)) => {
                    assert!(replica.raft.applied() >= index, "invariant: a leader applies at once");
                    Ok(replica.store.read(&read.request, self.wall))
                }
                (Some(replica), None) => Err(Refusal::NotLeader { leader: replica.raft.leader() }),
                (None, _) => Err(Refusal::NoSuchGroup),
            };
            self.out.replies.push((read.token, outcome));
        }
    }

    /// Gives up on outcomes that have been open for too long: they may still come to pass.
    pub(crate) fn expire_outcomes(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let now = self.now;
        let overdue = |e: &PendingEntry| now.since(e.since) > OUTCOME_WAIT_MAX;
        while let Some(place) = replica.pending.iter().position(overdue) {
            let Some(entry) = replica.pending.remove(place) else { break };
            self.admission.release(entry.tokens.len(), entry.bytes);
            let unknown = entry.tokens.into_iter().map(|token| (token, Err(Refusal::Unknown)));
            self.out.replies.extend(unknown);
        }
    }

    /// Nobody tells a replica that is no member any more what became of its open entries.
    pub(crate) fn forget_if_left(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get(&group) else { return };
        let is_member = replica.raft.configuration().is_member(self.addr.node);
        if !replica.pending.is_empty() && !replica.raft.is_leader() && !is_member {
            self.forget_outcomes(group, Index(u64::MAX));
        }
    }

    /// The log was replaced by a checkpoint: whether open entries are in it can not be told.
    pub(crate) fn forget_outcomes(&mut self, group: GroupId, up_to: Index) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        while replica.pending.front().is_some_and(|entry| entry.at.index <= up_to) {
            let Some(entry) = replica.pending.pop_front() else { break };
            self.admission.release(entry.tokens.len(), entry.bytes);
            let open = Guard::OpenFateIsUnknown.is_on();
            let refusal = if open { Refusal::Unknown } else { Refusal::Busy };
            let unknown = entry.tokens.into_iter().map(|token| (token, Err(refusal)));
            self.out.replies.extend(unknown);
        }
    }
}

/// A committed entry that can not be decoded means that replicas would diverge: a bug, not a fault
/// of the disk, since frames are checksummed.
fn decoded(group: GroupId, entry: &Entry) -> Batch {
    let batch = commands::batch(&entry.payload);
    batch.unwrap_or_else(|error| not_known(group, entry.at, &error.to_string()))
}

/// Passing over what others apply would be worse than to stop. What a newer build proposes, it proposes only at
/// a feature level that all understand.
pub(crate) fn not_known(group: GroupId, at: LogPosition, why: &str) -> ! {
    panic!(
        "{group}: committed entry {at} is none that this build knows, which understands feature {} ({why}): start \
         the build that the other nodes run",
        FeatureLevels::BUILD
    )
}
