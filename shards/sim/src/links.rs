//! The network: for each core and peer a connection as TCP gives it (in order and without loss
//! until it breaks; each end learns of that in its own time), and the ways that are cut. Mirrors
//! production's links: who dials when, what a handshake checks, when a connection is given up.

use std::collections::{BTreeMap, VecDeque};

use oarlock_shard::support_table::LinkToken;
use oarlock_types::{CoreAddr, FeatureLevels, Incarnation, NodeId};

use crate::letters::Letter;
use crate::node::Arrived;
use crate::trace::What;
use crate::world::{Event, World};

const BACKOFF_MIN_US: u64 = 20_000;
const BACKOFF_MAX_US: u64 = 1_000_000;
const CONNECT_TIMEOUT_US: u64 = 2_000_000;
/// A peer that can not be reached is noticed after so long.
const KEEPALIVE_MIN_US: u64 = 3_000_000;
const KEEPALIVE_MAX_US: u64 = 4_500_000;
/// What was stalled arrives within so long once the way is free.
const RETRANSMIT_US: u64 = 200_000;
/// Bytes that may wait for a connection before it is reset.
const QUEUE_BYTES_MAX: usize = 64 << 10;

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    from: CoreAddr,
    to: CoreAddr,
    from_life: u64,
    to_life: u64,
    from_incarnation: Incarnation,
    to_incarnation: Incarnation,
    /// The mark of the dialling end, while it is up.
    out: Option<LinkToken>,
    /// The mark of the other end, while it is up.
    into: Option<LinkToken>,
    last_arrival: u64,
    /// The dialler has heard the answer to its handshake, or never will.
    is_answered: bool,
    /// Frames that the way does not let through, in order.
    stalled: VecDeque<(u64, u64, Vec<u8>)>,
    stalled_bytes: usize,
}

/// The state of the network.
#[derive(Debug, Default)]
pub(crate) struct Network {
    conns: BTreeMap<u64, Conn>,
    next: u64,
    /// The connection over which a core sends to a node.
    links: BTreeMap<(CoreAddr, NodeId), u64>,
    backoff: BTreeMap<(CoreAddr, NodeId), u64>,
    /// Ways that data does not get through, with how many reasons and since when.
    data_blocks: BTreeMap<(NodeId, NodeId), (u32, u64)>,
    pulse_blocks: BTreeMap<(NodeId, NodeId), u32>,
    /// What a way takes more.
    pub(crate) slow: BTreeMap<(NodeId, NodeId), u64>,
}

impl Network {
    fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.data_blocks.contains_key(&(from, to))
    }

    fn is_way_free(&self, a: NodeId, b: NodeId) -> bool {
        !self.is_blocked(a, b) && !self.is_blocked(b, a)
    }

    /// Since when a connection between the two has had no way in one of the directions.
    fn blocked_since(&self, a: NodeId, b: NodeId) -> Option<u64> {
        let ways = [self.data_blocks.get(&(a, b)), self.data_blocks.get(&(b, a))];
        ways.into_iter().flatten().map(|(_, since)| *since).min()
    }
}

impl World {
    // ---- what is free and what is not ----

    pub(crate) fn block_data(&mut self, from: NodeId, to: NodeId) {
        let now = self.now;
        self.network.data_blocks.entry((from, to)).or_insert((0, now)).0 += 1;
        let ends = |conn: &Conn| [(conn.from.node, conn.to.node), (conn.to.node, conn.from.node)];
        let concerned: Vec<u64> = self
            .network
            .conns
            .iter()
            .filter(|(_, conn)| ends(conn).contains(&(from, to)))
            .map(|(id, _)| *id)
            .collect();
        for conn in concerned {
            self.watch(conn);
        }
    }

