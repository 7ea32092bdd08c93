//! Replicas that go to another core of their node while it serves. One per core.
//! `docs/decisions/0015-between-cores.md` argues why it is safe.
//!
//! The old core saves a checkpoint and gives it a second name on the new one while the replica serves. Then
//! the replica stands still for a few writes of the log: once all that it has is durable it goes as it is, in memory;
//! the new core's log says all of it anew, and what it voted last of all; when that is durable, the old core's log
//! forgets it; and only when that is durable, too, it goes on, on the new core. So while two logs have it, it says
//! nothing, and both are right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use oarlock_codec::{GroupMessage, Record};
use oarlock_raft::LogPosition;
use oarlock_types::{CoreAddr, CoreId, GroupId, Guard, Index, Limits, Mono};

use crate::checkpoints::Mark;
use crate::elections::Election;
use crate::files::{Budget, Purpose};
use crate::output::{CheckpointFile, FileJob};
use crate::replica::{Past, Replica};
use crate::shard::Shard;
use crate::stays::{Stayed, Stays};

/// Replicas that a core sends at once.
const AT_ONCE_MAX: usize = 1;
/// Replicas that are to go and wait for their turn.
const WAITING_MAX: usize = 64;
/// One that could not go for so long stays: its leader is not to be had, or its disk is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// Checkpoints made for one that is to go, each time its log outgrew what is kept of it meanwhile, and transfers
/// of its leadership.
const ATTEMPTS_MAX: u32 = 8;
/// Messages kept for a replica that stands still; more are lost, as messages may be.
const PARKED_MAX: usize = 256;

/// A replica on its way, with all that it has in memory.
#[derive(Debug)]
pub struct Moving {
    group: GroupId,
    replica: Box<Replica>,
}

/// What cores of one node tell each other of a replica that goes from one to the other. Never lost while the
/// process lives, and of one replica in order.
#[derive(Debug)]
pub enum HandOver {
    /// A checkpoint that is to have a second name there.
    Lend {
        /// Which.
        file: CheckpointFile,
        /// The sender's number for it.
        attempt: u32,
    },
    /// It has, or can not.
    Lent {
        /// Which.
        file: CheckpointFile,
        /// The number.
        attempt: u32,
        /// Whether it has.
        is_lent: bool,
    },
    /// The second name is not needed.
    TakeBack(CheckpointFile),
    /// Here it is: all of it is durable in the sender's log, and it says nothing from now on.
    Take(Moving),
    /// It was not taken, and nothing of it was written: the sender goes on with it.
    Refused(Moving),
    /// The log has it, durably.
    Kept(GroupId),
    /// The sender's log has forgotten it, durably. With what was said to it meanwhile.
    Forgotten(GroupId, Vec<(CoreAddr, GroupMessage)>),
}

/// Why a replica does not go to another core. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveError {
    /// The group has no replica on this core.
    NoReplica,
    /// The node has no such core.
    NoSuchCore,
    /// It holds nothing yet, or is being rebuilt.
    NotReady,
    /// Too many wait to go.
    Busy,
    /// It was to go there a moment ago, and stayed.
    Rests(Stayed),
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoReplica => "the range has no replica on this core",
            Self::NoSuchCore => "the node has no such core",
            Self::NotReady => "the replica holds nothing yet, or is being rebuilt",
            Self::Busy => "too many replicas are to go to other cores: try again later",
            Self::Rests(why) => return write!(f, "the replica stays for now: {why}"),
        })
    }
}

/// How far a replica is that goes. Each but the first two names the checkpoint that has a second name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Its log behind the newest checkpoint is to be short, and in memory.
    Saving,
    Lending(LogPosition, u32),
    /// It is to lead no more.
    Lent(LogPosition),
    /// It stands still until all that it has is durable.
    Stopping(LogPosition),
    /// The other core has it.
    Gone(LogPosition),
}

impl Stage {
    fn lent(self) -> Option<LogPosition> {
        match self {
            Self::Waiting | Self::Saving => None,
            Self::Lending(position, _)
            | Self::Lent(position)
            | Self::Stopping(position)
            | Self::Gone(position) => Some(position),
        }
    }
}

type Parked = Vec<(CoreAddr, GroupMessage)>;

#[derive(Debug)]
struct Going {
    to: CoreId,
    stage: Stage,
    attempts: u32,
    until: Mono,
    stopped_at: Mono,
    parked: Parked,
}

