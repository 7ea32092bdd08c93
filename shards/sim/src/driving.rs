//! What a core's driver has of a cluster that keeps its own map: the router, the keeper of the map (on the first
//! core), placement, the reporter, the end of replicas. Wired as production's driver wires them, in the same
//! order; what leaves the core waits in [`Leaving`] for the world to carry it.
//!
//! It decides nothing: what it drives is production's own.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_cluster::departures::Departures;
use oarlock_cluster::executor::{Placement, SILENCE};
use oarlock_cluster::map_keeper::MapKeeper;
use oarlock_cluster::members;
use oarlock_cluster::partings::{Partings, is_silent};
use oarlock_cluster::passing::{self, Caller, Life};
use oarlock_cluster::range_news::RangeNews;
use oarlock_cluster::reporter::Reporter;
use oarlock_cluster::router::{Asker, ConnectionId, CoreRequest, Hop, Router, Ticket};
use oarlock_cluster::{NodeEntry, SharedMap, locate};
use oarlock_codec::{ForwardReply, ForwardRequest, Frame, Refusal};
use oarlock_shard::{Merging, Outcome, Output, Shard, SharedHomes, SharedSupport, Split};
use oarlock_store::{Command, Order, Request};
use oarlock_types::{CoreAddr, CoreId, FeatureLevel, GroupId, Mono, NodeId};

use crate::cluster::Cluster;
use crate::config::Config;
use crate::letters::{Admission, Known, Leaving, Letter};

/// Tokens of requests that another node forwarded have this bit.
pub(crate) const FORWARDED: u64 = 1 << 63;
/// How often the ranges are looked at that are led here.
const GAUGE_US: u64 = 1_000_000;
/// How long a request may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

/// A core's part.
#[derive(Debug)]
pub(crate) struct Driving {
    addr: CoreAddr,
    cores: u16,
    table: SharedSupport,
    homes: SharedHomes,
    pub(crate) router: Router,
    pub(crate) keeper: Option<MapKeeper>,
    pub(crate) placement: Placement,
    reporter: Reporter,
    departures: Departures,
    partings: Partings,
    is_departure_due: bool,
    cluster: Cluster,
    nodes: Vec<NodeEntry>,
    gauged_at: Mono,
    confirmed: Option<SharedMap>,
    forwarded: BTreeMap<u64, Caller>,
    next_token: u64,
    pub(crate) letters: Vec<Letter>,
    hops: Vec<Hop>,
    pub(crate) leaving: Leaving,
}

impl Driving {
    pub(crate) fn new(
        (addr, config): (CoreAddr, &Config),
        cluster: &Cluster,
        known: &Known,
        table: &SharedSupport,
        homes: &SharedHomes,
    ) -> Self {
        let map = SharedMap::new(known.copy.map.clone());
        let formed_of = cluster.formed_of.iter().map(|node| node.id).collect();
        let keeper = || {
            let levels = Cluster::LEVELS;
            let known = (known.copy.clone(), levels);
            let bytes_max = config.limits.value_bytes_max;
            MapKeeper::new(known, (&cluster.formation, formed_of), addr, bytes_max)
        };
        Self {
            addr,
            cores: table.cores(),
            table: SharedSupport::clone(table),
            homes: SharedHomes::clone(homes),
            router: Router::new(addr.node, addr.core, map, PATIENCE),
            keeper: (addr.core == CoreId(0)).then(keeper),
            placement: Placement::new(cluster.parts(addr.node, &known.nodes, config)),
            reporter: Reporter::new(&cluster.splits),
            departures: Departures::default(),
            partings: Partings::default(),
            is_departure_due: false,
            cluster: cluster.clone(),
            nodes: known.nodes.clone(),
            gauged_at: Mono(0),
            confirmed: None,
            forwarded: BTreeMap::new(),
            next_token: 0,
            letters: Vec::new(),
            hops: Vec::new(),
            leaving: Leaving::default(),
        }
    }

    fn others(&self) -> impl Iterator<Item = CoreId> + use<> {
        let own = self.addr.core;
        (0..self.cores).map(CoreId).filter(move |core| *core != own)
    }

    fn mail_all(&mut self, letter: impl Fn() -> Letter) {
        let others: Vec<CoreId> = self.others().collect();
        self.leaving.mail.extend(others.into_iter().map(|core| (core, letter())));
    }

