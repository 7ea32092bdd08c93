//! The turn loop of one core: gathers what is ready, steps the shard through it, and carries out
//! what came of it, once: one WAL frame, one write per peer link, one write per client.
//!
//! One per core, on that core's executor. It owns the shard; nothing else touches it. It must not
//! block, and it decides nothing: the shard and the router do.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use oarlock_cluster::departures::Departures;
use oarlock_cluster::executor::Placement;
use oarlock_cluster::levels::NotUnderstood;
use oarlock_cluster::map_keeper::MapKeeper;
use oarlock_cluster::partings::Partings;
use oarlock_cluster::passing::{self, Caller};
use oarlock_cluster::reporter::Reporter;
use oarlock_cluster::router::{Asker, CoreRequest, Hop, Router};
use oarlock_codec::{ForwardReply, Refusal};
use oarlock_shard::{Output, Shard, SharedHomes, SharedSupport, SplitSettings};
use oarlock_types::{CoreAddr, CoreId, FastMap, FeatureLevels, GroupId, Mono, NodeId, RangeMap};

use super::clock::Clock;
use super::counters::Counters;
use super::files::Files;
use super::front::{Front, client_outcome};
use super::inbox::Receiver;
use super::links::Links;
use super::log_writer::{LogFailure, LogWriter};
use super::mail::Mail;
use super::message::{CoreAnswer, CoreMessage};
use super::outbox::Outbox;
use super::planner::Planner;
use super::stages::{Proposals, Stages};
use super::watchdog::{BEAT, CoreProgress, IDLE_BEAT, of_core};
use crate::net::link_hub::{Incoming, LinkEvent, LinkHub};
use crate::net::link_reader::read_link;
use crate::net::listener::Clients;
use crate::net::session::{ConnectionId, Query, Ticket, Timed};
use crate::{net, runtime};

mod peers;
mod ranges;

/// How often what people and placement are told is looked at.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// Marks the shard's token of a request that another node forwarded; a router's ids have it clear.
const FORWARDED: u64 = 1 << 63;