#[derive(Debug)]
struct Coming {
    from: CoreId,
    moving: Moving,
    parked: Parked,
}

/// The replicas of one core that go, and those that come.
#[derive(Debug)]
pub(crate) struct HandOvers {
    going: BTreeMap<GroupId, Going>,
    coming: BTreeMap<GroupId, Coming>,
    budget: Budget,
    stays: Stays,
    /// Groups of which a replica is on another core than before, that of this core or another member's: whoever
    /// leads is to know, and tell the map.
    pub(crate) untold: BTreeSet<GroupId>,
    /// Checkpoints that were to have a second name, since the start.
    lends: u32,
}

impl HandOvers {
    pub(crate) fn new(limits: &Limits) -> Self {
        let budget = Budget::new(limits.snapshot_bytes_per_s_max);
        Self {
            going: BTreeMap::new(),
            coming: BTreeMap::new(),
            budget,
            stays: Stays::default(),
            untold: BTreeSet::new(),
            lends: 0,
        }
    }

    /// Whether a replica stands still, here or on its way.
    pub(crate) fn holds(&self, group: GroupId) -> bool {
        let stands = |going: &Going| matches!(going.stage, Stage::Stopping(_) | Stage::Gone(_));
        self.going.get(&group).is_some_and(stands) || self.coming.contains_key(&group)
    }

    fn park(&mut self, from: CoreAddr, message: GroupMessage) {
        let group = message.group;
        let going = self.going.get_mut(&group).map(|going| &mut going.parked);
        let parked = match going {
            Some(parked) => parked,
            None => match self.coming.get_mut(&group) {
                Some(coming) => &mut coming.parked,
                None => return,
            },
        };
        if parked.len() < PARKED_MAX {
            parked.push((from, message));
        }
    }

    fn is_empty(&self) -> bool {
        self.going.is_empty() && self.coming.is_empty()
    }

    fn set(&mut self, group: GroupId, stage: Stage) {
        if let Some(going) = self.going.get_mut(&group) {
            going.stage = stage;
        }
    }
}

impl Shard {
    /// Begins to bring a replica to another core of the node. It goes on serving; that it has gone, the
    /// directory of homes says. One that goes there already goes on.
    ///
    /// # Errors
    /// When it can not go now.
    pub fn move_to_core(&mut self, group: GroupId, to: CoreId) -> Result<(), MoveError> {
        if to.get() >= self.support.cores() {
            return Err(MoveError::NoSuchCore);
        }
        if self.hand_overs.going.get(&group).is_some_and(|going| going.to == to) {
            return Ok(());
        }
        let replica = self.replicas.get(&group).ok_or(MoveError::NoReplica)?;
        let is_rebuilt = self.rebuild_stages().any(|(rebuilt, _)| rebuilt == group);
        if replica.applied == Index(0) || !replica.raft.knows_members() || is_rebuilt {
            return Err(MoveError::NotReady);
        }
        if let Some(why) = self.hand_overs.stays.rests(group, to, self.now) {
            return Err(MoveError::Rests(why));
        }
        self.give_up_move(group);
        if to == self.addr.core {
            return Ok(());
        }
        if self.hand_overs.going.len() > WAITING_MAX {
            return Err(MoveError::Busy);
        }
        let (stage, until, stopped_at) = (Stage::Waiting, Mono::NEVER, Mono(0));
        let going = Going { to, stage, attempts: 0, until, stopped_at, parked: Vec::new() };
        self.hand_overs.going.insert(group, going);
        Ok(())
    }

    /// Replicas of this core that are to go to another one, or are on their way.
    #[must_use]
    pub fn moves_under_way(&self) -> usize {
        self.hand_overs.going.len()
    }

    /// Whether a replica is on its way to this core or from it, and so not among its own.
    pub(crate) fn is_under_way(&self, group: GroupId) -> bool {
        let is_gone = |going: &Going| matches!(going.stage, Stage::Gone(_));
        self.hand_overs.going.get(&group).is_some_and(is_gone)
            || self.hand_overs.coming.contains_key(&group)
    }

    /// Keeps a message for a replica that stands still; `None` if it was kept.
    pub(crate) fn not_parked(
        &mut self,
        from: CoreAddr,
        message: GroupMessage,
    ) -> Option<GroupMessage> {
        if self.hand_overs.is_empty() || !self.hand_overs.holds(message.group) {
            return Some(message);
        }
        self.hand_overs.park(from, message);
        None
    }