    /// A letter to the first core; to itself it is as well.
    fn tell_first(&mut self, letter: Letter) {
        self.leaving.mail.push((CoreId(0), letter));
    }

    /// The cluster's level, as far as this node has it on disk.
    pub(crate) fn level(&self) -> FeatureLevel {
        self.table.level()
    }

    // ---- a turn, from its beginning ----

    /// Ends what the map has elsewhere. Production does so with the tick; here it comes before all that the next
    /// turn brings, so that the oracle has seen what the replica came to.
    pub(crate) fn depart(&mut self, shard: &mut Shard, now: Mono) {
        if !std::mem::take(&mut self.is_departure_due) {
            return;
        }
        let map = SharedMap::clone(self.router.map());
        let before = shard.groups().to_vec();
        self.departures.go_on(&map, shard, self.addr, now);
        let is_gone = |group: &GroupId| !shard.has_replica(*group);
        self.leaving.ended.extend(before.into_iter().filter(is_gone));
    }

    /// Takes what other nodes sent but messages between replicas.
    pub(crate) fn take_frames(
        &mut self,
        shard: &mut Shard,
        frames: impl Iterator<Item = (Life, Frame)>,
    ) {
        for (from, frame) in frames {
            match frame {
                Frame::Forward(requests) => {
                    requests.into_iter().for_each(|r| self.accept_forwarded(shard, from, r));
                }
                Frame::ForwardReply(replies) => {
                    replies.into_iter().for_each(|reply| self.outcome(reply.id, reply.outcome));
                }
                Frame::Messages(_)
                | Frame::Handshake(_)
                | Frame::HandshakeReply(_)
                | Frame::Pulse(_)
                | Frame::LinkProbe(_) => unreachable!("nobody sends these this way"),
            }
        }
    }

    pub(crate) fn begin(&mut self, shard: &mut Shard, now: Mono) {
        self.router.take_hops(&mut self.hops);
        self.router.begin_turn(now);
        for letter in std::mem::take(&mut self.letters) {
            self.take(shard, letter);
        }
        self.carry_hops(shard, now);
    }

    fn take(&mut self, shard: &mut Shard, letter: Letter) {
        match letter {
            Letter::Client { token, connection, request } => {
                let ticket = Ticket { slot: token, part: 0 };
                let connection = ConnectionId(connection);
                let asker = Asker::Client { connection, ticket, timed: None };
                match (locate::locate(self.router.map(), &request), first_key(&request)) {
                    (Some(locate::Place::Apart), _) | (_, None) => {
                        self.leaving.answers.push((token, Err(Refusal::StaleEpoch)));
                    }
                    (_, Some(key)) => self.router.submit(asker, &key, request),
                }
            }
            Letter::ToGroup { token, group, request } => {
                let ticket = Ticket { slot: token, part: 0 };
                let asker = Asker::Client { connection: ConnectionId(token), ticket, timed: None };
                self.router.submit_to(asker, group, request);
            }
            Letter::Here(request) => self.accept(shard, request),
            Letter::Forwarded(from, forward) => self.accept_forwarded(shard, from, forward),
            Letter::Outcome(id, outcome) => self.outcome(id, outcome),
            Letter::LinkLost(node) => self.router.link_down(node),
            Letter::Leader(group, leader) => self.router.leader_changed(group, leader),
            Letter::Map(map, confirmed) => {
                self.router.install(map);
                self.confirmed = Some(confirmed);
                self.departures.look();
            }
            Letter::Nodes(nodes) => self.meet(nodes),
            Letter::Removed(removed) => self.partings.set_removed(&removed, &self.table),
            Letter::MapIsOld => self.keeper.iter_mut().for_each(MapKeeper::look),
            Letter::RangesChanged { change, propose } => match &mut self.keeper {
                Some(keeper) if propose => keeper.propose(change),
                Some(keeper) => keeper.learn(&change),
                None => {}
            },
            Letter::WantIds(core) => {
                self.keeper.iter_mut().for_each(|keeper| keeper.want_ids(core))
            }
            Letter::Ids(ids) => shard.give_ids(ids),
            Letter::Join { joiner, candidate } => {
                let joined =
                    self.keeper.as_mut().map_or(Ok(None), |keeper| keeper.join(&candidate));
                let admission = joined.map(|node| node.map(|node| Box::new(self.admission(node))));
                self.leaving.admissions.push((joiner, admission));
            }
        }
    }

