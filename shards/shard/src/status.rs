//! What a person may ask of a core: plain numbers, taken between turns.

use oarlock_raft::{Configuration, LogPosition};
use oarlock_store::RangeReport;
use oarlock_types::{GroupId, Index, NodeId, RangeEpoch, Term};

use crate::load::RequestRates;
use crate::shard::Shard;
use crate::walk::{LOOKS, looks_in_haste};

/// One replica as it stands.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Its group.
    pub group: GroupId,
    /// The range's epoch.
    pub epoch: RangeEpoch,
    /// `leader`, `follower`, `candidate`, `pre-candidate` or `learner`.
    pub role: &'static str,
    /// Its term.
    pub term: Term,
    /// Whom it knows as leader.
    pub leader: Option<NodeId>,
    /// Committed up to here.
    pub commit: Index,
    /// Applied up to here.
    pub applied: Index,
    /// The end of its log.
    pub last: LogPosition,
    /// Bytes of log since its checkpoint.
    pub log_bytes: u64,
    /// Keys in its store.
    pub keys: u64,
    /// Bytes in its store.
    pub state_bytes: u64,
    /// The hash of its store: equal wherever `applied` is.
    pub state_hash: u64,
    /// At a leader, how many requests it gets.
    pub rates: RequestRates,
    /// Whether it may answer reads from its lease now.
    pub lease: bool,
    /// Whether it may vote: not for one support duration after a start.
    pub may_vote: bool,
    /// At a leader, the members; else nobody.
    pub members: Configuration,
    /// At a leader, each other member: how far it has the log, and in which state it is followed.
    pub followers: Vec<oarlock_raft::ProgressStatus>,
}

impl Shard {
    /// All replicas, in order of their groups.
    #[must_use]
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.ids.iter().filter_map(|group| self.replica_status(*group)).collect()
    }

    /// How many replicas there are, and how many of them lead.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.ids.len(), self.led)
    }

    /// Clients' keys in the ranges that may be served here, and how many of them have an expiry. What ends or shares a
    /// range's service counts at once, all else as the [surveys](Self::survey) found it.
    #[must_use]
    pub fn keys_led(&self) -> (usize, usize) {
        self.survey.keys
    }

    /// How many replicas to look at in a second, beside those to which something has happened; `in_haste`: so many that
    /// all are seen within seconds, whatever it costs.
    #[must_use]
    pub fn looks_per_s(&self, in_haste: bool) -> usize {
        if in_haste { looks_in_haste(self.ids.len()) } else { LOOKS }
    }

    /// Looks at replicas: at up to `changed_max` to which something has happened since the last time, and at up to
    /// `looks` others, so that all are looked at again and again. `see` hears of each how its range is if it leads.
    /// Gives how many of both it has looked at: fewer of the others where it has come to the last of all.
    pub fn survey(
        &mut self,
        changed_max: usize,
        looks: usize,
        mut see: impl FnMut(GroupId, Option<RangeReport>),
    ) -> (usize, usize) {
        let changed = changed_max.min(self.survey.changed.len());
        for _ in 0..changed {
            let Some(group) = self.survey.changed.pop_front() else { break };
            if let Some(replica) = self.replicas.get_mut(&group) {
                replica.is_changed = false;
            }
            self.count_keys(group);
            see(group, self.report(group));
        }
        let places = self.survey.walk.next(&self.ids, looks);
        for place in places.clone() {
            let group = self.ids[place];
            self.count_keys(group);
            see(group, self.report(group));
        }
        (changed, places.len())
    }

    /// A range is asked more or less than before, or other things.
    pub(crate) fn note_changed(&mut self, group: GroupId) {
        if let Some(replica) = self.replicas.get_mut(&group) {
            self.survey.note_changed(group, &mut replica.is_changed);
        }
    }

    /// Has the keys of a range count as many as there are by now, if it may be served here: whoever was overtaken and
    /// was not told yet leads without a lease, and the neighbour of a frozen range may have its keys already.
    pub(crate) fn count_keys(&mut self, group: GroupId) {
        let may_serve = group != GroupId::META && self.holds_lease(group, self.now);
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let counts = may_serve && replica.store.frozen().is_none();
        let store = &replica.store;
        let now = if counts { (store.len(), store.expiring_len()) } else { (0, 0) };
        self.survey.count(&mut replica.keys_counted, now);
    }

    /// How a range that is led here is.
    #[must_use]
    pub fn report(&self, group: GroupId) -> Option<RangeReport> {
        let replica = self.replicas.get(&group).filter(|replica| replica.raft.is_leader())?;
        let lags = |node: &NodeId| replica.lags_behind(*node);
        let configuration = replica.raft.configuration();
        let learners = &configuration.learners;
        let lagging = configuration.unsorted_members().filter(lags).map(NodeId::get);
        let learns = learners.iter().map(|node| node.get() | RangeReport::LEARNS);
        let has_learners = !learners.is_empty();
        let as_of = has_learners.then(|| replica.raft.configured().get() | RangeReport::AS_OF);
        let rates = self.request_rates(group);
        Some(RangeReport {
            group: group.get(),
            term: replica.raft.term().get(),
            leader: self.addr.node.get(),
            bytes: replica.store.size_bytes(),
            keys: replica.store.len() as u64,
            writes_per_s: rates.writes_per_s,
            reads_per_s: rates.reads_per_s,
            lagging: lagging.chain(learns).chain(as_of).collect(),
        })
    }

    /// Commands that wait for their outcome.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.admission.count()
    }

    fn replica_status(&self, group: GroupId) -> Option<ReplicaStatus> {
        let replica = self.replicas.get(&group)?;
        let view = self.support.view(self.addr.core, self.now);
        let ctx =
            oarlock_raft::Context { now: self.now, support: &view, may_vote: self.may_vote() };
        let raft = &replica.raft;
        Some(ReplicaStatus {
            group,
            epoch: replica.store.bounds().epoch,
            role: raft.role().name(),
            term: raft.term(),
            leader: raft.leader(),
            commit: raft.commit(),
            applied: raft.applied(),
            last: raft.last(),
            log_bytes: self.wal.group_log_bytes(group),
            keys: replica.store.len() as u64,
            state_bytes: replica.store.size_bytes(),
            state_hash: replica.store.state_hash(),
            rates: self.request_rates(group),
            lease: raft.lease_valid(&ctx),
            may_vote: ctx.may_vote,
            members: if raft.is_leader() {
                raft.configuration().clone()
            } else {
                Configuration::default()
            },
            followers: raft.progress().collect(),
        })
    }
}
