//! One core of a node that is a cluster by itself, with one range: what a request costs between the parser
//! and the disk, which confirms at once.

use std::time::Duration;

use bytes::Bytes;
use oarlock_raft::Configuration;
use oarlock_shard::support_table::TableConfig;
use oarlock_shard::{Homes, Output, ReplicaSeed, Shard, ShardConfig, SharedSupport, SupportTable};
use oarlock_store::{Command, Expiry, Request, SetCondition};
use oarlock_types::{
    CoreAddr, CoreId, FeatureLevel, GroupId, Incarnation, Limits, Mono, NodeId, RangeBounds,
    RangeEpoch, SharedLimits, WallMs,
};

use crate::batches;

const GROUP: GroupId = GroupId(1);
/// Keys that are written in turn.
const KEYS: u64 = 64;

pub(crate) struct Core {
    shard: Shard,
    out: Output,
    now: Mono,
    frame: Vec<u8>,
    keys: Vec<Bytes>,
    value: Bytes,
    /// Requests that were answered, none of them refused.
    pub(crate) answered: u64,
}

impl Core {
    /// With its range led.
    pub(crate) fn new() -> Self {
        let addr = CoreAddr::new(NodeId(1), CoreId(0));
        let limits = SharedLimits::new(Limits::default());
        let support = SharedSupport::new(SupportTable::new(&TableConfig {
            node: addr.node,
            incarnation: Incarnation(1),
            cores: 1,
            cores_max: 1,
            origin: Mono(0),
            peers: &[],
        }));
        let config = ShardConfig {
            addr,
            limits: SharedLimits::clone(&limits),
            seed: 1,
            support,
            homes: Homes::new(1),
            may_vote_from: Mono(0),
        };
        let mut shard = Shard::new(config, batches::prepared());
        shard.set_feature_level(FeatureLevel::MAX);
        shard.begin_turn(Mono(1), WallMs(1));
        let voters = Configuration::simple([addr.node]);
        let bounds = RangeBounds::everything();
        let seed = ReplicaSeed::fresh(GROUP, bounds, voters, &limits, Duration::ZERO);
        shard.add_replica(seed, true);
        let mut core = Self {
            shard,
            out: Output::default(),
            now: Mono(1),
            frame: vec![0; batches::config().frame_bytes_max],
            keys: (0..KEYS).map(|key| Bytes::from(format!("key:{key:012}"))).collect(),
            value: Bytes::from(vec![b'v'; 128]),
            answered: 0,
        };
        while core.shard.counts().1 == 0 {
            core.turn();
        }
        core
    }

    /// One `SET`, from its request to its reply.
    pub(crate) fn set(&mut self, number: u64) {
        let key = self.keys[usize::try_from(number % KEYS).expect("they are few")].clone();
        let (value, expiry) = (self.value.clone(), Expiry::None);
        let condition = SetCondition::Always;
        let command = Command::Set { key, value, condition, expiry, get: false };
        self.shard.request(number, GROUP, RangeEpoch(1), Request::one(command));
        self.turn();
    }

    /// Ends the turn and begins the next, a millisecond later, in which its frame is durable.
    fn turn(&mut self) {
        self.shard.finish_turn(&mut self.out);
        let replies = self.out.replies.drain(..).filter(|(_, outcome)| outcome.is_ok());
        self.answered += replies.count() as u64;
        self.out.leaders.clear();
        self.now = self.now + Duration::from_millis(1);
        let wall = WallMs(self.now.0 / 1000);
        let written = self.shard.wal().seal(&mut self.frame);
        self.shard.begin_turn(self.now, wall);
        if let Some(frame) = written {
            self.shard.wal_durable(frame.lsn);
        }
        if let Some(id) = self.shard.wal().next_segment_wanted() {
            self.shard.wal().segment_prepared(id);
        }
    }
}
