//! What a core's driver does about ranges that come, go and move: it tells the map what has become of them,
//! makes replicas that others want, cuts what has grown, and goes on with placement.

use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_cluster::executor::SILENCE;
use oarlock_cluster::levels::{self, NotUnderstood};
use oarlock_cluster::partings::is_silent;
use oarlock_cluster::range_news::RangeNews;
use oarlock_cluster::router::Asker;
use oarlock_shard::homes::NoHome;
use oarlock_shard::{DueSplit, Merging, Split, SupportTable, Wanted};
use oarlock_store::Order;
use oarlock_types::{CoreId, FeatureLevels, GroupId, Mono, NodeId, RangeDescriptor, RangeMap};

use super::Driver;
use crate::node::message::CoreMessage;

/// The levels that those of the other nodes understand of whom pulses come.
fn levels_heard(table: &SupportTable, now: Mono) -> BTreeMap<NodeId, FeatureLevels> {
    let is_heard = |node| table.heard_at(node).is_some_and(|at| now.since(at) < SILENCE);
    let heard = table.peers().filter(|node| is_heard(*node));
    heard.filter_map(|node| Some((node, table.peer_levels(node)?))).collect()
}

impl Driver {
    /// Goes on with the map, on the first core; the others tell it what they found.
    pub(super) fn keep_map(&mut self) {
        let mut front = self.front.borrow_mut();
        let is_old = front.router.take_is_map_old();
        let Some(keeper) = &mut self.map_keeper else {
            if is_old {
                self.mail.letter(CoreId(0), CoreMessage::MapIsOld);
            }
            return;
        };
        if is_old {
            keeper.look();
        }
        let leads = front.router.leader(GroupId::META) == Some(self.addr.node);
        if let Some(request) = keeper.next_request(self.kept.now, leads) {
            front.router.submit_to(Asker::Node, GroupId::META, request);
        }
        for (core, ids) in keeper.take_ids() {
            self.mail.letter(core, CoreMessage::Ids(ids));
        }
        if let Some(removed) = keeper.take_removed().map(|removed| Arc::new(removed.to_vec())) {
            self.partings.set_removed(&removed, &self.table);
            for core in (1..).map(CoreId).take(self.mail.cores() - 1) {
                self.mail.letter(core, CoreMessage::Removed(Arc::clone(&removed)));
            }
        }
        let joined = keeper.take_members().map(|members| front.all_nodes(members));
        if let Some(map) = keeper.take_snapshot().map(Arc::new) {
            let confirmed = Arc::new(keeper.confirmed().clone());
            self.kept.confirmed = Some(Arc::clone(&confirmed));
            self.table.raise_map_version(map.version());
            front.router.install(Arc::clone(&map));
            self.departures.look();
            for core in (1..).map(CoreId).take(self.mail.cores() - 1) {
                self.mail.letter(core, CoreMessage::Map(Arc::clone(&map), Arc::clone(&confirmed)));
            }
        }
        drop(front);
        if let Some(nodes) = joined {
            self.meet(Arc::new(nodes));
        }
    }

    /// Looks whether another node has a newer map, and whether the copy on disk is due.
    pub(super) fn look_after_map(&mut self) {
        let Some(keeper) = &mut self.map_keeper else { return };
        keeper.hear_silence(
            self.table.peers().any(|peer| is_silent(&self.table, peer, self.kept.now)),
        );
        let peers = self.table.peers();
        keeper.heard(peers.map(|peer| self.table.peer_map_version(peer)).max().unwrap_or(0));
        let leads = self.front.borrow().router.leader(GroupId::META) == Some(self.addr.node);
        // What was heard while this node led before is old by now.
        keeper.hear_levels(|| {
            if leads { levels_heard(&self.table, self.kept.now) } else { BTreeMap::new() }
        });
        // What a new level brings is neither said nor written before this node could not forget the level.
        if let Some(durable) = self.files.durable_copy() {
            self.table.raise_level(durable.level);
            keeper.set_durable_members(durable.members);
        }
        if let Some(copy) = keeper.take_copy(self.kept.now, self.table.level()) {
            self.files.copy_map(copy);
        }
    }

    /// Whether this node understands its cluster, on the first core. The level is raised only when all do, but
    /// an operator may start an older build at that very moment: then the map says so, or a peer.
    pub(super) fn check_level(&self) -> Result<(), NotUnderstood> {
        let Some(keeper) = &self.map_keeper else { return Ok(()) };
        keeper.beyond().map_or(Ok(()), Err)?;
        levels::check(self.table.heard_level().max(keeper.level()), self.levels)
    }

