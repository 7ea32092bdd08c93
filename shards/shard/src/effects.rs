//! Carries out what one step of a group asks for, in the order that [`oarlock_raft::Effects`]
//! promises.

use oarlock_codec::{GroupMessage, Record};
use oarlock_raft::{Body, Durable, Entry};
use oarlock_types::{CoreAddr, GroupId, Guard};

use crate::shard::Shard;
use crate::split::claim_cut;

impl Shard {
    pub(crate) fn perform(&mut self, group: GroupId) {
        let mut effects = std::mem::take(&mut self.effects);
        let has_appended = self.write_ahead(group, &mut effects);
        let envelope = |(node, message)| (node, GroupMessage { group, message });
        self.out.messages.extend(effects.send_now.drain(..).map(envelope));
        for (node, message) in effects.send_after_durable.drain(..) {
            let message = GroupMessage { group, message };
            if self.newest_lsn > self.durable_lsn {
                self.after_durable.messages.push_back((self.newest_lsn, node, message));
            } else {
                self.out.messages.push((node, message));
            }
        }
        if has_appended && !Guard::CheckpointIsOfState.is_on() {
            self.consider_checkpoint(group);
        }
        for entry in effects.apply.drain(..) {
            self.apply(group, &entry);
        }
        // Only now does the store hold what Raft counts as applied: a checkpoint names that.
        if has_appended {
            self.consider_checkpoint(group);
        }
        self.settle_reads(&mut effects.reads);
        let status_changed = std::mem::take(&mut effects.status_changed);
        if std::mem::take(&mut effects.settled) {
            self.out.settled.push(group);
        }
        let log_reads = std::mem::take(&mut effects.log_reads);
        let snapshot_reads = std::mem::take(&mut effects.snapshot_reads);
        let snapshot_writes = std::mem::take(&mut effects.snapshot_writes);
        // From here on steps may nest: the buffer goes back first.
        self.effects = effects;
        self.carry_out_splits();
        if status_changed && let Some(replica) = self.replicas.get(&group) {
            self.out.leaders.push((group, replica.raft.leader()));
            self.count_leader(group);
            self.forget_if_left(group);
        }
        for wanted in log_reads {
            self.read_log(group, wanted);
        }
        for wanted in snapshot_reads {
            self.read_snapshot(group, wanted);
        }
        for piece in snapshot_writes {
            self.write_snapshot(group, piece);
        }
    }

    fn count_leader(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let leads = replica.raft.is_leader();
        if std::mem::replace(&mut replica.counts_as_leader, leads) != leads {
            self.led = if leads { self.led + 1 } else { self.led - 1 };
            self.count_keys(group);
        }
    }

    /// Puts hard state and entries into the turn's frame, and notes who hears when it is durable.
    /// Whether there were entries.
    fn write_ahead(&mut self, group: GroupId, effects: &mut oarlock_raft::Effects) -> bool {
        let hard_state = effects.hard_state.take();
        if let Some(hard_state) = hard_state {
            self.log(&Record::HardState { group, hard_state });
        }
        let last = effects.append.last().map(|entry| entry.at);
        if last.is_some() {
            self.files.appended(effects.append.iter().map(Entry::size_bytes).sum());
            claim_cut(&self.homes, self.addr, &effects.append);
            self.newest_lsn = self.wal.append_entries(group, &effects.append);
            effects.append.clear();
        }
        if hard_state.is_some() || last.is_some() {
            let ack = (self.newest_lsn, group, Durable { hard_state, last });
            self.after_durable.acks.push_back(ack);
        }
        last.is_some()
    }

    /// Messages of one frame from another node's core, in order.
    pub fn messages(&mut self, from: CoreAddr, messages: Vec<GroupMessage>) {
        for message in messages {
            let Some(message) = self.not_parked(from, message) else { continue };
            let GroupMessage { group, message } = message;
            if let Body::Residence { core, is_answer } = message.body {
                self.residence_told(from.node, group, core, is_answer);
            } else if let Some(replica) = self.replicas.get_mut(&group) {
                if matches!(message.body, Body::AppendReply(_)) && replica.note_core(from) {
                    self.hand_overs.untold.insert(group);
                }
                let Some(replica) = self.replicas.get_mut(&group) else { continue };
                // While a received checkpoint's mark is on its way to the disk the old log must not
                // grow: what is said now is lost, as messages may be.
                if !replica.incoming.as_ref().is_some_and(|incoming| incoming.is_marked()) {
                    self.with_group(group, |raft, ctx, out| {
                        raft.step(ctx, from.node, message, out);
                    });
                }
            } else if self.homes.core_of(group).is_some_and(|home| home != self.addr.core) {
                // Another core has it: what is said here is lost, as messages may be.
            } else if let Body::Release(release) = message.body {
                // A node without the replica is bound to nobody: that counts as an acknowledgement.
                let body = Body::ReleaseReply(release);
                let message = oarlock_raft::Message { term: message.term, body };
                self.out.messages.push((from.node, GroupMessage { group, message }));
            } else if self.is_lost(group) {
                self.message_to_lost(from.node, group, &message);
            } else if message.body == Body::Create {
                self.want_replica(group, from.node, message.term);
            } else if let Body::Append(_) | Body::Snapshot(_) | Body::PreVote(_) | Body::Vote(_) =
                message.body
            {
                let message = oarlock_raft::Message { term: message.term, body: Body::Absent };
                self.out.messages.push((from.node, GroupMessage { group, message }));
            }
        }
    }
}
