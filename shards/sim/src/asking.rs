//! The way of clients' requests to cores and of outcomes back, and requests of the world's own.

use bytes::Bytes;
use oarlock_codec::{Lane, Refusal};
use oarlock_shard::Outcome;
use oarlock_store::{Command, Request};
use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId, RangeEpoch};

use crate::clients::Sending;
use crate::letters::Letter;
use crate::merging::MERGES;
use crate::node::Ask;
use crate::trace::{Phase, What};
use crate::world::{Event, World};

/// The way between a client and a node takes at most so long.
const CLIENT_WAY_US: u64 = 300;
/// Tokens from here on are the world's own.
pub(crate) const PROBES: u64 = 1 << 62;

impl World {
    pub(crate) fn client_acts(&mut self, client: usize) {
        if self.clients.all[client].acts_at != self.now {
            return;
        }
        let (sending, told) = self.clients.act(&self.config, client, self.now);
        if let Some((group, text)) = told {
            let (client, phase) = (client as u64, Phase::of_act(sending.is_some()));
            self.trace.push(self.now, || What::Client { client, group, phase, text });
        }
        if let Some(sending) = sending {
            let (client, group, to) = (client as u64, sending.group, sending.to);
            self.trace.push(self.now, || What::Asked { client, group, to });
            let n = self.place(sending.to);
            let at = self.now + 1 + self.node_random.below(CLIENT_WAY_US);
            self.at(at, Event::Request { n, sending: Box::new(sending) });
        }
        self.plan_client(client);
    }

    fn plan_client(&mut self, client: usize) {
        let at = self.clients.all[client].acts_at;
        if at != u64::MAX {
            let at = at.max(self.now + 1);
            self.clients.all[client].acts_at = at;
            self.at(at, Event::ClientActs { client });
        }
    }

    pub(crate) fn request_arrives(&mut self, n: usize, sending: Sending) {
        let Sending { token, group, epoch, request, to } = sending;
        if self.nodes[n].process.is_none() {
            // The connection is refused: it was surely not applied.
            self.reply(to, token, Err(Refusal::NotLeader { leader: None }));
            return;
        }
        self.asked.insert(token, (n, self.nodes[n].life));
        if self.config.cluster.is_some() && token < PROBES {
            let core = self.node_random.below(self.nodes[n].cores.into());
            let core = CoreId(u16::try_from(core).expect("invariant: few cores"));
            let connection = self.clients.connection_of(token);
            self.post(CoreAddr::new(to, core), Letter::Client { token, connection, request });
            return;
        }
        self.ask(to, group, Ask::Request { token, group, epoch, lane: None, request });
    }

    /// An outcome leaves a node for its client.
    pub(crate) fn reply(&mut self, from: NodeId, token: u64, outcome: Outcome) {
        self.asked.remove(&token);
        let at = self.now + 1 + self.node_random.below(CLIENT_WAY_US);
        self.at(at, Event::Hear { token, from, outcome: Box::new(outcome) });
    }

    /// A process is gone: its clients see their connections break, and know nothing.
    pub(crate) fn requests_lost(&mut self, n: usize, life: u64) {
        let here = |place: &(usize, u64)| *place == (n, life);
        let lost: Vec<u64> =
            self.asked.iter().filter(|(_, at)| here(at)).map(|(token, _)| *token).collect();
        let node = self.nodes[n].id;
        for token in lost {
            self.reply(node, token, Err(Refusal::Unknown));
        }
    }

    pub(crate) fn hear(&mut self, token: u64, from: NodeId, outcome: Outcome) {
        if token >= MERGES {
            self.merge_heard(token, &outcome);
            return;
        }
        if token >= PROBES {
            let before = self.outcomes.insert(token, outcome);
            assert!(before.is_none(), "each request has one outcome: {token} has two");
            return;
        }
        let phase = Phase::of_hearing(outcome.is_ok(), from);
        let news = (&self.config, &self.ranges);
        let told = self.clients.hear(news, token, from, outcome, self.now);
        if let Some((client, group, text)) = told {
            self.trace.push(self.now, || What::Client { client, group, phase, text });
        }
        if let Some(client) = self.clients.changed.take() {
            self.plan_client(client);
        }
    }

    /// Sends a request to a node's core that has the group; its outcome comes under the token.
    pub fn request(&mut self, node: NodeId, group: GroupId, request: Request) -> u64 {
        self.next_probe += 1;
        let token = self.next_probe;
        let n = self.place(node);
        let epoch = self.ranges.bounds(group).epoch;
        self.request_arrives(n, Sending { token, to: node, group, epoch, request });
        token
    }

    /// As [`World::request`], routed by another version of the range or in a lane.
    pub fn request_routed(
        &mut self,
        node: NodeId,
        group: GroupId,
        (epoch, lane): (RangeEpoch, Option<(CoreAddr, Lane)>),
        request: Request,
    ) -> u64 {
        self.next_probe += 1;
        let token = self.next_probe;
        let n = self.place(node);
        self.asked.insert(token, (n, self.nodes[n].life));
        self.ask(node, group, Ask::Request { token, group, epoch, lane, request });
        token
    }

    /// Asks a group's leader to hand over to `to`.
    pub fn hand_over(&mut self, group: GroupId, to: NodeId) {
        if let Some(leader) = self.leader(group) {
            self.ask(leader, group, Ask::Transfer(group, Some(to)));
        }
    }

    /// Asks a group's leader for these members.
    pub fn set_members(&mut self, group: GroupId, voters: Vec<NodeId>, learners: Vec<NodeId>) {
        let Some(leader) = self.leader(group) else { return };
        self.ask(leader, group, Ask::Members { group, voters, learners });
    }

    /// Asks a group's leader to cut its range at a key; the id of the new group.
    pub fn cut_range(&mut self, group: GroupId, at: Bytes) -> Option<GroupId> {
        let leader = self.leader(group)?;
        if self.config.cluster.is_some() {
            self.ask(leader, group, Ask::CutSoon(group, at));
            return None;
        }
        let child = self.ranges.next_id(group);
        self.ask(leader, group, Ask::Split { group, at, child });
        Some(child)
    }

    /// The outcome of a request, once it is there.
    pub fn take_outcome(&mut self, token: u64) -> Option<Outcome> {
        self.outcomes.remove(&token)
    }

    /// A write that changes nothing.
    pub(crate) fn probe(&mut self, node: NodeId, group: GroupId) -> u64 {
        let start = self.ranges.bounds(group).start;
        let keys = vec![Bytes::from([&start[..], b"\0probe"].concat())];
        self.request(node, group, Request::one(Command::Del { keys }))
    }
}