    fn admission(&self, node: NodeId) -> Admission {
        let formed_of = &self.cluster.formed_of;
        let is_formed = |node: &NodeEntry| formed_of.iter().any(|formed| formed.id == node.id);
        Admission {
            node,
            meta: self.router.map().group(GroupId::META).map(|meta| meta.to_descriptor()),
            joined: self.nodes.iter().filter(|node| !is_formed(node)).cloned().collect(),
            level: self.table.level(),
        }
    }

    fn meet(&mut self, nodes: Vec<NodeEntry>) {
        self.placement.set_nodes(&nodes);
        if self.addr.core == CoreId(0) {
            self.mail_all(|| Letter::Nodes(nodes.clone()));
            self.leaving.met = Some(nodes.clone());
        }
        self.nodes = nodes;
    }

    fn accept(&mut self, shard: &mut Shard, request: CoreRequest) {
        let CoreRequest { id, group, epoch, lane, request, .. } = request;
        check_asked(group, &request);
        let from = CoreAddr::new(self.addr.node, Router::core_of(id));
        shard.request_in_lane(id, group, epoch, lane.map(|lane| (from, lane)), request);
    }

    fn accept_forwarded(&mut self, shard: &mut Shard, life: Life, forward: ForwardRequest) {
        let caller = Caller::new(life, forward.id);
        if passing::is_to_be_passed_on(&forward) {
            let asker = Asker::Passed(caller);
            return self.router.submit_to(asker, forward.group, forward.request);
        }
        let home = self.core_of(shard, forward.group);
        let is_elsewhere = home.is_some_and(|core| core != self.addr.core);
        let is_here = is_elsewhere || shard.has_replica(forward.group);
        if forward.group == GroupId::META && !is_here {
            let leader = self.router.likely_leader(forward.group);
            self.send_back(caller, Err(Refusal::NotLeader { leader }));
            return;
        }
        let core = home.unwrap_or(self.addr.core);
        if core != self.addr.core {
            self.leaving.mail.push((core, Letter::Forwarded(life, forward)));
            return;
        }
        self.next_token += 1;
        let token = FORWARDED | self.next_token;
        self.forwarded.insert(token, caller);
        let ForwardRequest { group, epoch, lane, request, .. } = forward;
        check_asked(group, &request);
        shard.request_in_lane(token, group, epoch, lane.map(|lane| (life.0, lane)), request);
    }

    fn answer(&mut self, to: CoreAddr, id: u64, outcome: Outcome) {
        self.leaving.replies.entry(to.node).or_default().push(ForwardReply { id, outcome });
    }

    fn send_back(&mut self, caller: Caller, outcome: Outcome) {
        if caller.lives(&self.table) {
            self.answer(caller.core, caller.id, outcome);
        }
    }

    fn outcome(&mut self, id: u64, outcome: Outcome) {
        let core = Router::core_of(id);
        if core == self.addr.core {
            self.router.outcome(id, outcome);
        } else {
            self.leaving.mail.push((core, Letter::Outcome(id, outcome)));
        }
    }

    fn core_of(&self, shard: &Shard, group: GroupId) -> Option<CoreId> {
        if shard.has_replica(group) { Some(self.addr.core) } else { self.homes.core_of(group) }
    }