    pub(crate) fn free_data(&mut self, from: NodeId, to: NodeId) {
        let Some((reasons, _)) = self.network.data_blocks.get_mut(&(from, to)) else { return };
        *reasons -= 1;
        if *reasons > 0 {
            return;
        }
        self.network.data_blocks.remove(&(from, to));
        let ids: Vec<u64> = self.network.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.network.conns.get_mut(&id) else { continue };
            if (conn.from.node, conn.to.node) != (from, to) || conn.stalled.is_empty() {
                continue;
            }
            let stalled = std::mem::take(&mut conn.stalled);
            conn.stalled_bytes = 0;
            let mut at = conn.last_arrival.max(self.now + self.net_random.below(RETRANSMIT_US));
            for (first, count, bytes) in stalled {
                at += 1;
                self.at(at, Event::Frame { conn: id, first, count, bytes });
            }
            if let Some(conn) = self.network.conns.get_mut(&id) {
                conn.last_arrival = at;
            }
        }
    }

    pub(crate) fn are_pulses_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.network.pulse_blocks.contains_key(&(from, to))
    }

    pub(crate) fn block_pulses(&mut self, from: NodeId, to: NodeId) {
        *self.network.pulse_blocks.entry((from, to)).or_insert(0) += 1;
    }

    pub(crate) fn free_pulses(&mut self, from: NodeId, to: NodeId) {
        if let Some(reasons) = self.network.pulse_blocks.get_mut(&(from, to)) {
            *reasons -= 1;
            if *reasons == 0 {
                self.network.pulse_blocks.remove(&(from, to));
            }
        }
    }

    pub(crate) fn free_all_ways(&mut self) {
        let ways: Vec<_> = self.network.data_blocks.keys().copied().collect();
        for (from, to) in ways {
            if let Some(block) = self.network.data_blocks.get_mut(&(from, to)) {
                block.0 = 1;
            }
            self.free_data(from, to);
        }
        self.network.pulse_blocks.clear();
        self.network.slow.clear();
    }

    // ---- dialling ----

    /// A process begins to dial all others from each of its cores.
    pub(crate) fn begin_dialling(&mut self, n: usize) {
        let life = self.nodes[n].life;
        for core in 0..usize::from(self.nodes[n].cores) {
            let from = self.nodes[n].addr(core);
            for to in self.peers_of(n) {
                self.network.backoff.insert((from, to), BACKOFF_MIN_US);
                let at = self.now + 1 + self.net_random.below(1000);
                self.at(at, Event::Dial { from, to, life });
            }
        }
    }

    /// The nodes that a process knows besides its own.
    fn peers_of(&self, n: usize) -> Vec<NodeId> {
        let Some(table) = self.nodes[n].table() else { return Vec::new() };
        let mut peers: Vec<NodeId> = table.peers().collect();
        peers.sort_unstable();
        peers
    }

    /// Whether a core's link to a node is up.
    pub(crate) fn is_linked(&self, from: CoreAddr, to: NodeId) -> bool {
        self.network.links.contains_key(&(from, to))
    }

    fn redial(&mut self, from: CoreAddr, to: NodeId, extra_us: u64) {
        let life = self.nodes[self.place(from.node)].life;
        let backoff = self.network.backoff.entry((from, to)).or_insert(BACKOFF_MIN_US);
        let wait = *backoff;
        *backoff = (wait * 2).min(BACKOFF_MAX_US);
        let at = self.now + extra_us + wait / 2 + self.net_random.below(wait);
        self.at(at, Event::Dial { from, to, life });
    }

    /// Dials again, now that the right core is known.
    fn redial_anew(&mut self, from: CoreAddr, to: NodeId) {
        self.network.backoff.insert((from, to), BACKOFF_MIN_US);
        self.redial(from, to, 0);
    }

    pub(crate) fn dial(&mut self, from: CoreAddr, to: NodeId, life: u64) {
        let (n, m) = (self.place(from.node), self.place(to));
        if self.nodes[n].life != life || self.nodes[n].process.is_none() {
            return;
        }
        if self.network.links.contains_key(&(from, to)) {
            return;
        }
        let table = self.nodes[n].table();
        if table.is_some_and(|table| table.has_let_go(to, from.core)) {
            // It only looks whether that has changed.
            return self.at(self.now + CONNECT_TIMEOUT_US, Event::Dial { from, to, life });
        }
        if self.nodes[n].pauses > 0 {
            self.redial(from, to, 0);
        } else if !self.network.is_way_free(from.node, to) || self.nodes[m].pauses > 0 {
            self.redial(from, to, CONNECT_TIMEOUT_US);
        } else if self.nodes[m].process.is_none() {
            self.redial(from, to, 0);
        } else {
            let at = self.now + self.way_us(from.node, to);
            let Some(table) = self.nodes[n].table() else { return };
            let to = CoreAddr::new(to, table.core_to_dial(from.core, to));
            self.at(at, Event::Greet { from, to, life });
        }
    }

    /// The handshake arrives; the other end judges the dialler.
    pub(crate) fn greet(&mut self, from: CoreAddr, at: CoreAddr, life: u64) {
        let to = at.node;
        let (n, m) = (self.place(from.node), self.place(to));
        if self.nodes[n].life != life || self.nodes[n].process.is_none() {
            return;
        }
        let (disk, incarnation) = (self.nodes[n].disk_id, self.nodes[n].incarnation);
        let is_reached = self.nodes[m].runs() && self.network.is_way_free(from.node, to);
        if !is_reached || !self.nodes[m].knows_disk(from.node, disk) {
            self.redial(from, to, if is_reached { 0 } else { CONNECT_TIMEOUT_US });
            return;
        }
        let peer = &self.nodes[m];
        let to_life = peer.life;
        let to_incarnation = peer.incarnation;
        let Some(table) = peer.table() else { return };
        if table.learn_incarnation(from.node, incarnation) != incarnation {
            self.redial(from, to, 0);
            return;
        }
        if !table.has_peer(from.node) {
            // It has not heard that this one has joined.
            self.redial(from, to, 0);
            return;
        }
        table.learn_levels(from.node, incarnation, FeatureLevels::BUILD);
        table.learn_cores(from.node, self.nodes[n].cores);
        if at.core.get() >= peer.cores {
            // The dialler is told, and dials the right one.
            if let Some(dialler) = self.nodes[n].table() {
                dialler.learn_cores(to, peer.cores);
            }
            self.redial_anew(from, to);
            return;
        }
        let into = table.incoming_up(from, incarnation);
        let conn = Conn {
            from,
            to: at,
            from_life: life,
            to_life,
            from_incarnation: incarnation,
            to_incarnation,
            out: None,
            into: Some(into),
            last_arrival: 0,
            is_answered: false,
            stalled: VecDeque::new(),
            stalled_bytes: 0,
        };
        self.network.next += 1;
        let id = self.network.next;
        self.network.conns.insert(id, conn);
        let at = self.now + self.way_us(to, from.node);
        self.at(at, Event::Answer { conn: id });
        self.watch(id);
    }

    /// The answer to the handshake arrives; the dialler judges who answered.
    pub(crate) fn answered(&mut self, id: u64) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        conn.is_answered = true;
        let (from, CoreAddr { node: to, core: dialled }, life) =
            (conn.from, conn.to, conn.from_life);
        let (to_incarnation, to_life) = (conn.to_incarnation, conn.to_life);
        let (n, m) = (self.place(from.node), self.place(to));
        if self.nodes[n].life != life || self.nodes[n].process.is_none() {
            self.break_in(id);
            return;
        }
        let disk = self.nodes[m].disk_id;
        let is_reached = self.network.is_way_free(from.node, to)
            && self.nodes[m].life == to_life
            && self.nodes[m].process.is_some();
        if self.network.links.contains_key(&(from, to)) {
            self.break_in(id);
            return;
        }
        if !is_reached || !self.nodes[n].knows_disk(to, disk) {
            self.break_in(id);
            self.redial(from, to, 0);
            return;
        }
        let Some(table) = self.nodes[n].table() else { return };
        if table.learn_incarnation(to, to_incarnation) != to_incarnation {
            self.break_in(id);
            self.redial(from, to, 0);
            return;
        }
        table.learn_levels(to, to_incarnation, FeatureLevels::BUILD);
        table.learn_cores(to, self.nodes[m].cores);
        if table.core_to_dial(from.core, to) != dialled {
            self.break_in(id);
            self.redial_anew(from, to);
            return;
        }
        let out = table.outgoing_up(to, from.core, to_incarnation);
        if let Some(conn) = self.network.conns.get_mut(&id) {
            conn.out = Some(out);
        }
        self.network.links.insert((from, to), id);
        self.network.backoff.insert((from, to), BACKOFF_MIN_US);
        self.tell(from.node, || format!("link {} to {to} is up", from.core));
        self.link_event(from, to, true);
    }

    fn link_event(&mut self, from: CoreAddr, to: NodeId, up: bool) {
        let (n, c) = (self.place(from.node), usize::from(from.core.get()));
        if let Some(process) = &mut self.nodes[n].process {
            process.cores[c].links.push((to, up));
            self.wake(n, c);
        }
    }

    // ---- the end of connections ----

    /// Looks after a while whether a connection has a way.
    fn watch(&mut self, conn: u64) {
        for _ in 0..2 {
            let wait = self.net_random.within(KEEPALIVE_MIN_US, KEEPALIVE_MAX_US);
            self.at(self.now + wait, Event::KeepAlive { conn });
        }
    }

    pub(crate) fn keep_alive(&mut self, id: u64) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        let (n, m) = (self.place(conn.from.node), self.place(conn.to.node));
        let is_gone = self.nodes[n].life != conn.from_life || self.nodes[m].life != conn.to_life;
        let has_ended = self.nodes[n].process.is_none() || self.nodes[m].process.is_none();
        let since = self.network.blocked_since(conn.from.node, conn.to.node);
        let is_cut = since.is_some_and(|since| self.now >= since + KEEPALIVE_MIN_US);
        let is_half = conn.out.is_none() != conn.into.is_none();
        if !(is_gone || has_ended || is_cut || is_half) {
            return;
        }
        // Each end has its own clock: the first look takes one, the second the other.
        if conn.out.is_some() && (conn.into.is_none() || self.net_random.per_mille(500)) {
            self.close_out(id);
        } else {
            self.close_in(id);
        }
    }

    /// The dialling end is closed.
    pub(crate) fn close_out(&mut self, id: u64) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let (from, to, life) = (conn.from, conn.to.node, conn.from_life);
        for (first, count, _) in conn.stalled.drain(..) {
            self.trace.lost(self.now, first, count, "the connection was given up");
        }
        conn.stalled_bytes = 0;
        let out = conn.out.take();
        let last_arrival = conn.last_arrival;
        if conn.into.is_none() {
            self.network.conns.remove(&id);
        }
        let Some(out) = out else { return };
        // The dialler's next life may have its own connection by now.
        if self.network.links.get(&(from, to)) == Some(&id) {
            self.network.links.remove(&(from, to));
        }
        let n = self.place(from.node);
        if self.nodes[n].life == life
            && let Some(table) = self.nodes[n].table()
        {
            table.outgoing_down(to, from.core, out);
            self.tell(from.node, || format!("link {} to {to} is down", from.core));
            self.link_event(from, to, false);
            self.redial(from, to, 0);
        }
        // The other end reads what is on its way and then the end, if that gets through.
        if self.network.is_way_free(from.node, to) {
            let at = last_arrival.max(self.now + self.way_us(from.node, to));
            self.at(at + 1, Event::CloseIn { conn: id });
        } else {
            self.watch(id);
        }
    }

    /// The accepting end is closed.
    pub(crate) fn close_in(&mut self, id: u64) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let (from, at, life) = (conn.from, conn.to, conn.to_life);
        let to = at.node;
        let into = conn.into.take();
        let dialler = (conn.from_life, std::mem::replace(&mut conn.is_answered, true));
        if conn.out.is_none() {
            self.network.conns.remove(&id);
        }
        let Some(into) = into else { return };
        let n = self.place(from.node);
        // Broken before the handshake was answered: the dialler hears that, and dials again.
        if dialler == (self.nodes[n].life, false) && self.nodes[n].process.is_some() {
            self.redial(from, to, 0);
        }
        let m = self.place(to);
        if self.nodes[m].life == life
            && let Some(table) = self.nodes[m].table()
        {
            table.incoming_down(from, into);
            self.post(at, Letter::LinkLost(from.node));
        }
        if self.network.is_way_free(from.node, to) {
            let at = self.now + self.way_us(to, from.node);
            self.at(at, Event::CloseOut { conn: id });
        } else {
            self.watch(id);
        }
    }

    fn break_in(&mut self, id: u64) {
        self.close_in(id);
        if self.network.conns.get(&id).is_some_and(|conn| conn.out.is_none() && conn.into.is_none())
        {
            self.network.conns.remove(&id);
        }
    }

    /// The connections from a node's cores to another break.
    pub(crate) fn break_links(&mut self, from: NodeId, to: NodeId, half: bool) {
        let here = |conn: &Conn| (conn.from.node, conn.to.node) == (from, to);
        let ids: Vec<u64> =
            self.network.conns.iter().filter(|(_, c)| here(c)).map(|(id, _)| *id).collect();
        for id in ids {
            if half {
                // Only one end is told; the other finds out when it is looked after.
                self.block_data(from, to);
                self.close_out(id);
                self.free_data(from, to);
            } else {
                self.close_in(id);
            }
        }
    }

    /// A process has ended; by a kill its peers are told, by power loss they are not.
    pub(crate) fn end_links(&mut self, n: usize, by_power_loss: bool) {
        let node = self.nodes[n].id;
        let ids: Vec<u64> = self.network.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.network.conns.get_mut(&id) else { continue };
            if conn.from.node != node && conn.to.node != node {
                continue;
            }
            if by_power_loss {
                self.watch(id);
            } else if conn.from.node == node {
                self.close_out(id);
            } else {
                self.close_in(id);
            }
        }
        self.network.links.retain(|(from, _), _| from.node != node);
    }

    /// A node is back: whoever still has a connection to its former life learns so.
    pub(crate) fn reset_links(&mut self, n: usize) {
        let node = self.nodes[n].id;
        let life = self.nodes[n].life;
        let old = |conn: &Conn| {
            (conn.from.node == node && conn.from_life != life)
                || (conn.to.node == node && conn.to_life != life)
        };
        let ids: Vec<u64> =
            self.network.conns.iter().filter(|(_, c)| old(c)).map(|(id, _)| *id).collect();
        for id in ids {
            let at = self.now + self.net_random.below(1_000_000);
            let is_dialler = self.network.conns.get(&id).is_some_and(|c| c.from.node == node);
            let conn = id;
            self.at(
                at,
                if is_dialler { Event::CloseIn { conn } } else { Event::CloseOut { conn } },
            );
        }
    }

    // ---- frames ----

    /// Sends a frame of a core, as far as its link takes it.
    pub(crate) fn send_frame(
        &mut self,
        from: CoreAddr,
        to: NodeId,
        first: u64,
        count: u64,
        bytes: Vec<u8>,
    ) {
        let Some(&id) = self.network.links.get(&(from, to)) else {
            self.trace.lost(self.now, first, count, "no connection is up");
            return;
        };
        let incarnation =
            self.nodes[self.place(from.node)].table().map(|table| table.peer_incarnation(to));
        let way = self.way_us(from.node, to);
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        if incarnation != Some(conn.to_incarnation) {
            let why = "the connection leads to an earlier life of the node";
            self.trace.lost(self.now, first, count, why);
            self.close_out(id);
            return;
        }
        if self.network.data_blocks.contains_key(&(from.node, to)) {
            conn.stalled_bytes += bytes.len();
            conn.stalled.push_back((first, count, bytes));
            if conn.stalled_bytes > QUEUE_BYTES_MAX {
                self.close_out(id);
            }
            return;
        }
        let (random, weather) = (&mut self.net_random, &self.weather);
        if random.per_mille(weather.frame_loss_per_mille) {
            self.trace.lost(self.now, first, count, "the network dropped it");
            return;
        }
        let mut at = conn.last_arrival.max(self.now + way);
        conn.last_arrival = at;
        if count == 0 {
            // Requests and outcomes come once and in order, as over TCP: nobody makes them again.
            self.at(at, Event::Frame { conn: id, first, count, bytes });
            return;
        }
        if random.per_mille(weather.frame_late_per_mille) {
            at += random.below(weather.slow_us);
        }
        let twice = random.per_mille(weather.frame_twice_per_mille);
        let again = at + random.below(weather.slow_us);
        if twice {
            self.at(again, Event::Frame { conn: id, first, count, bytes: bytes.clone() });
        }
        self.at(at, Event::Frame { conn: id, first, count, bytes });
    }

    pub(crate) fn frame_arrives(&mut self, id: u64, first: u64, count: u64, bytes: Vec<u8>) {
        let Some(conn) = self.network.conns.get_mut(&id) else {
            self.trace.lost(self.now, first, count, "the connection is gone");
            return;
        };
        let (from, to, life) = (conn.from, conn.to, conn.to_life);
        if conn.into.is_none() {
            self.trace.lost(self.now, first, count, "the connection is closed at its end");
            return;
        }
        if self.network.data_blocks.contains_key(&(from.node, to.node)) {
            // It did not get through: it is sent again when the way is free.
            conn.stalled_bytes += bytes.len();
            conn.stalled.push_back((first, count, bytes));
            return;
        }
        let incarnation = conn.from_incarnation;
        let (m, c) = (self.place(to.node), usize::from(to.core.get()));
        if self.nodes[m].life != life {
            self.trace.lost(self.now, first, count, "it was meant for an earlier life");
            return;
        }
        let newest = self.nodes[m].table().map(|table| table.peer_incarnation(from.node));
        if newest != Some(incarnation) {
            self.trace.lost(self.now, first, count, "its sender has another life by now");
            self.close_in(id);
            return;
        }
        if self.trace.is_on() {
            for message in first..first + count {
                self.trace.push(self.now, || What::Received { message, at: to });
            }
        }
        if let Some(process) = &mut self.nodes[m].process {
            process.cores[c].frames.push(Arrived { from: (from, incarnation), bytes });
            self.wake(m, c);
        }
    }
}
