//! What a driver does with other nodes: takes what comes over the links, sends what has gathered, and meets
//! those that join.

use std::sync::Arc;

use oarlock_cluster::NodeEntry;
use oarlock_cluster::members::{self, Candidate, JoinRefusal};
use oarlock_cluster::passing::{self, Caller, Life};
use oarlock_cluster::router::Asker;
use oarlock_codec::{ForwardReply, ForwardRequest, Frame, LinkProbe, Refusal};
use oarlock_types::{CoreAddr, CoreId, GroupId, Mono, NodeId};

use super::{Driver, FORWARDED};
use crate::net::link_hub::{Incoming, LinkEvent};
use crate::node::message::CoreMessage;
use crate::node::stages::Stage;

impl Driver {
    /// Knows these nodes from now on. The first core hears of them first, and tells the others.
    pub(super) fn meet(&mut self, nodes: Arc<Vec<NodeEntry>>) {
        for node in members::reachable(&nodes).filter(|node| node.id != self.addr.node) {
            if self.table.has_peer(node.id) {
                continue;
            }
            if !self.table.add_peer(node.id, node.cores) {
                tracing::error!("{} has joined, but there is no room for another node", node.id);
                continue;
            }
            tracing::info!("{} has joined the cluster at {}", node.id, node.peer_address);
            if let Some(pulses) = &self.pulses {
                // It ends only with the process.
                let _ = pulses.send((node.id, node.peer_address));
            }
        }
        self.links.meet(&nodes);
        self.placement.set_nodes(&nodes);
        if self.addr.core == CoreId(0) {
            for core in (1..).map(CoreId).take(self.mail.cores() - 1) {
                self.mail.letter(core, CoreMessage::Nodes(Arc::clone(&nodes)));
            }
        }
        self.front.borrow_mut().set_nodes(nodes);
    }

    /// Dials no more whom nobody needs, and again who was heard.
    pub(super) fn part(&mut self) {
        let Driver { partings, shard, table, links, front, .. } = self;
        if partings.go_on(shard, table, self.addr.core, self.kept.now) {
            links.meet(front.borrow().nodes());
        }
    }

    /// Whether a node that wants to join has; the first core sees to it.
    pub(super) fn admit(&mut self, candidate: &Candidate) -> Result<Option<NodeId>, JoinRefusal> {
        let Some(keeper) = &mut self.map_keeper else { return Ok(None) };
        let (cores, cores_max) = (candidate.member.entry.cores, self.table.cores_max());
        if !(1..=cores_max).contains(&cores) {
            return Err(JoinRefusal::Cores { cores, cores_max });
        }
        keeper.join(candidate)
    }

    pub(super) fn take_events(&mut self) {
        let mut events = std::mem::take(&mut self.kept.events);
        for event in events.drain(..) {
            match event {
                LinkEvent::OutgoingUp { node, .. } => self.shard.link(node, true),
                LinkEvent::OutgoingDown { node } => {
                    self.shard.link(node, false);
                    self.front.borrow_mut().router.link_down(node);
                }
                LinkEvent::IncomingUp { .. } => {}
                // Outcomes that were on their way are lost.
                LinkEvent::IncomingDown { from } => {
                    self.front.borrow_mut().router.link_down(from.node);
                }
            }
        }
        self.kept.events = events;
    }

    pub(super) fn take_frames(&mut self) {
        let mut frames = std::mem::take(&mut self.kept.frames);
        for Incoming { from, incarnation, frame, came } in frames.drain(..) {
            match frame {
                Frame::Messages(messages) => self.accept_messages(from, messages),
                Frame::Forward(requests) => {
                    self.accept_forwarded((from, incarnation), came, requests)
                }
                Frame::ForwardReply(replies) => self.accept_replies(replies),
                Frame::LinkProbe(LinkProbe { sent_us, is_answer: true }) => {
                    let stages = &mut self.front.borrow_mut().stages;
                    stages.record(Stage::Network, Mono(sent_us), self.kept.now);
                }
                Frame::LinkProbe(probe) => {
                    self.outbox.probe(from.node, LinkProbe { is_answer: true, ..probe });
                }
                Frame::Handshake(_) | Frame::HandshakeReply(_) | Frame::Pulse(_) => {
                    debug_assert!(false, "invariant: a link's reader refuses these");
                }
            }
        }
        self.kept.frames = frames;
    }