    /// Goes on with those that are to go.
    pub(crate) fn push_moves(&mut self) {
        let groups: Vec<GroupId> = self.hand_overs.going.keys().copied().collect();
        for group in groups {
            self.push_move(group);
        }
        self.hand_overs.stays.expire(self.now);
        self.tell_residences();
    }

    fn push_move(&mut self, group: GroupId) {
        let Some(going) = self.hand_overs.going.get(&group) else { return };
        let (stage, is_over) = (going.stage, self.now >= going.until);
        let stood = self.now.since(going.stopped_at);
        if matches!(stage, Stage::Gone(_)) {
            return;
        }
        self.drop_void_incoming(group);
        let Some(replica) = self.replicas.get(&group) else {
            self.give_up_move(group);
            return;
        };
        if is_over {
            self.stay(group, Stayed::TooLong);
            return;
        }
        let is_busy = replica.making.is_some() || replica.incoming.is_some();
        let is_other = stage.lent().is_some_and(|lent| {
            lent != replica.checkpoint.position || !replica.raft.has_entries_behind(lent.index)
        });
        match stage {
            Stage::Waiting => {
                let bytes = replica.store.size_bytes();
                let is_active = |going: &&Going| going.stage != Stage::Waiting;
                let active = self.hand_overs.going.values().filter(is_active).count();
                if active < AT_ONCE_MAX && self.hand_overs.budget.allows(self.now) {
                    self.hand_overs.budget.take(bytes);
                    let until = self.now + PATIENCE;
                    let going = self.hand_overs.going.get_mut(&group);
                    going.into_iter().for_each(|going| going.until = until);
                    self.hand_overs.set(group, Stage::Saving);
                }
            }
            _ if is_other || (is_busy && stage != Stage::Saving) => self.save_anew(group),
            Stage::Saving if !is_busy => self.save_or_lend(group),
            Stage::Lent(position) => self.stop(group, position),
            // Its log is stuck, and others do without it: it does not miss more than it must.
            Stage::Stopping(_) if stood >= self.limits.support_duration => {
                self.save_anew(group);
                self.attempt(group);
            }
            Stage::Saving | Stage::Lending(..) | Stage::Stopping(_) | Stage::Gone(_) => {}
        }
    }

    /// Makes a checkpoint, unless what is behind the newest one is in memory: then that one will do.
    fn save_or_lend(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let position = replica.checkpoint.position;
        let is_in_file = position.index > Index(0) && replica.base.is_none();
        if is_in_file && replica.raft.has_entries_behind(position.index) {
            replica.raft.keep_entries_from(Some(position.index.next()));
            let Some(going) = self.hand_overs.going.get(&group) else { return };
            let (file, to) = (CheckpointFile { group, position }, going.to);
            self.hand_overs.lends += 1;
            let attempt = self.hand_overs.lends;
            self.out.hand_overs.push((to, HandOver::Lend { file, attempt }));
            self.hand_overs.set(group, Stage::Lending(position, attempt));
            return;
        }
        replica.raft.keep_entries_from(Some(replica.applied.next()));
        self.start_checkpoint(group);
        if self.replicas.get(&group).is_some_and(|replica| replica.making.is_some()) {
            self.attempt(group);
        }
    }

    fn attempt(&mut self, group: GroupId) {
        let Some(going) = self.hand_overs.going.get_mut(&group) else { return };
        going.attempts += 1;
        if going.attempts > ATTEMPTS_MAX {
            self.stay(group, Stayed::TooOften);
        }
    }

    /// The checkpoint has a second name on the other core, or could get none.
    fn lent(&mut self, file: CheckpointFile, attempt: u32, is_lent: bool) {
        let Some(going) = self.hand_overs.going.get_mut(&file.group) else { return };
        if going.stage != Stage::Lending(file.position, attempt) {
            return; // of an attempt that was given up
        }
        if is_lent {
            going.stage = Stage::Lent(file.position);
        } else {
            self.stay(file.group, Stayed::NotLent);
        }
    }

    /// Another checkpoint has taken the place of the one that was lent.
    fn save_anew(&mut self, group: GroupId) {
        self.take_back(group);
        self.hand_overs.set(group, Stage::Saving);
        self.go_on_here(group);
    }

    fn take_back(&mut self, group: GroupId) {
        let Some(going) = self.hand_overs.going.get(&group) else { return };
        if let Some(position) = going.stage.lent() {
            let file = CheckpointFile { group, position };
            self.out.hand_overs.push((going.to, HandOver::TakeBack(file)));
        }
    }

