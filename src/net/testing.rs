//! A backend for tests: real stores, in memory, whose answers come when the test says so.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use oarlock_store::{Batch, Command, Reply, Request, Store, StoreLimits};
use oarlock_types::{CoreAddr, CoreId, GroupId, Index, Mono, NodeId, RangeEpoch, WallMs};

use super::session::{
    Backend, ConnectionId, KeyRange, NodeInfo, Outcome, Query, RangeInfo, Refusal, Ticket,
};

/// A request that has no outcome yet.
#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    pub(crate) connection: ConnectionId,
    pub(crate) ticket: Ticket,
    pub(crate) group: GroupId,
    pub(crate) request: Request,
    /// What it names is not in one range any more.
    pub(crate) is_moved: bool,
}

/// Ranges that are split at given keys.
pub(crate) struct FakeBackend {
    splits: Vec<Bytes>,
    /// The group of each range, in the order of keys; group *g* has the store at *g - 1*.
    groups: Vec<GroupId>,
    stores: Vec<Store>,
    map_version: u64,
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
            groups: (0..=splits.len() as u64).map(|at| GroupId(at + 1)).collect(),
            map_version: 1,
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

    fn bounds(&self, at: usize) -> KeyRange {
        KeyRange {
            start: at.checked_sub(1).map(|at| self.splits[at].clone()).unwrap_or_default(),
            end: self.splits.get(at).cloned(),
        }
    }

    /// Splits the range of a key there. What waits for its group and names no key, or keys of both
    /// halves, will be refused.
    pub(crate) fn split(&mut self, key: &[u8]) {
        let at = self.at(key);
        let store = self.store_of(self.groups[at]);
        let key = Bytes::copy_from_slice(key);
        let applied = self.stores[store].applied();
        let right = self.stores[store].split_off(&key, applied);
        self.stores.push(right);
        self.splits.insert(at, key);
        self.groups.insert(at + 1, GroupId(self.stores.len() as u64));
        self.map_version += 1;
        for waiting in &mut self.queue {
            let place = locate(&self.splits, &waiting.request);
            waiting.is_moved = match place {
                None => waiting.group == self.groups[at],
                Some(None) => true,
                Some(Some(range)) => {
                    waiting.group = self.groups[range];
                    false
                }
            };
        }
    }

    fn store_of(&self, group: GroupId) -> usize {
        usize::try_from(group.0 - 1).unwrap()
    }

    /// Carries out the request at a place of the queue.
    pub(crate) fn carry_out(&mut self, at: usize) -> (ConnectionId, Ticket, Outcome) {
        let submitted = self.queue.remove(at).expect("a request is waiting");
        let refusal = self.refusing.iter().find(|(group, _)| *group == submitted.group);
        let outcome = match refusal {
            Some((_, refusal)) => Err(*refusal),
            None if submitted.is_moved => Err(Refusal::Moved),
            None => Ok(self.apply(submitted.group, submitted.request)),
        };
        (submitted.connection, submitted.ticket, outcome)
    }

    fn apply(&mut self, group: GroupId, request: Request) -> Reply {
        let store = self.store_of(group);
        let store = &mut self.stores[store];
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

/// The place of the one range that has all that a request names; `None` outside: it names nothing, inside:
/// there is no such range.
fn locate(splits: &[Bytes], request: &Request) -> Option<Option<usize>> {
    let at = |key: &[u8]| splits.partition_point(|split| split <= key);
    let mut places = Vec::new();
    for command in &request.commands {
        places.extend(command.keys().iter().map(|key| at(key)));
        if let Command::Scan { start, end, .. } = command {
            let last = |end: &Bytes| splits.partition_point(|split| split < end);
            places.extend([at(start), end.as_ref().map_or(splits.len(), last)]);
        }
    }
    let first = *places.first()?;
    Some(places.iter().all(|place| *place == first).then_some(first))
}

impl Backend for FakeBackend {
    fn submit(&mut self, connection: ConnectionId, ticket: Ticket, key: &[u8], request: Request) {
        let group = self.groups[self.at(key)];
        self.submit_to(connection, ticket, group, request);
    }

    fn submit_to(
        &mut self,
        connection: ConnectionId,
        ticket: Ticket,
        group: GroupId,
        request: Request,
    ) {
        self.queue.push_back(Submitted { connection, ticket, group, request, is_moved: false });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn range_of(&self, key: &[u8]) -> Option<GroupId> {
        Some(self.groups[self.at(key)])
    }

    fn bounds_of(&self, key: &[u8]) -> KeyRange {
        self.bounds(self.at(key))
    }

    fn bounds_before(&self, end: Option<&[u8]>) -> KeyRange {
        let before = |end: &[u8]| self.splits.partition_point(|split| split.as_ref() < end);
        self.bounds(end.map_or(self.splits.len(), before))
    }

    fn groups(&self) -> Vec<GroupId> {
        self.groups.clone()
    }

    fn map_version(&self) -> u64 {
        self.map_version
    }

    fn ranges(&self) -> Vec<RangeInfo> {
        let range = |at| {
            let KeyRange { start, end } = self.bounds(at);
            RangeInfo {
                group: self.groups[at],
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
