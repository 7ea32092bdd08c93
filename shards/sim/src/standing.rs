//! What a cluster that keeps its own map must come to once faults have stopped: who wanted to join has, all that
//! operators wrote is done as far as enough nodes are there, the map is what the ranges are, every node has it,
//! and placement rests.

use std::collections::BTreeMap;

use oarlock_cluster::duties;
use oarlock_cluster::map_store;
use oarlock_placement::Duty;
use oarlock_shard::Shard;
use oarlock_store::{Command, Reply, Request};
use oarlock_types::{GroupId, NodeId, RangeMap};

use crate::clients::client_keys;
use crate::linearizability::{Action, Answer};
use crate::node::Node;
use crate::world::World;

/// Within this a cluster comes to that.
const STANDS_WITHIN_US: u64 = 240_000_000;
/// And stays so for this long.
const STANDS_FOR_US: u64 = 3_000_000;
/// A question of the world's own is answered within this.
const ANSWERED_WITHIN_US: u64 = 10_000_000;

impl World {
    /// Runs until the cluster stands as it is to.
    ///
    /// # Panics
    /// When it does not within a bounded time: with what is missing.
    pub fn stands(&mut self) {
        let end = self.now + STANDS_WITHIN_US;
        // What is gone is planned for once it has been silent for so long, by clocks that drift.
        let gone_after =
            self.config.cluster.as_ref().map_or(0, |cluster| cluster.gone_after.as_micros());
        let stays = STANDS_FOR_US + 2 * u64::try_from(gone_after).expect("invariant: seconds");
        let mut since = self.now;
        loop {
            let missing = self.missing();
            if missing.is_empty() && self.now >= since + stays {
                break;
            }
            if !missing.is_empty() {
                since = self.now;
            }
            assert!(
                self.now < end,
                "the cluster comes to stand as it is to:\n  {}",
                missing.join("\n  ")
            );
            self.run_for(100_000);
        }
        self.map_is_what_ranges_are();
    }