    /// Raft messages of a peer's core, for groups of any core of this node.
    pub(super) fn accept_messages(
        &mut self,
        from: CoreAddr,
        messages: Vec<oarlock_codec::GroupMessage>,
    ) {
        let own = self.addr.core;
        let is_own = |core: Option<CoreId>| core.is_none_or(|core| core == own);
        if messages.iter().all(|message| is_own(self.core_of(message.group))) {
            self.shard.messages(from, messages);
            return;
        }
        for message in messages {
            match self.core_of(message.group) {
                Some(core) if core != own => self.mail.messages(core, from, vec![message]),
                Some(_) | None => self.shard.messages(from, vec![message]),
            }
        }
    }

    /// Raft messages that another core of this node took for this one's.
    pub(super) fn accept_posted(
        &mut self,
        from: CoreAddr,
        messages: Vec<oarlock_codec::GroupMessage>,
    ) {
        for message in messages {
            let group = message.group;
            let home = if self.shard.has_replica(group) { None } else { self.homes.core_of(group) };
            match home {
                Some(core) if core != self.addr.core => {
                    self.mail.messages(core, from, vec![message]);
                }
                Some(_) | None => self.shard.messages(from, vec![message]),
            }
        }
    }

    /// Requests of another node, for groups of any core of this one.
    pub(super) fn accept_forwarded(
        &mut self,
        life: Life,
        came: Mono,
        requests: Vec<ForwardRequest>,
    ) {
        for forward in requests {
            let caller = Caller::new(life, forward.id);
            if passing::is_to_be_passed_on(&forward) {
                let asker = Asker::Passed(caller);
                let router = &mut self.front.borrow_mut().router;
                router.submit_to(asker, forward.group, forward.request);
                continue;
            }
            let home = self.core_of(forward.group);
            let is_elsewhere = home.is_some_and(|core| core != self.addr.core);
            let is_here = is_elsewhere || self.shard.has_replica(forward.group);
            if forward.group == GroupId::META && !is_here {
                // Whoever asks has a map so old that it leads here, and without that group it gets no other. That
                // a core had it, or has lost it, is of no use to that one.
                let leader = self.front.borrow().router.likely_leader(forward.group);
                self.send_back(caller, Err(Refusal::NotLeader { leader }));
                continue;
            }
            let core = home.unwrap_or(self.addr.core);
            if core != self.addr.core {
                self.mail.forwarded(core, life, came, vec![forward]);
                continue;
            }
            self.kept.next_token += 1;
            let token = FORWARDED | self.kept.next_token;
            self.kept.forwarded.insert(token, caller);
            let ForwardRequest { group, epoch, lane, request, .. } = forward;
            let lane = lane.map(|lane| (life.0, lane));
            if !request.is_read() && self.kept.proposals.is_next_timed() {
                self.taken(token, came);
            }
            self.shard.request_in_lane(token, group, epoch, lane, request);
        }
    }

    /// Outcomes from another node: this core's own go to its router, the others to theirs.
    pub(super) fn accept_replies(&mut self, replies: Vec<ForwardReply>) {
        for ForwardReply { id, outcome } in replies {
            self.outcome(id, outcome);
        }
    }

    pub(super) fn send_parcels(&mut self) {
        for (node, parcel) in self.outbox.parcels() {
            if parcel.is_worth_timing() && self.kept.proposals.is_probe_due(node, self.kept.now) {
                let sent_us = self.kept.clock.mono().0;
                parcel.probe(LinkProbe { sent_us, is_answer: false });
            }
            let link = self.links.to(node);
            let sent = link.map(|link| parcel.send(link)).unwrap_or_default();
            self.counters.peer_frames_sent.add(sent.frames);
            self.counters.peer_messages_sent.add(sent.messages);
            let mut front = self.front.borrow_mut();
            for forward in parcel.take_unsent() {
                // It never left: it may be tried again elsewhere.
                front.router.outcome(forward.id, Err(Refusal::NotLeader { leader: None }));
            }
        }
    }
}
