//! What a person may ask of a core: plain numbers, taken between turns.

use oarlock_raft::{Configuration, LogPosition};
use oarlock_store::RangeReport;
use oarlock_types::{GroupId, Index, NodeId, RangeEpoch, Term};

use crate::load::RequestRates;
use crate::shard::Shard;

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

    /// Clients' keys in the ranges led here, and how many of them have an expiry, as the last whole
    /// [survey](Self::survey) found them.
    #[must_use]
    pub fn keys_led(&self) -> (usize, usize) {
        self.survey.found
    }

    /// Looks at some replicas, at all of a core that has few, at others with each call; `see` hears of each how
    /// its range is if it leads.
    pub fn survey(&mut self, mut see: impl FnMut(GroupId, Option<RangeReport>)) {
        let places = self.survey.walk.next(&self.ids);
        let is_end = places.end == self.ids.len();
        for place in places {
            let group = self.ids[place];
            let report = self.report(group);
            if report.is_some()
                && group != GroupId::META
                && let Some(replica) = self.replicas.get(&group)
            {
                self.survey.so_far.0 += replica.store.len();
                self.survey.so_far.1 += replica.store.expiring_len();
            }
            see(group, report);
        }
        if is_end {
            self.survey.found = std::mem::take(&mut self.survey.so_far);
        }
    }

    /// How a range that is led here is.
    #[must_use]
    pub fn report(&self, group: GroupId) -> Option<RangeReport> {
        let replica = self.replicas.get(&group).filter(|replica| replica.raft.is_leader())?;
        let lags = |node: &NodeId| replica.lags_behind(*node);
        let configuration = replica.raft.configuration();
        let lagging = configuration.members().filter(lags).map(NodeId::get);
        let learns = configuration.learners.iter().map(|node| node.get() | RangeReport::LEARNS);
        let has_learners = !configuration.learners.is_empty();
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
