//! What the client connections of a core see of the node: the router, the map, the node's numbers.
//!
//! One per core, shared by `Rc<RefCell>` between the connections' tasks and the driver. It must
//! not reach the shard: what it wants of it waits here until the driver's next turn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use oarlock_cluster::NodeEntry;
use oarlock_cluster::members::{self, Member};
use oarlock_cluster::range_text;
use oarlock_cluster::router::{Asker, Router};
use oarlock_codec::Refusal;
use oarlock_shard::SharedSupport;
use oarlock_store::{Reply, Request};
use oarlock_types::range_map::Range;
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, FastMap, FeatureLevels, GroupId, Incarnation, Mono, NodeId,
    RangeMap,
};

use super::clock::Clock;
use super::counters::Counters;
use super::inbox::Doorbell;
use super::join::Admission;
use super::message::CoreAnswer;
use super::stages::{Stage, Stages};
use super::status;
use crate::net::commands::KillReply;
use crate::net::session::{
    Backend, ConnectionId, KeyRange, NodeInfo, Outcome, Query, RangeInfo, Ticket, Timed, backend,
};

/// What is the same for all cores of a node.
#[derive(Debug)]
pub struct NodeFacts {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// How often it was started.
    pub incarnation: Incarnation,
    /// How many cores it has.
    pub cores: u16,
    /// Where it listens for clients.
    pub client_listen: SocketAddr,
    /// When this process started.
    pub started: Mono,
    /// Each core's counters.
    pub counters: Vec<Arc<Counters>>,
    /// Client connections of all cores.
    pub connected: Arc<AtomicUsize>,
    /// The settings in force, for `CONFIG GET`.
    pub settings: Vec<(String, String)>,
    /// What a node that joins must have alike, as a configuration.
    pub shared_settings: String,
    /// Replicas of a range for which nothing else is said.
    pub replication_factor: usize,
    /// The nodes that the cluster was formed of.
    pub formed_of: Vec<NodeEntry>,
    /// The feature levels that the node understands.
    pub levels: FeatureLevels,
    /// What is known of the other nodes, and of the cluster's level.
    pub table: SharedSupport,
}

/// A question that waits for the answers of all cores.
#[derive(Debug)]
struct Question {
    connection: ConnectionId,
    ticket: Ticket,
    query: Query,
    answers: Vec<(CoreId, CoreAnswer)>,
}

/// A core's front.
#[derive(Debug)]
pub struct Front {
    pub(super) router: Router,
    core: CoreId,
    facts: Arc<NodeFacts>,
    /// The cluster's nodes and where clients reach them.
    nodes: Arc<Vec<NodeEntry>>,
    clock: Clock,
    bell: Doorbell,
    questions: FastMap<u64, Question>,
    next_question: u64,
    /// Questions that the driver has yet to put to the cores.
    unasked: Vec<(u64, Query)>,
    /// Answers that the driver has yet to bring to their connections.
    answered: Vec<(ConnectionId, Ticket, Outcome)>,
    /// How long the stages of writes take on this core.
    pub(super) stages: Stages,
    /// When the bytes came of which commands are being made.
    input_came: Option<Mono>,
}

impl Front {
    /// The front of `core`; `bell` wakes its driver.
    #[must_use]
    pub fn new(
        core: CoreId,
        facts: Arc<NodeFacts>,
        nodes: Arc<Vec<NodeEntry>>,
        map: Arc<RangeMap>,
        patience: Duration,
        bell: Doorbell,
    ) -> Self {
        Self {
            router: Router::new(facts.node, core, map, patience),
            core,
            facts,
            nodes,
            clock: Clock,
            bell,
            questions: FastMap::default(),
            next_question: 0,
            unasked: Vec::new(),
            answered: Vec::new(),
            stages: Stages::default(),
            input_came: None,
        }
    }

    /// Begins to time a write that is about to be handed on, if it is the turn of one.
    fn timed(&mut self, request: &Request) -> Option<Timed> {
        let came = self.input_came.filter(|_| !request.is_read())?;
        if !self.stages.is_next_timed() {
            return None;
        }
        let handed = self.clock.mono();
        self.stages.record(Stage::Parse, came, handed);
        Some(Timed { came, handed })
    }

    /// Takes the questions that are to be put to all cores.
    pub fn take_unasked(&mut self) -> Vec<(u64, Query)> {
        std::mem::take(&mut self.unasked)
    }