    /// What is not as it is to be, in words.
    fn missing(&mut self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.joining.is_done() {
            missing.push(format!("nodes or operators wait: {:?}", self.joining));
        }
        let Some(leader) = self.leader(GroupId::META) else {
            missing.push("nobody leads the meta group".to_owned());
            return missing;
        };
        let Some(core) = self.nodes[self.place(leader)].core(&self.config, GroupId::META) else {
            return missing;
        };
        let Some(driving) = &core.driving else { return missing };
        if !driving.placement.is_at_rest() {
            missing.push(format!("placement on {leader}: {}", driving.placement.explain(0)));
        }
        let Some(map) = self.map_of(leader) else { return missing };
        if !map.is_whole() {
            missing.push(format!("{leader}'s map has a hole"));
        }
        for node in self.running() {
            let Some(own) = self.map_of(node.id) else { continue };
            if own.version() != map.version() {
                missing.push(format!(
                    "{} has map {}, {leader} {}",
                    node.id,
                    own.version(),
                    map.version()
                ));
            }
        }
        self.look_at_replicas(&map, &mut missing);
        missing
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.process.is_some())
    }

    /// The map by which a node's first core routes.
    fn map_of(&self, node: NodeId) -> Option<RangeMap> {
        let process = self.nodes[self.place(node)].process.as_ref()?;
        let driving = process.cores[0].driving.as_ref()?;
        Some(RangeMap::clone(driving.router.map()))
    }

    /// Holds replicas against the map: each range is where the map says and nowhere else, as its leader has it.
    fn look_at_replicas(&self, map: &RangeMap, missing: &mut Vec<String>) {
        for range in map.group(GroupId::META).into_iter().chain(map.ranges()) {
            let group = range.group;
            let Some(shard) = self.leading(group) else {
                missing.push(format!("nobody leads {group}"));
                continue;
            };
            let Some((bounds, configured, members)) = shard.range(group) else {
                missing.push(format!("the members of {group} change"));
                continue;
            };
            let mut by_map: Vec<NodeId> = range.replicas.iter().map(|at| at.node).collect();
            let mut by_group: Vec<NodeId> = members.members().collect();
            by_map.sort_unstable();
            by_group.sort_unstable();
            if (bounds.clone(), configured, &by_group)
                != (range.bounds(), range.configured, &by_map)
            {
                missing.push(format!(
                    "the map has {range:?}, its leader {bounds:?} {configured} {members:?}"
                ));
            }
        }
        // On which core of a node a replica is, the map need not know.
        for node in self.running() {
            let cores = node.process.iter().flat_map(|process| &process.cores);
            for group in cores.flat_map(|core| core.shard.groups()) {
                let known = map.group(*group);
                if known.is_none_or(|range| range.core_on(node.id).is_none()) {
                    missing.push(format!("{} has a replica of {group}: {known:?}", node.id));
                }
            }
        }
    }

    fn leading(&self, group: GroupId) -> Option<&Shard> {
        let leader = self.leader(group)?;
        Some(&self.nodes[self.place(leader)].core(&self.config, group)?.shard)
    }

    /// Asks a group's leader, until it answers.
    fn ask_leader(&mut self, group: GroupId, request: &Request) -> Reply {
        let end = self.now + ANSWERED_WITHIN_US;
        loop {
            assert!(self.now < end, "{group} answers: {}", self.who_waits());
            let Some(leader) = self.leader(group) else {
                self.run_for(10_000);
                continue;
            };
            let token = self.request(leader, group, request.clone());
            let mut outcome = None;
            self.run_till(ANSWERED_WITHIN_US, |world| {
                outcome = world.take_outcome(token);
                outcome.is_some()
            });
            if let Some(Ok(reply)) = outcome {
                return reply;
            }
            self.run_for(10_000);
        }
    }

    /// The meta group's map is that by which all route; voters are as many as are wanted, and where they may be.
    fn map_is_what_ranges_are(&mut self) {
        let (mut kept, mut from) = (RangeMap::default(), Some(map_store::first()));
        while let Some(key) = from {
            let reply = self.ask_leader(GroupId::META, &map_store::read_all(key));
            let (news, next) =
                map_store::all(&reply).expect("what this build wrote it understands");
            kept.apply(1, &news.ranges);
            from = next;
        }
        let duties = duties::found(&self.ask_leader(GroupId::META, &duties::read()));
        let serving = self.running().filter(|node| !duties.contains_key(&node.id)).count() as u64;
        let leader = self.leader(GroupId::META).expect("invariant: it has just answered");
        let map = self.map_of(leader).expect("invariant: it runs");
        let kept: BTreeMap<GroupId, String> =
            kept.ranges().map(|range| (range.group, format!("{range:?}"))).collect();
        let known: BTreeMap<GroupId, String> =
            map.ranges().map(|range| (range.group, format!("{range:?}"))).collect();
        let other: Vec<_> =
            kept.iter().filter(|(group, range)| known.get(group) != Some(range)).collect();
        assert!(
            other.is_empty() && kept.len() == known.len(),
            "all route by what the meta group has, which has {other:?}: {known:?}"
        );
        let wanted = self.config.replicas;
        if serving < wanted {
            return;
        }
        for range in map.ranges() {
            assert_eq!(
                range.replicas.len() as u64,
                wanted,
                "a range has as many voters as are wanted: {range:?}, {duties:?}"
            );
            for at in range.replicas {
                let node = &self.nodes[self.place(at.node)];
                assert!(!node.is_gone, "no replica stays on a node that is gone: {range:?}");
                let duty = duties.get(&at.node).copied().unwrap_or_default();
                assert_eq!(duty, Duty::default(), "drained and removed nodes have none: {range:?}");
            }
        }
    }

    /// Reads every key once more: all that was acknowledged is still there.
    pub fn read_all_again(&mut self) {
        for family in self.config.group_ids() {
            for key in client_keys(&self.config, family).collect::<Vec<_>>() {
                let holder = self.ranges.holder(family, &key);
                let (group, _) = holder.unwrap_or_else(|| panic!("every key has a range: {key:?}"));
                let called_at = self.now;
                let reply =
                    self.ask_leader(group, &Request::one(Command::Get { key: key.clone() }));
                let value = match &reply {
                    Reply::Bulk(bytes) => Some(bytes.clone()),
                    Reply::Nil => None,
                    Reply::Ok
                    | Reply::Simple(_)
                    | Reply::Int(_)
                    | Reply::Array(_)
                    | Reply::Error(_) => panic!("a read is answered: {reply:?}"),
                };
                let answer = (self.now, Answer::Values(vec![value]));
                self.clients.note_read(family, Action::Read(vec![key]), called_at, answer);
            }
        }
    }
}