    /// A replica that stood still takes what was said to it.
    fn go_on_here(&mut self, group: GroupId) {
        let Some(going) = self.hand_overs.going.get_mut(&group) else { return };
        let parked = std::mem::take(&mut going.parked);
        self.wake(group, parked);
    }

    fn wake(&mut self, group: GroupId, parked: Parked) {
        let spread = Duration::ZERO;
        self.with_group(group, |raft, ctx, out| raft.support_changed(ctx, spread, out));
        for (from, message) in parked {
            self.messages(from, vec![message]);
        }
    }

    /// The replica could not go, and is not to try again at once.
    fn stay(&mut self, group: GroupId, why: Stayed) {
        if let Some(going) = self.hand_overs.going.get(&group) {
            self.hand_overs.stays.note(group, going.to, why, self.now);
            self.out.stayed.push((group, going.to, why));
        }
        self.give_up_move(group);
    }

    /// The replica stays, unless it has gone.
    pub(crate) fn give_up_move(&mut self, group: GroupId) {
        if self.is_under_way(group) {
            return;
        }
        self.take_back(group);
        let Some(going) = self.hand_overs.going.remove(&group) else { return };
        if let Some(replica) = self.replicas.get_mut(&group) {
            replica.raft.keep_entries_from(None);
        }
        self.wake(group, going.parked);
    }

    /// Lets it stand still, once it leads no more. Where nobody else could lead, it leads until then.
    fn stop(&mut self, group: GroupId, position: LogPosition) {
        let Some(replica) = self.replicas.get(&group) else { return };
        let is_alone = replica.raft.leads_alone();
        if replica.raft.is_leader() && !is_alone {
            if replica.raft.leads_on() && self.transfer(group, None).is_ok() {
                self.attempt(group);
            }
            return;
        }
        let reads = self.reads.values().any(|read| read.group == group);
        let is_free = replica.raft.is_follower() && replica.pending.is_empty() && !reads;
        if replica.election == Election::None && (is_alone || is_free) {
            self.hand_overs.set(group, Stage::Stopping(position));
            let going = self.hand_overs.going.get_mut(&group);
            going.into_iter().for_each(|going| going.stopped_at = self.now);
        }
    }

    /// Hands over what stands still and has nothing under way, before a turn has said anything.
    pub(crate) fn send_what_rests(&mut self) {
        for (group, to, position) in self.resting() {
            if self.leads(group) {
                self.with_group(group, |raft, ctx, out| raft.resign(ctx, out));
            }
            let Some(mut replica) = self.remove(group) else { continue };
            replica.load = None;
            replica.armed = Mono::NEVER;
            self.hand_overs.set(group, Stage::Gone(position));
            let moving = Moving { group, replica };
            self.out.hand_overs.push((to, HandOver::Take(moving)));
        }
    }

    /// Whether something may be handed over at once.
    pub(crate) fn is_hand_over_due(&self) -> bool {
        !self.hand_overs.is_empty() && !self.resting().is_empty()
    }

    fn resting(&self) -> Vec<(GroupId, CoreId, LogPosition)> {
        let going = self.hand_overs.going.iter();
        let stopping = going.filter_map(|(group, going)| match going.stage {
            Stage::Stopping(position) => Some((*group, going.to, position)),
            Stage::Waiting
            | Stage::Saving
            | Stage::Lending(..)
            | Stage::Lent(_)
            | Stage::Gone(_) => None,
        });
        stopping.filter(|(group, _, position)| self.rests(*group, *position)).collect()
    }

    /// Whether a replica that stands still has nothing under way, and the other core can have all of it.
    fn rests(&self, group: GroupId, position: LogPosition) -> bool {
        let waiting = &self.after_durable;
        let is_awaited = waiting.messages.iter().any(|(.., message)| message.group == group)
            || waiting.acks.iter().any(|(_, of, _)| *of == group)
            || self.reads.values().any(|read| read.group == group)
            || self.splits.needs_log_of(group);
        let Some(replica) = self.replicas.get(&group).filter(|_| !is_awaited) else { return false };
        let is_busy = replica.making.is_some() || replica.incoming.is_some();
        let is_asked = !replica.pending.is_empty() || !replica.queued.is_empty();
        !is_busy
            && !is_asked
            && replica.checkpoint.position == position
            && replica.raft.has_entries_behind(position.index)
            && replica.raft.is_at_rest()
    }