/// Why a core can not go on, and the process with it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its log has failed.
    #[error(transparent)]
    Log(#[from] LogFailure),
    /// The cluster is at a feature level that the node does not understand.
    #[error(transparent)]
    Level(#[from] NotUnderstood),
}

/// What a driver is made of.
pub struct Driver {
    /// Its core.
    pub addr: CoreAddr,
    /// The core's engine.
    pub shard: Shard,
    /// The core's end of the log.
    pub log: LogWriter,
    /// The core's errands to the disk worker.
    pub files: Files,
    /// Where letters to this core come in.
    pub inbox: Receiver<CoreMessage>,
    /// Letters to other cores.
    pub mail: Mail,
    /// What goes to other nodes.
    pub outbox: Outbox,
    /// The links over which it goes.
    pub links: Links,
    /// On the first core: where the pulses hear of nodes that have joined.
    pub pulses: Option<mpsc::Sender<(NodeId, SocketAddr)>>,
    /// What came from other nodes.
    pub hub: Rc<LinkHub>,
    /// The node's support, with the state of its links.
    pub table: SharedSupport,
    /// Which core of the node has what.
    pub homes: SharedHomes,
    /// The end of replicas that are no members any more.
    pub departures: Departures,
    /// Nodes that are dialled no more.
    pub partings: Partings,
    /// Tells how the ranges are that this core leads.
    pub reporter: Reporter,
    /// From which size and load on ranges are cut.
    pub split_settings: SplitSettings,
    /// Goes on as long as this core leads the meta group.
    pub placement: Placement,
    /// Makes its plans.
    pub planner: Planner,
    /// The ranges that the cluster was formed with.
    pub formation: Arc<RangeMap>,
    /// Largest frame taken from another node.
    pub frame_bytes_max: usize,
    /// The feature levels that the node understands.
    pub levels: FeatureLevels,
    /// Keeps the map up to the meta group's, on the first core.
    pub map_keeper: Option<MapKeeper>,
    /// What the connections see.
    pub front: Rc<RefCell<Front>>,
    /// The connections.
    pub clients: Rc<Clients>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// By which others see that this core moves.
    pub progress: Arc<[CoreProgress]>,
    /// After how long a turn comes though nothing has come in.
    pub beat: Rc<Cell<Duration>>,
    /// What is kept from turn to turn.
    pub kept: Kept,
}

/// Buffers and small state of a driver.
#[derive(Debug, Default)]
pub struct Kept {
    clock: Clock,
    now: Mono,
    ticked_at: Mono,
    gauged_at: Mono,
    /// Who forwarded a request, by the shard's token.
    forwarded: FastMap<u64, Caller>,
    next_token: u64,
    /// What the meta group has of the map; `None`: all that the router has.
    confirmed: Option<Arc<RangeMap>>,
    /// Cores of this node that have replicas, as far as others than this one were looked for.
    homes: FastMap<GroupId, CoreId>,
    /// How many replicas had gone from core to core when they were looked for.
    moves: u64,
    letters: Vec<CoreMessage>,
    frames: Vec<Incoming>,
    events: Vec<LinkEvent>,
    hops: Vec<Hop>,
    completed: Vec<(ConnectionId, Ticket, net::session::Outcome, Option<Timed>)>,
    /// Writes that are timed on their way through this core.
    proposals: Proposals,
    output: Output,
}

impl Driver {
    /// Runs turns for ever. Returns only when the core can not go on: then the process must stop.
    pub async fn run(mut self) -> Failure {
        loop {
            match self.turn() {
                // There is more to do than one turn may take, but others have their turn first, and what has come
                // in meanwhile is not kept waiting for all of it.
                Ok(()) if self.shard.next_deadline() <= self.kept.now => runtime::next_pass().await,
                Ok(()) => self.inbox.wait().await,
                Err(failure) => return failure,
            }
        }
    }

    /// One turn.
    fn turn(&mut self) -> Result<(), Failure> {
        of_core(&self.progress, self.addr.core).count_turn();
        self.counters.turns.add(1);
        // Everything is gathered before the clock is read: a lease that holds at that time covers
        // every read that has been gathered.
        self.inbox.receive_many(&mut self.kept.letters);
        self.hub.take(&mut self.kept.frames, &mut self.kept.events);
        self.gather_hops();
        // A group that has a home keeps it until replicas go from core to core.
        if self.homes.moves() != self.kept.moves {
            self.kept.moves = self.homes.moves();
            self.kept.homes.clear();
        }
        let (now, wall) = self.kept.clock.read();
        self.kept.now = now;
        self.shard.begin_turn(now, wall);
        self.front.borrow_mut().router.begin_turn(now);

        self.take_events();
        self.take_frames();
        self.take_letters();
        self.carry_hops();
        while let Some(lsn) = self.log.completed()? {
            self.time(|proposals, stages, now| proposals.durable(stages, lsn, now));
            self.shard.wal_durable(lsn);
        }
        if now.since(self.kept.ticked_at) >= BEAT {
            self.kept.ticked_at = now;
            self.tick();
            self.check_level()?;
        }
        self.keep_map();
        Ok(self.finish()?)
    }

    fn tick(&mut self) {
        self.files.upkeep(self.kept.now, &mut self.log, self.shard.wal());
        self.shard.set_disk_full(self.files.is_disk_full());
        self.shard.set_feature_level(self.table.level());
        self.shard.tick();
        self.look_after_map();
        let map = Arc::clone(self.front.borrow().router.map());
        self.departures.go_on(&map, &mut self.shard, self.addr, self.kept.now);
        let mut front = self.front.borrow_mut();
        front.router.tick();
        let front_is_quiet = front.router.under_way() == 0;
        drop(front);
        if self.kept.now.since(self.kept.gauged_at) >= GAUGE_INTERVAL {
            self.kept.gauged_at = self.kept.now;
            self.cut_what_is_due();
            self.counters.leaders_untold.set(self.reporter.untold(&self.shard) as u64);
            self.part();
        }
        // At each tick: what went to another core or node is not to count there and here.
        let (replicas, leaders) = self.shard.counts();
        self.counters.replicas.set(replicas as u64);
        self.counters.leaders.set(leaders as u64);
        let (keys, expiring) = self.shard.keys_led();
        self.counters.keys.set(keys as u64);
        self.counters.keys_expiring.set(expiring as u64);
        if let Some(report) = self.reporter.next(&mut self.shard, self.kept.now) {
            let router = &mut self.front.borrow_mut().router;
            router.submit_to(Asker::Reporter, GroupId::META, report);
        }
        self.place(&map);
        self.counters.writes_acknowledged.set(self.shard.writes_acknowledged());
        self.counters.waiting.set(self.shard.waiting() as u64);
        let is_quiet = front_is_quiet && self.shard.timers_armed() == 0;
        self.beat.set(if is_quiet { IDLE_BEAT } else { BEAT });
        self.ask_questions();
    }

    fn ask_questions(&mut self) {
        let unasked = self.front.borrow_mut().take_unasked();
        for (question, query) in unasked {
            let to = self.addr.core;
            for core in (0..).map(CoreId).take(self.mail.cores()) {
                let query = query.clone();
                self.mail.letter(core, CoreMessage::Asked { to, question, query });
            }
        }
    }

    fn answer(&mut self, query: &Query) -> CoreAnswer {
        match query {
            Query::ClientList { filter, asker } => {
                CoreAnswer::ClientList(self.clients.list(filter, *asker, self.kept.now))
            }
            Query::ClientKill { filter, asker, reply: _ } => {
                CoreAnswer::ClientKill(self.clients.kill(filter, *asker))
            }
            Query::Status => {
                CoreAnswer::Status(self.shard.status(), self.shard.rebuild_stages().collect())
            }
            Query::Stages => CoreAnswer::Stages(self.front.borrow().stages.copied()),
            Query::Join(candidate) => CoreAnswer::Join(self.admit(candidate)),
            Query::Rebuild(group) => CoreAnswer::Rebuild(self.shard.rebuild(*group)),
        }
    }

    // WRITE 3/9: the inbox hands the request to the core that has the range's replica.
    fn take_letters(&mut self) {
        let mut letters = std::mem::take(&mut self.kept.letters);
        for letter in letters.drain(..) {
            match letter {
                CoreMessage::Requests(requests) => {
                    for request in requests {
                        self.accept_request(request);
                    }
                }
                CoreMessage::Outcomes(outcomes) => {
                    let mut front = self.front.borrow_mut();
                    for (id, outcome) in outcomes {
                        front.router.outcome(id, outcome);
                    }
                }
                CoreMessage::Forwarded { from, came, requests } => {
                    self.accept_forwarded(from, came, requests);
                }
                CoreMessage::Messages { from, messages } => self.accept_posted(from, messages),
                CoreMessage::Leader(group, leader) => {
                    self.front.borrow_mut().router.leader_changed(group, leader);
                }
                CoreMessage::Map(map, confirmed) => {
                    self.front.borrow_mut().router.install(map);
                    self.kept.confirmed = Some(confirmed);
                    self.departures.look();
                }
                CoreMessage::Nodes(nodes) => self.meet(nodes),
                CoreMessage::Removed(nodes) => self.partings.set_removed(&nodes, &self.table),
                CoreMessage::MapIsOld => {
                    self.map_keeper.iter_mut().for_each(MapKeeper::look);
                }
                CoreMessage::RangesChanged { change, propose } => {
                    self.take_map_news(change, propose);
                }
                CoreMessage::WantIds(core) => {
                    self.map_keeper.iter_mut().for_each(|keeper| keeper.want_ids(core));
                }
                CoreMessage::Ids(ids) => self.shard.give_ids(ids),
                CoreMessage::Make(wanted) => self.make_replica(wanted),
                CoreMessage::HandOver { from, told } => self.shard.hand_over(from, told),
                CoreMessage::Asked { to, question, query } => {
                    let (core, answer) = (self.addr.core, self.answer(&query));
                    self.mail.letter(to, CoreMessage::Answered { question, core, answer });
                }
                CoreMessage::Answered { question, core, answer } => {
                    self.front.borrow_mut().answer_arrived(question, core, answer);
                }
                CoreMessage::Disk(done) => {
                    let answer = self.files.done(done, &mut self.log, self.shard.wal());
                    if let Some((token, done)) = answer {
                        self.shard.file_done(token, done);
                    }
                }
                CoreMessage::Planned(planning, took) => {
                    let map = Arc::clone(self.front.borrow().router.map());
                    let before = self.placement.planned(self.kept.now, planning, took, &map);
                    self.planner.drop(before);
                }
                CoreMessage::Link(link) => {
                    let (table, hub) = (Arc::clone(&self.table), Rc::clone(&self.hub));
                    let bytes_max = self.frame_bytes_max;
                    runtime::spawn(read_link(link, table, hub, bytes_max)).detach();
                }
            }
        }
        self.kept.letters = letters;
    }

    fn gather_hops(&mut self) {
        self.front.borrow_mut().router.take_hops(&mut self.kept.hops);
    }

    /// Carries requests to their next place, and puts outcomes by for their connections.
    fn carry_hops(&mut self) {
        let mut hops = std::mem::take(&mut self.kept.hops);
        for hop in hops.drain(..) {
            match hop {
                Hop::Here(request) => match self.core_of(request.group) {
                    Some(core) if core != self.addr.core => {
                        self.counters.requests_crossed.add(1);
                        self.mail.request(core, request);
                    }
                    Some(_) | None => self.accept_request(request),
                },
                Hop::Node(node, request) => {
                    self.counters.requests_forwarded.add(1);
                    let (node, request) = passing::way(&self.table, self.addr, node, request);
                    self.outbox.forward(node, request);
                }
                Hop::Done(Asker::Client { connection, ticket, timed }, outcome) => {
                    let outcome = client_outcome(outcome);
                    let handed = self.kept.clock;
                    let timed = timed
                        .filter(|_| outcome.is_ok())
                        .map(|timed| Timed { handed: handed.mono(), ..timed });
                    self.kept.completed.push((connection, ticket, outcome, timed));
                }
                Hop::Done(Asker::Reporter, outcome) => self.reporter.outcome(&outcome),
                Hop::Done(Asker::Placement(name), outcome) => {
                    self.placement.outcome(self.kept.now, name, &outcome);
                }
                Hop::Done(Asker::Passed(caller), outcome) => self.send_back(caller, outcome),
                Hop::Done(Asker::Range(group, epoch), outcome) => {
                    self.shard.merge_answered(group, epoch, &outcome);
                }
                Hop::Done(Asker::Node, outcome) => {
                    if let Some(keeper) = &mut self.map_keeper {
                        keeper.outcome(self.kept.now, outcome);
                    }
                }
            }
        }
        self.kept.hops = hops;
    }

    /// A request of a core of this node.
    fn accept_request(&mut self, request: CoreRequest) {
        let CoreRequest { id, group, epoch, lane, request, handed } = request;
        if let Some(handed) = handed {
            self.taken(id, handed);
        }
        let from = CoreAddr::new(self.addr.node, Router::core_of(id));
        let lane = lane.map(|lane| (from, lane));
        self.shard.request_in_lane(id, group, epoch, lane, request);
    }

    /// Begins to time a write that this turn took.
    fn taken(&mut self, token: u64, waiting_since: Mono) {
        let stages = &mut self.front.borrow_mut().stages;
        self.kept.proposals.taken(stages, token, waiting_since, self.kept.now);
    }

    /// Notes that something has just happened to the writes that are timed, if there are any.
    fn time(&mut self, note: impl FnOnce(&mut Proposals, &mut Stages, Mono)) {
        if !self.kept.proposals.is_empty() {
            let stages = &mut self.front.borrow_mut().stages;
            note(&mut self.kept.proposals, stages, self.kept.clock.mono());
        }
    }

    fn outcome(&mut self, id: u64, outcome: oarlock_shard::Outcome) {
        let core = Router::core_of(id);
        if core == self.addr.core {
            self.front.borrow_mut().router.outcome(id, outcome);
        } else {
            self.mail.outcome(core, id, outcome);
        }
    }

    /// The core of this node that has a group's replica. What the map says of cores may be long out of date.
    fn core_of(&mut self, group: GroupId) -> Option<CoreId> {
        if self.shard.has_replica(group) {
            return Some(self.addr.core);
        }
        if let Some(core) = self.kept.homes.get(&group) {
            return Some(*core);
        }
        let home = self.homes.core_of(group)?;
        self.kept.homes.insert(group, home);
        Some(home)
    }

    /// Closes the turn and carries out what came of it.
    fn finish(&mut self) -> Result<(), LogFailure> {
        let mut output = std::mem::take(&mut self.kept.output);
        self.shard.finish_turn(&mut output);
        let newest = self.shard.newest_lsn();
        self.time(|proposals, stages, now| proposals.logged(stages, newest, now));
        // WRITE 5/9: the turn's frame goes to the disk while the same entries go to the followers.
        if let Some(lsn) = self.log.write_next(self.shard.wal())? {
            self.time(|proposals, stages, now| proposals.submitted(stages, lsn, now));
        }
        runtime::flush();
        for (node, message) in output.messages.drain(..) {
            self.outbox.message(node, message);
        }
        for (token, outcome) in output.replies.drain(..) {
            self.settle(token, outcome);
        }
        for (token, job) in output.file_jobs.drain(..) {
            self.files.start(token, job);
        }
        for group in output.unreadable.drain(..) {
            tracing::error!(
                "{}: the log of {group} cannot be read back: it is written anew from memory; the \
                 disk may be failing",
                self.addr
            );
        }
        for split in output.splits.drain(..) {
            self.tell_split(split);
        }
        for (core, told) in output.hand_overs.drain(..) {
            let from = self.addr.core;
            self.mail.letter(core, CoreMessage::HandOver { from, told });
        }
        for group in output.arrived.drain(..) {
            tracing::info!("{}: {group} has come here from another core", self.addr);
            self.departures.made(group, self.kept.now);
        }
        for (group, to, why) in output.stayed.drain(..) {
            tracing::warn!("{}: {group} does not go to {to} for now: {why}", self.addr);
        }
        for wanted in output.wanted.drain(..) {
            self.find_home(wanted);
        }
        if std::mem::take(&mut output.wants_ids) {
            self.mail.letter(CoreId(0), CoreMessage::WantIds(self.addr.core));
        }
        for (token, order) in output.placement.drain(..) {
            self.answer_placement(token, order);
        }
        for (group, leader) in output.leaders.drain(..) {
            self.announce(group, leader);
            if leader == Some(self.addr.node) {
                self.tell_range(group);
            }
        }
        for group in output.settled.drain(..) {
            self.tell_range(group);
        }
        for group in output.reshaped.drain(..) {
            self.tell_reshaped(group);
        }
        for merging in output.merges.drain(..) {
            self.ask_neighbour(merging);
        }
        self.kept.output = output;
        // Outcomes of this turn go out with this turn, but last: other nodes and cores have work to
        // do meanwhile, and every reply costs a system call.
        self.gather_hops();
        self.carry_hops();
        self.send_parcels();
        // What an inbox does not take waits for the next beat: a task that stayed runnable would
        // spin until there is room.
        self.mail.post();
        self.complete();
        Ok(())
    }

    /// Brings outcomes to their connections. What completes may let a connection start its next
    /// command: that waits for the next turn, which its submission has rung for.
    fn complete(&mut self) {
        let front = &mut *self.front.borrow_mut();
        let answered = front.take_answered().into_iter();
        self.kept
            .completed
            .extend(answered.map(|(to, ticket, outcome)| (to, ticket, outcome, None)));
        for (connection, ticket, outcome, timed) in self.kept.completed.drain(..) {
            self.clients.complete(front, connection, ticket, outcome, timed);
        }
    }

    /// Hands a request's outcome to whoever asked.
    fn settle(&mut self, token: u64, outcome: oarlock_shard::Outcome) {
        let (is_done, turn) = (outcome.is_ok(), self.kept.now);
        if self.kept.proposals.is_timed(token) {
            self.time(|proposals, stages, now| {
                proposals.settled(stages, token, is_done, turn, now);
            });
        }
        match &outcome {
            Ok(_) => self.counters.requests_answered.add(1),
            Err(
                Refusal::NotLeader { .. }
                | Refusal::StaleEpoch
                | Refusal::OutOfTurn
                | Refusal::NoSuchGroup,
            ) => {}
            Err(_) => self.counters.requests_refused.add(1),
        }
        if token & FORWARDED == 0 {
            self.outcome(token, outcome);
        } else if let Some(caller) = self.kept.forwarded.remove(&token) {
            self.send_back(caller, outcome);
        }
    }

    /// Hands an outcome to another node.
    fn send_back(&mut self, caller: Caller, outcome: oarlock_shard::Outcome) {
        if caller.lives(&self.table) {
            self.outbox.reply(caller.core.node, ForwardReply { id: caller.id, outcome });
        }
    }

    /// Tells all cores of this node who leads a group.
    fn announce(&mut self, group: GroupId, leader: Option<NodeId>) {
        for core in (0..).map(CoreId).take(self.mail.cores()) {
            if core == self.addr.core {
                self.front.borrow_mut().router.leader_changed(group, leader);
            } else {
                self.mail.letter(core, CoreMessage::Leader(group, leader));
            }
        }
    }
}