    pub(super) fn take_map_news(&mut self, change: Vec<RangeDescriptor>, propose: bool) {
        let Some(keeper) = &mut self.map_keeper else { return };
        if propose {
            keeper.propose(change);
        } else {
            keeper.learn(&change);
        }
    }

    pub(super) fn cut_what_is_due(&mut self) {
        for DueSplit { group, at, reason } in self.shard.due_splits(&self.split_settings) {
            let key = at.escape_ascii().to_string();
            tracing::info!("{}: {group} is to be cut at \"{key}\" for its {reason}", self.addr);
            self.shard.cut_soon(group, at);
        }
    }

    /// Goes on with placement where the meta group is led.
    pub(super) fn place(&mut self, map: &Arc<RangeMap>) {
        if !self.shard.leads(GroupId::META) {
            return self.placement.rest();
        }
        self.placement.set_feature_level(self.shard.feature_level());
        let requests = self.placement.go_on(self.kept.now, map, &self.table);
        if let Some(planning) = self.placement.take_planning() {
            self.planner.submit(self.addr.core, planning);
        }
        let router = &mut self.front.borrow_mut().router;
        for (name, group, request) in requests {
            router.submit_to(Asker::Placement(name), group, request);
        }
    }

    pub(super) fn answer_placement(&mut self, token: u64, order: Order) {
        let outcome = self.placement.answer(order, self.shard.leads_in(GroupId::META));
        self.settle(token, outcome);
    }

    /// A range was cut here: this node routes by that at once, and the map shall have it.
    pub(super) fn tell_split(&mut self, split: Split) {
        let Split { parent, child, .. } = &split;
        tracing::info!("{}: {} is cut in two, {} begins there", self.addr, parent.0, child.0);
        let propose = self.shard.leads(parent.0);
        let change = self.with_news(|news| news.of_split(&split));
        self.mail.letter(CoreId(0), CoreMessage::RangesChanged { change, propose });
    }

    /// A range has taken its neighbour, or serves again: this node routes by that at once, and the map shall
    /// have it.
    pub(super) fn tell_reshaped(&mut self, group: GroupId) {
        if let Some(bounds) = self.shard.bounds(group) {
            let end =
                bounds.end.as_ref().map_or("-".to_owned(), |end| end.escape_ascii().to_string());
            tracing::info!("{}: {group} ends at {end} now, in {}", self.addr, bounds.epoch);
        }
        self.tell(group, self.shard.leads(group));
    }

    /// Asks the neighbour of a frozen range to take it.
    pub(super) fn ask_neighbour(&mut self, merging: Merging) {
        let Merging { group, epoch, into_start, request } = merging;
        let router = &mut self.front.borrow_mut().router;
        router.submit(Asker::Range(group, epoch), &into_start, request);
    }

    /// A range tells of itself if the map has an older version of it: whoever led it before may not have
    /// come to it.
    pub(super) fn tell_range(&mut self, group: GroupId) {
        self.tell(group, true);
    }

    fn tell(&mut self, group: GroupId, propose: bool) {
        if let Some(change) = self.with_news(|news| news.of_range(group, propose)) {
            self.mail.letter(CoreId(0), CoreMessage::RangesChanged { change, propose });
        }
    }

    fn with_news<T>(&self, tell: impl FnOnce(RangeNews<'_>) -> T) -> T {
        tell(RangeNews {
            at: self.addr,
            shard: &self.shard,
            map: self.front.borrow().router.map(),
            confirmed: self.kept.confirmed.as_deref(),
        })
    }

    /// Another node wants a replica here: one core makes it, unless one has it or may have lost it.
    pub(super) fn find_home(&mut self, wanted: Wanted) {
        let Wanted { group, from, .. } = wanted;
        match self.homes.claim_any(group) {
            // One that has left is made again where it was.
            Ok(core) | Err(NoHome::Taken(core)) if core == self.addr.core => {
                self.make_replica(wanted);
            }
            Ok(core) | Err(NoHome::Taken(core)) => {
                self.mail.letter(core, CoreMessage::Make(wanted));
            }
            Err(NoHome::MayBeLost) => tracing::error!(
                "{}: {from} wants a replica of {group} here, but a log of this node has lost replicas \
                 that nobody can name, and this may be one: remove the node and add it as a new one",
                self.addr
            ),
        }
    }

    pub(super) fn make_replica(&mut self, wanted: Wanted) {
        let Wanted { group, from, .. } = wanted;
        if self.shard.has_replica(group) {
            return; // the message went astray
        }
        tracing::info!("{}: makes a replica of {group} as {from} asks", self.addr);
        let formed = self.formation.group(group).map(|range| range.bounds());
        self.shard.create(&wanted, formed);
        self.departures.made(group, self.kept.now);
    }
}