    /// Another core of the node says something of a replica that goes between the two.
    pub fn hand_over(&mut self, from: CoreId, told: HandOver) {
        match told {
            // The core that is to own the name makes it and removes it, so that both come in order.
            HandOver::Lend { file, attempt } => {
                let job = FileJob::Adopt { file, from };
                self.start_job(Purpose::Adopt(file, from, attempt), job);
            }
            HandOver::Lent { file, attempt, is_lent } => self.lent(file, attempt, is_lent),
            HandOver::TakeBack(file) => self.delete(file),
            HandOver::Take(moving) => self.take(from, moving),
            HandOver::Refused(moving) => self.refused(moving),
            HandOver::Kept(group) => self.kept(group),
            HandOver::Forgotten(group, parked) => {
                self.take_over(group);
                self.wake(group, parked);
            }
        }
    }

    /// Writes all of the replica to this core's log. What it has voted comes last: without that it is none.
    fn take(&mut self, from: CoreId, moving: Moving) {
        let group = moving.group;
        if self.disk_full || self.knows_replica(group) || self.departed.contains_key(&group) {
            self.out.hand_overs.push((from, HandOver::Refused(moving)));
            return;
        }
        let replica = &moving.replica;
        let meta = replica.checkpoint.clone();
        let mut origin = replica.origin();
        origin.residence += 1;
        let entries = replica.raft.entries_behind(meta.position.index);
        let hard_state = replica.raft.hard_state();
        let (configuration, details) = (meta.configuration.clone(), origin.to_details());
        self.log(&Record::Create { group, configuration, details });
        self.log(&Record::Checkpoint { group, meta, keep_from: Index(u64::MAX) });
        self.newest_lsn = self.wal.append_entries(group, &entries);
        let lsn = self.log(&Record::HardState { group, hard_state });
        self.hand_overs.coming.insert(group, Coming { from, moving, parked: Vec::new() });
        if Guard::OldForgetsLast.is_on() {
            self.after_durable.marks.push_back((lsn, Mark::Arrived(group)));
        } else {
            self.arrived(group);
        }
    }

    /// The replica that came is in this core's log, durably and whole.
    pub(crate) fn arrived(&mut self, group: GroupId) {
        let Some(coming) = self.hand_overs.coming.get(&group) else { return };
        self.out.hand_overs.push((coming.from, HandOver::Kept(group)));
        if !Guard::NewSpeaksLast.is_on() {
            self.take_over(group);
        }
    }

    /// It was not taken: it goes on here, and nothing has become of it.
    fn refused(&mut self, Moving { group, replica }: Moving) {
        self.put(group, replica);
        if let Some(going) = self.hand_overs.going.get_mut(&group)
            && let Stage::Gone(position) = going.stage
        {
            going.stage = Stage::Lent(position);
        }
        self.stay(group, Stayed::Refused);
    }

    /// The other core's log has it: this one's forgets it.
    fn kept(&mut self, group: GroupId) {
        let lsn = self.log(&Record::Destroy { group });
        self.after_durable.marks.push_back((lsn, Mark::Forgotten(group)));
    }

    /// This core's log has forgotten it: it may speak again.
    pub(crate) fn forgotten(&mut self, group: GroupId) {
        let Some(going) = self.hand_overs.going.remove(&group) else { return };
        self.homes.bring(group, going.to);
        if let Some(position) = going.stage.lent() {
            self.delete(CheckpointFile { group, position });
        }
        self.out.hand_overs.push((going.to, HandOver::Forgotten(group, going.parked)));
    }

    /// The replica is this core's.
    fn take_over(&mut self, group: GroupId) {
        let Some(coming) = self.hand_overs.coming.remove(&group) else { return };
        let Moving { mut replica, .. } = coming.moving;
        if !Guard::NewSpeaksLast.is_on() {
            self.homes.bring(group, self.addr.core);
        }
        debug_assert_eq!(self.homes.core_of(group), Some(self.addr.core), "invariant: one home");
        let past = replica.past();
        replica.set_past(Past { residence: past.residence + 1, ..past });
        replica.raft.moved(self.addr.core, replica.checkpoint.clone());
        self.out.leaders.push((group, replica.raft.leader()));
        self.out.arrived.push(group);
        self.hand_overs.untold.insert(group);
        self.put(group, replica);
        self.wake(group, coming.parked);
    }
}
