//! A backend for tests: real stores, in memory, whose answers come when the test says so.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use oarlock_store::{Batch, Command, Reply, Request, Store, StoreLimits};
use oarlock_types::{CoreAddr, CoreId, GroupId, Index, Mono, NodeId, RangeEpoch, WallMs};

use super::session::{
    Backend, ConnectionId, NodeInfo, Outcome, Query, RangeBounds, RangeInfo, Refusal, Ticket,
};

/// A request that has no outcome yet.
#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    pub(crate) connection: ConnectionId,
    pub(crate) ticket: Ticket,
    pub(crate) group: GroupId,
    pub(crate) request: Request,
}

/// Ranges that are split at given keys.
pub(crate) struct FakeBackend {
    splits: Vec<Bytes>,
    stores: Vec<Store>,
    pub(crate) queue: VecDeque<Submitted>,
    pub(crate) wall_ms: u64,
    /// When the monotonic clock began.
    begun: Instant,
    /// Groups that refuse, with what.
    pub(crate) refusing: Vec<(GroupId, Refusal)>,
    /// Woken by each request.
    pub(crate) waker: Option<Waker>,
}

impl FakeBackend {
    pub(crate) fn new(splits: &[&[u8]]) -> Self {
        Self {
            splits: splits.iter().map(|split| Bytes::copy_from_slice(split)).collect(),
            stores: (0..=splits.len()).map(|_| Store::new(StoreLimits::default())).collect(),
            queue: VecDeque::new(),
            wall_ms: 1_700_000_000_000,
            begun: Instant::now(),
            refusing: Vec::new(),
            waker: None,
        }
    }

    fn at(&self, key: &[u8]) -> usize {
        self.splits.partition_point(|split| split <= key)
    }

    fn bounds(&self, at: usize) -> RangeBounds {
        RangeBounds {
            group: GroupId(at as u64 + 1),
            start: at.checked_sub(1).map(|at| self.splits[at].clone()).unwrap_or_default(),
            end: self.splits.get(at).cloned(),
        }
    }

    /// Carries out the request at a place of the queue.
    pub(crate) fn carry_out(&mut self, at: usize) -> (ConnectionId, Ticket, Outcome) {
        let submitted = self.queue.remove(at).expect("a request is waiting");
        let refusal = self.refusing.iter().find(|(group, _)| *group == submitted.group);
        let outcome = match refusal {
            Some((_, refusal)) => Err(*refusal),
            None => Ok(self.apply(submitted.group, submitted.request)),
        };
        (submitted.connection, submitted.ticket, outcome)
    }

    fn apply(&mut self, group: GroupId, request: Request) -> Reply {
        let store = &mut self.stores[usize::try_from(group.0 - 1).unwrap()];
        let stamp = WallMs(self.wall_ms);
        if request.is_read() {
            return store.read(&request, stamp);
        }
        let mut replies = Vec::new();
        let index = Index(store.applied().0 + 1);
        store.apply(index, Batch { stamp, requests: vec![request] }, &mut replies);
        replies.remove(0)
    }
}

impl Backend for FakeBackend {
    fn submit(&mut self, connection: ConnectionId, ticket: Ticket, key: &[u8], request: Request) {
        let group = self.range_of(key);
        self.submit_to(connection, ticket, group, request);
    }

    fn submit_to(
        &mut self,
        connection: ConnectionId,
        ticket: Ticket,
        group: GroupId,
        request: Request,
    ) {
        self.queue.push_back(Submitted { connection, ticket, group, request });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn range_of(&self, key: &[u8]) -> GroupId {
        self.bounds(self.at(key)).group
    }

    fn bounds_of(&self, key: &[u8]) -> RangeBounds {
        self.bounds(self.at(key))
    }

    fn ranges(&self) -> Vec<RangeInfo> {
        let range = |at| {
            let RangeBounds { group, start, end } = self.bounds(at);
            RangeInfo {
                group,
                start,
                end,
                leader: Some(NodeId(1)),
                addresses: vec![None],
                replicas: vec![CoreAddr::new(NodeId(1), CoreId(0))],
                epoch: RangeEpoch(1),
            }
        };
        (0..self.stores.len()).map(range).collect()
    }

    fn ask(&mut self, connection: ConnectionId, ticket: Ticket, _: Query) {
        // Whatever is asked of the cores, the outcome comes later: here a count stands for it.
        self.submit_to(connection, ticket, GroupId(1), Request::one(Command::Count));
    }

    fn info(&self) -> NodeInfo {
        NodeInfo { node: NodeId(1), ..NodeInfo::default() }
    }

    fn now(&self) -> Mono {
        Mono(u64::try_from(self.begun.elapsed().as_micros()).expect("a test is short"))
    }

    fn wall_us(&self) -> u64 {
        self.wall_ms * 1000 + 7
    }
}