    /// Takes the answers for connections of this core.
    pub fn take_answered(&mut self) -> Vec<(ConnectionId, Ticket, Outcome)> {
        std::mem::take(&mut self.answered)
    }

    /// A core has answered a question.
    pub fn answer_arrived(&mut self, question: u64, core: CoreId, answer: CoreAnswer) {
        let Some(asked) = self.questions.get_mut(&question) else { return };
        asked.answers.push((core, answer));
        if asked.answers.len() < usize::from(self.facts.cores) {
            return;
        }
        let Some(mut asked) = self.questions.remove(&question) else { return };
        asked.answers.sort_by_key(|(core, _)| *core);
        let outcome = self.joined(&asked.query, asked.answers);
        self.answered.push((asked.connection, asked.ticket, outcome));
    }

    /// What the answers of all cores make together.
    fn joined(&self, query: &Query, answers: Vec<(CoreId, CoreAnswer)>) -> Outcome {
        let mut cores = Vec::new();
        let mut begun = None;
        let mut joined = Ok(None);
        let mut lines = String::new();
        let mut killed = 0;
        let mut stages = Stages::default();
        for (core, answer) in answers {
            match answer {
                CoreAnswer::Status(replicas, damaged) => cores.push((core, replicas, damaged)),
                CoreAnswer::Join(Ok(None)) => {}
                CoreAnswer::Join(of_core) => joined = of_core,
                CoreAnswer::Rebuild(of_core) => begun = begun.or(of_core),
                CoreAnswer::ClientList(of_core) => lines.push_str(&of_core),
                CoreAnswer::ClientKill(of_core) => killed += of_core,
                CoreAnswer::Stages(of_core) => stages.merge(&of_core),
            }
        }
        match query {
            Query::Status => {
                let uptime = self.clock.mono().since(self.facts.started);
                let document = status::document(&self.facts, &self.nodes, uptime, &cores);
                Ok(Reply::Bulk(document.to_string().into()))
            }
            Query::Join(_) => {
                let admission = |node| Reply::Bulk(self.admission(node).into());
                joined
                    .map(|node| node.map_or(Reply::Nil, admission))
                    .map_err(backend::Refusal::Join)
            }
            Query::Rebuild(_) => {
                let begun = begun.ok_or(backend::Refusal::NoReplica)?;
                begun.map(|()| Reply::Ok).map_err(backend::Refusal::Rebuild)
            }
            Query::Stages => Ok(stages.reply()),
            Query::ClientList { .. } => Ok(Reply::Bulk(lines.into())),
            Query::ClientKill { reply: KillReply::Count, .. } => {
                Ok(Reply::Int(i64::try_from(killed).unwrap_or(i64::MAX)))
            }
            Query::ClientKill { reply: KillReply::Status, .. } if killed == 0 => {
                Err(backend::Refusal::NoSuchClient)
            }
            Query::ClientKill { reply: KillReply::Status, .. } => Ok(Reply::Ok),
        }
    }

    /// Knows these nodes from now on.
    pub fn set_nodes(&mut self, nodes: Arc<Vec<NodeEntry>>) {
        self.nodes = nodes;
    }

    /// The nodes that are known.
    #[must_use]
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// The nodes that the cluster was formed of, by their ids.
    fn formed_of(&self) -> Vec<NodeId> {
        self.facts.formed_of.iter().map(|node| node.id).collect()
    }

    /// All nodes, if these have joined.
    #[must_use]
    pub fn all_nodes(&self, joined: &[Member]) -> Vec<NodeEntry> {
        members::all_nodes(&self.facts.formed_of, joined.iter().map(|member| &member.entry))
    }

    /// What a node that has joined as `node` needs to know.
    fn admission(&self, node: NodeId) -> String {
        let formed_of = self.formed_of();
        let joined = self.nodes.iter().filter(|node| !formed_of.contains(&node.id));
        let admission = Admission {
            node: node.get(),
            settings: self.facts.shared_settings.clone(),
            meta: self.router.map().group(GroupId::META).map(|meta| range_text::write(&meta)),
            joined: joined.cloned().collect(),
            level: self.facts.table.level().get(),
        };
        admission.to_text()
    }