    fn carry_hops(&mut self, shard: &mut Shard, now: Mono) {
        self.router.take_hops(&mut self.hops);
        for hop in std::mem::take(&mut self.hops) {
            match hop {
                Hop::Here(request) => match self.core_of(shard, request.group) {
                    Some(core) if core != self.addr.core => {
                        self.leaving.mail.push((core, Letter::Here(request)));
                    }
                    Some(_) | None => self.accept(shard, request),
                },
                Hop::Node(node, request) => {
                    let (node, request) = passing::way(&self.table, self.addr, node, request);
                    self.leaving.forwards.entry(node).or_default().push(request);
                }
                Hop::Done(Asker::Client { ticket, .. }, outcome) => {
                    self.leaving.answers.push((ticket.slot, outcome));
                }
                Hop::Done(Asker::Reporter, outcome) => self.reporter.outcome(&outcome),
                Hop::Done(Asker::Placement(name), outcome) => {
                    self.leaving.told.push(format!("order {name} came to {outcome:?}"));
                    self.placement.outcome(now, name, &outcome);
                }
                Hop::Done(Asker::Passed(caller), outcome) => self.send_back(caller, outcome),
                Hop::Done(Asker::Range(group, epoch), outcome) => {
                    shard.merge_answered(group, epoch, &outcome);
                }
                Hop::Done(Asker::Node, outcome) => {
                    if let Some(keeper) = &mut self.keeper {
                        keeper.outcome(now, outcome);
                    }
                }
            }
        }
    }

    pub(crate) fn tick(&mut self, shard: &mut Shard, now: Mono) {
        self.look_after_map(now);
        let map = SharedMap::clone(self.router.map());
        self.is_departure_due = true;
        self.router.tick();
        if now.0.saturating_sub(self.gauged_at.0) >= GAUGE_US {
            self.gauged_at = now;
            for due in shard.due_splits(&self.cluster.splits) {
                shard.cut_soon(due.group, due.at);
            }
            // Whoever was let go is dialled again when its turn to be dialled comes.
            self.partings.go_on(shard, &self.table, self.addr.core, now);
        }
        if let Some(report) = self.reporter.next(shard, now) {
            self.router.submit_to(Asker::Reporter, GroupId::META, report);
        }
        if !shard.leads(GroupId::META) {
            return self.placement.rest();
        }
        self.placement.set_feature_level(shard.feature_level());
        let requests = self.placement.go_on(now, &map, &self.table);
        if let Some(mut planning) = self.placement.take_planning() {
            planning.make();
            drop(self.placement.planned(now, planning, Duration::ZERO, &map));
        }
        for (name, group, request) in requests {
            if let [Command::Order(order)] = request.commands.as_slice() {
                self.leaving.told.push(format!("order {name} to {group}: {order:?}"));
            }
            self.router.submit_to(Asker::Placement(name), group, request);
        }
    }

    fn leads_meta(&self) -> bool {
        self.router.leader(GroupId::META) == Some(self.addr.node)
    }

    fn look_after_map(&mut self, now: Mono) {
        let leads = self.leads_meta();
        let Some(keeper) = &mut self.keeper else { return };
        let table = &self.table;
        keeper.hear_silence(table.peers().any(|peer| is_silent(table, peer, now)));
        keeper.heard(table.peers().map(|peer| table.peer_map_version(peer)).max().unwrap_or(0));
        let is_heard = |node| table.heard_at(node).is_some_and(|at| now.since(at) < SILENCE);
        keeper.hear_levels(|| {
            let heard = table.peers().filter(|node| leads && is_heard(*node));
            heard.filter_map(|node| Some((node, table.peer_levels(node)?))).collect()
        });
        if let Some(copy) = keeper.take_copy(now, table.level()) {
            self.leaving.copy = Some(Box::new(copy));
        }
    }

    pub(crate) fn keep_map(&mut self, now: Mono) {
        let is_old = self.router.take_is_map_old();
        let leads = self.leads_meta();
        let Some(keeper) = &mut self.keeper else {
            if is_old {
                self.tell_first(Letter::MapIsOld);
            }
            return;
        };
        if is_old {
            keeper.look();
        }
        assert!(keeper.beyond().is_none(), "all nodes of a run understand all levels");
        if let Some(request) = keeper.next_request(now, leads) {
            self.router.submit_to(Asker::Node, GroupId::META, request);
        }
        let removed = keeper.take_removed().map(<[_]>::to_vec);
        let ids = keeper.take_ids();
        self.leaving.mail.extend(ids.into_iter().map(|(core, ids)| (core, Letter::Ids(ids))));
        let formed_of = &self.cluster.formed_of;
        let joined = keeper
            .take_members()
            .map(|joined| members::all_nodes(formed_of, joined.iter().map(|member| &member.entry)));
        if let Some(map) = keeper.take_snapshot().map(SharedMap::new) {
            let confirmed = SharedMap::new(keeper.confirmed().clone());
            self.table.raise_map_version(map.version());
            self.router.install(SharedMap::clone(&map));
            self.departures.look();
            self.mail_all(|| Letter::Map(SharedMap::clone(&map), SharedMap::clone(&confirmed)));
            self.confirmed = Some(confirmed);
        }
        if let Some(removed) = removed {
            self.partings.set_removed(&removed, &self.table);
            self.mail_all(|| Letter::Removed(removed.clone()));
        }
        if let Some(nodes) = joined {
            self.meet(nodes);
        }
    }

    /// A replica was made as another one asked.
    pub(crate) fn made(&mut self, group: GroupId, now: Mono) {
        self.departures.made(group, now);
    }

    // ---- and to its end ----

    /// Takes what the turn came to, as far as it is this driver's.
    pub(crate) fn finish(&mut self, shard: &mut Shard, output: &mut Output, now: Mono) {
        let own = |(token, _): &mut (u64, Outcome)| !is_worlds(*token);
        let settled: Vec<(u64, Outcome)> = output.replies.extract_if(.., own).collect();
        for (token, outcome) in settled {
            self.settle(token, outcome);
        }
        for split in &output.splits {
            self.tell_split(shard, split);
        }
        if std::mem::take(&mut output.wants_ids) {
            self.tell_first(Letter::WantIds(self.addr.core));
        }
        for (token, order) in std::mem::take(&mut output.placement) {
            self.answer_placement(shard, token, order);
        }
        for (group, leader) in &output.leaders {
            self.router.leader_changed(*group, *leader);
            self.mail_all(|| Letter::Leader(*group, *leader));
            if *leader == Some(self.addr.node) {
                self.tell(shard, *group, true);
            }
        }
        for group in &output.settled {
            self.tell(shard, *group, true);
        }
        for group in &output.reshaped {
            self.tell(shard, *group, shard.leads(*group));
        }
        for merging in std::mem::take(&mut output.merges) {
            let Merging { group, epoch, into_start, request } = merging;
            self.router.submit(Asker::Range(group, epoch), &into_start, request);
        }
        self.carry_hops(shard, now);
    }

    fn settle(&mut self, token: u64, outcome: Outcome) {
        if token & FORWARDED == 0 {
            self.outcome(token, outcome);
        } else if let Some(caller) = self.forwarded.remove(&token) {
            self.send_back(caller, outcome);
        }
    }

    fn answer_placement(&mut self, shard: &Shard, token: u64, order: Order) {
        let outcome = self.placement.answer(order, shard.leads_in(GroupId::META));
        self.settle(token, outcome);
    }

    fn tell_split(&mut self, shard: &Shard, split: &Split) {
        let propose = shard.leads(split.parent.0);
        let change = self.news(shard).of_split(split);
        self.tell_first(Letter::RangesChanged { change, propose });
    }

    fn tell(&mut self, shard: &Shard, group: GroupId, propose: bool) {
        if let Some(change) = self.news(shard).of_range(group, propose) {
            self.tell_first(Letter::RangesChanged { change, propose });
        }
    }

    fn news<'a>(&'a self, shard: &'a Shard) -> RangeNews<'a> {
        let (map, confirmed) = (self.router.map(), self.confirmed.as_deref());
        RangeNews { at: self.addr, shard, map, confirmed }
    }
}

/// Whether a request was handed to a core by the world itself, past the router.
fn is_worlds(token: u64) -> bool {
    token & FORWARDED == 0 && token >= crate::asking::PROBES
}

/// Keys of the meta group are nobody else's: no client of a run names such.
fn check_asked(group: GroupId, request: &Request) {
    let is_own = |key: &bytes::Bytes| {
        [&b"map/"[..], b"range/", b"member/", b"node/"].iter().any(|of| key.starts_with(of))
    };
    let names = request.commands.iter().any(|command| command.keys().iter().any(is_own));
    assert!(
        group == GroupId::META || !names,
        "what is asked of the meta group is asked of it: {group} is asked for {request:?}"
    );
}

/// The key by which a request finds its range.
fn first_key(request: &Request) -> Option<bytes::Bytes> {
    let command = request.commands.first()?;
    if let Command::Scan { start, .. } = command {
        return Some(start.clone());
    }
    command.keys().iter().next().cloned()
}