    fn info_of(&self, range: Range<'_>) -> RangeInfo {
        let address = |at: &CoreAddr| {
            let node = self.nodes.iter().find(|entry| entry.id == at.node)?;
            Some(node.core_address(at.core))
        };
        RangeInfo {
            addresses: range.replicas.iter().map(address).collect(),
            group: range.group,
            start: Bytes::copy_from_slice(range.start),
            end: range.end.map(Bytes::copy_from_slice),
            leader: self.router.leader(range.group),
            replicas: range.replicas.to_vec(),
            epoch: range.epoch,
        }
    }
}

/// What a connection hears of a refusal; the router mends the others itself.
pub fn client_outcome(outcome: oarlock_shard::Outcome) -> Outcome {
    outcome.map_err(|refusal| match refusal {
        Refusal::Busy => backend::Refusal::Busy,
        Refusal::Unknown => backend::Refusal::Unknown,
        Refusal::NotLeader { .. } | Refusal::NoQuorum => backend::Refusal::NoQuorum,
        Refusal::DiskFull => backend::Refusal::DiskFull,
        Refusal::TooLarge => backend::Refusal::TooLarge,
        Refusal::StaleEpoch | Refusal::OutOfTurn | Refusal::NoSuchGroup => backend::Refusal::Moved,
    })
}

impl Backend for Front {
    fn submit(&mut self, connection: ConnectionId, ticket: Ticket, key: &[u8], request: Request) {
        let timed = self.timed(&request);
        self.router.submit(Asker::Client { connection, ticket, timed }, key, request);
        self.bell.ring();
    }

    fn submit_to(
        &mut self,
        connection: ConnectionId,
        ticket: Ticket,
        group: GroupId,
        request: Request,
    ) {
        let asker = Asker::Client { connection, ticket, timed: None };
        self.router.submit_to(asker, group, request);
        self.bell.ring();
    }

    fn ask(&mut self, connection: ConnectionId, ticket: Ticket, query: Query) {
        self.next_question += 1;
        let asked = query.clone();
        let question = Question { connection, ticket, query: asked, answers: Vec::new() };
        self.questions.insert(self.next_question, question);
        self.unasked.push((self.next_question, query));
        self.bell.ring();
    }

    fn range_of(&self, key: &[u8]) -> Option<GroupId> {
        self.router.map().owner(key).map(|(group, _)| group)
    }

    fn bounds_of(&self, key: &[u8]) -> KeyRange {
        KeyRange::copy(self.router.map().bounds(key))
    }

    fn bounds_before(&self, end: Option<&[u8]>) -> KeyRange {
        KeyRange::copy(self.router.map().bounds_before(end))
    }

    fn groups(&self) -> Vec<GroupId> {
        self.router.map().ranges().map(|range| range.group).collect()
    }

    fn map_version(&self) -> u64 {
        self.router.map().version()
    }

    fn ranges(&self) -> Vec<RangeInfo> {
        self.router.map().ranges().map(|range| self.info_of(range)).collect()
    }

    fn info(&self) -> NodeInfo {
        let facts = &self.facts;
        let mut totals: Vec<(String, u64)> = Vec::new();
        for counters in &facts.counters {
            for (place, (name, count)) in counters.read().into_iter().enumerate() {
                match totals.get_mut(place) {
                    Some((_, total)) => *total += count,
                    None => totals.push((name.to_owned(), count)),
                }
            }
        }
        totals.push(("map_version".to_owned(), self.router.map().version()));
        totals.push(("feature_level".to_owned(), facts.table.level().get().into()));
        NodeInfo {
            node: facts.node,
            cluster: facts.cluster,
            incarnation: facts.incarnation,
            core: self.core,
            cores: facts.cores,
            client_port: facts.client_listen.port(),
            uptime: self.clock.mono().since(facts.started),
            clients: facts.connected.load(Ordering::Relaxed),
            configuration: facts.settings.clone(),
            status: totals.into_iter().map(|(name, n)| (name, n.to_string())).collect(),
        }
    }

    fn now(&self) -> Mono {
        self.clock.mono()
    }

    fn wall_us(&self) -> u64 {
        self.clock.wall_us()
    }

    fn input_came(&mut self, at: Option<Mono>) {
        self.input_came = at;
    }

    fn reply_left(&mut self, timed: Timed) {
        let now = self.clock.mono();
        self.stages.record(Stage::Reply, timed.handed, now);
        self.stages.record(Stage::Total, timed.came, now);
    }
}
