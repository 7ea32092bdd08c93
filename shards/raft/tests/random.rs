//! Random schedules: loss, duplication, reordering, cuts, crashes that lose what was not flushed,
//! lapses of support, transfers, changes of membership, checkpoints. A failure names its seed;
//! `OARLOCK_SEED=n cargo test -p oarlock-raft --test random` replays it.
//!
//! What must hold: one leader a term, matching logs, every leader has all that is committed, every
//! replica applies the same, reads are linearizable, at most one holds a lease; and once the faults
//! end, the group serves again.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::Cluster;
use cluster::pulses::Pulses;
use oarlock_raft::{Configuration, Context, Entry, LogPosition, ReadOutcome};
use oarlock_types::{Index, Limits, Mono, NodeId, Random, Term};

struct World {
    cluster: Cluster,
    pulses: Pulses,
    random: Random,
    ids: Vec<NodeId>,
    /// Ways that are cut, for pulses and data.
    cuts: BTreeSet<(NodeId, NodeId)>,
    leaders: BTreeMap<Term, NodeId>,
    entries: BTreeMap<LogPosition, (Entry, Term)>,
    committed: BTreeMap<Index, Entry>,
    reads: BTreeMap<u64, Index>,
    next: u64,
    faults: bool,
    elections: u64,
    leases: u64,
    reads_done: u64,
    /// Whether replicas lose their logs.
    rebuilds: bool,
    /// Replicas that have lost their log and are no voters again yet.
    joining: BTreeSet<NodeId>,
    rebuilt: u64,
}

fn limits() -> Limits {
    Limits {
        snapshot_chunk_bytes: 64,
        inflight_messages_max: 4,
        inflight_bytes_max: 4000,
        append_bytes_max: 200,
        log_cache_bytes_max: 500,
        ..Limits::default()
    }
}

impl World {
    fn new(seed: u64, rebuilds: bool) -> Self {
        let mut random = Random::new(seed);
        let count = if random.below(2) == 0 { 3 } else { 5 };
        let ids: Vec<NodeId> = (1..=count + 1).map(NodeId).collect();
        let initial = Configuration::simple(ids[..ids.len() - 1].iter().copied());
        let cluster = Cluster::new(&ids, initial, limits(), seed);
        let mut pulses = Pulses::default();
        for id in &ids {
            pulses.restart(*id, Mono(0), Duration::from_micros(random.below(50_000)));
        }
        let mut world = Self {
            cluster,
            pulses,
            random,
            ids,
            cuts: BTreeSet::new(),
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: BTreeMap::new(),
            reads: BTreeMap::new(),
            next: 0,
            faults: true,
            elections: 0,
            leases: 0,
            reads_done: 0,
            rebuilds,
            joining: BTreeSet::new(),
            rebuilt: 0,
        };
        for node in world.cluster.nodes.values_mut() {
            node.promises.granted.clear();
            node.promises.received.clear();
        }
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).expect("below a usize")
    }

    fn any(&mut self) -> NodeId {
        let index = self.below(self.ids.len());
        self.ids[index]
    }

    fn leader(&self) -> Option<NodeId> {
        let leads =
            |id: &&NodeId| self.cluster.node(**id).group.as_ref().is_some_and(|g| g.is_leader());
        self.ids.iter().filter(leads).max_by_key(|id| self.cluster.group(**id).term()).copied()
    }

    fn step(&mut self) {
        let pause = match self.random.below(10) {
            0 => self.random.below(20_000),
            1..4 => self.random.below(2_000),
            _ => 0,
        };
        self.cluster.now = self.cluster.now + Duration::from_micros(pause);
        let cuts = self.cuts.clone();
        let loss = if self.faults { 5 } else { 0 };
        self.pulses.run(
            &mut self.cluster,
            &mut self.random,
            &|from, to| cuts.contains(&(from, to)),
            loss,
        );
        self.fire_due();
        self.rebuild();
        match self.random.below(100) {
            0..45 => self.network(),
            45..75 => {
                let id = self.any();
                self.cluster.flush(id);
            }
            75..85 => {
                let id = self.any();
                self.cluster.serve(id);
            }
            85..93 if self.faults => self.client(),
            93.. if self.faults => self.fault(),
            _ => {}
        }
        self.check();
    }

    fn fire_due(&mut self) {
        for id in self.ids.clone() {
            let now = self.cluster.now;
            let due = self.cluster.node(id).group.as_ref().is_some_and(|g| g.deadline() <= now);
            if due {
                self.cluster.fire(id);
            }
        }
    }

    fn network(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            let len = self.cluster.network.len();
            if len == 0 {
                return;
            }
            // Mostly in order, as a connection has it; sometimes not.
            let reorder = self.faults && self.random.below(5) == 0;
            let index = if reorder { self.below(len) } else { 0 };
            let letter = &self.cluster.network[index];
            if self.cuts.contains(&(letter.from, letter.to)) {
                self.cluster.network.remove(index);
                continue;
            }
            if self.faults {
                match self.random.below(40) {
                    0 => {
                        self.cluster.network.remove(index);
                        continue;
                    }
                    1 => {
                        let twin = self.cluster.network[index].clone();
                        self.cluster.network.push(twin);
                    }
                    _ => {}
                }
            }
            self.cluster.deliver(index);
        }
    }

    fn client(&mut self) {
        self.next += 1;
        let token = self.next;
        match self.random.below(10) {
            0..6 => {
                if let Some(leader) = self.leader() {
                    self.cluster.propose(leader, &format!("command {token}"));
                }
            }
            6..9 => {
                let id = if self.random.below(2) == 0 { self.leader() } else { None };
                let id = id.unwrap_or_else(|| self.any());
                let newest = self.committed.last_key_value().map_or(Index(0), |(i, _)| *i);
                self.reads.insert(token, newest);
                self.cluster.with(id, |g, ctx, out| g.read(ctx, token, out));
            }
            _ => {
                let id = self.any();
                if self.cluster.node(id).group.is_some() {
                    let tail = self.random.below(4);
                    self.cluster.compact(id, tail);
                }
            }
        }
    }

    fn fault(&mut self) {
        let (a, b) = (self.any(), self.any());
        match self.random.below(60) {
            0 | 1 => {
                self.cluster.crash(a);
            }
            2..12 if self.is_down(a) => self.restart(a),
            12 => {
                for other in self.ids.clone() {
                    self.cut(a, other);
                    self.cut(other, a);
                }
            }
            13 | 14 => self.cut(a, b),
            15..22 => self.heal(),
            22 => {
                if let Some(leader) = self.leader() {
                    self.cluster.with(leader, |g, ctx, out| g.transfer(ctx, None, out).ok());
                }
            }
            23 | 24 => self.change_members(),
            25 if self.rebuilds => self.damage(a),
            _ => {}
        }
    }

    fn cut(&mut self, from: NodeId, to: NodeId) {
        if from != to && self.cuts.insert((from, to)) && self.random.below(2) == 0 {
            self.cluster.with(from, |g, ctx, out| g.reachable(ctx, to, false, out));
        }
    }

    fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.cluster.with(from, |g, ctx, out| g.reachable(ctx, to, true, out));
        }
    }

    fn is_down(&self, id: NodeId) -> bool {
        let node = self.cluster.node(id);
        node.group.is_none() && node.lost.is_none()
    }

    /// A replica loses its log. One at a time: with more lost at once nobody could promise anything.
    fn damage(&mut self, id: NodeId) {
        let is_whole =
            |id: &NodeId| self.cluster.node(*id).lost.is_none() && !self.joining.contains(id);
        if self.ids.iter().all(is_whole) {
            self.cluster.damage(id);
            self.joining.insert(id);
        }
    }

    /// Damaged replicas ask to leave, rebuilt ones to join, until they are voters.
    fn rebuild(&mut self) {
        for id in self.joining.clone() {
            if self.random.below(20) > 0 {
                continue;
            }
            let anew = self.random.below(4) == 0;
            self.cluster.ask_to_leave(id, anew);
            let Some(group) = &self.cluster.node(id).group else { continue };
            if group.is_settled_voter()
                && group.last().index >= self.cluster.node(id).disk.votes_from
            {
                self.joining.remove(&id);
                self.rebuilt += 1;
            } else {
                self.cluster.with(id, |g, ctx, out| g.ask_to_join(ctx, out));
            }
        }
    }

    fn restart(&mut self, id: NodeId) {
        let now = self.cluster.now;
        let delay = Duration::from_micros(self.random.below(50_000));
        self.pulses.restart(id, now, delay);
        let promises = &mut self.cluster.nodes.get_mut(&id).expect("known").promises;
        promises.granted.clear();
        promises.received.clear();
        self.cluster.start(id, false);
        for (from, to) in self.cuts.clone() {
            if from == id {
                self.cluster.with(id, |g, ctx, out| g.reachable(ctx, to, false, out));
            }
        }
    }

    fn change_members(&mut self) {
        let Some(leader) = self.leader() else { return };
        let out = self.any();
        let voters: Vec<NodeId> = self.ids.iter().copied().filter(|n| *n != out).collect();
        let learners = if self.random.below(2) == 0 { vec![out] } else { Vec::new() };
        self.cluster.with(leader, |g, ctx, effects| {
            g.change_configuration(ctx, voters, learners, effects).ok()
        });
    }

    fn check(&mut self) {
        let mut holders = Vec::new();
        for id in &self.ids {
            let node = self.cluster.node(*id);
            let Some(group) = &node.group else { continue };
            let ctx =
                Context { now: self.cluster.now, support: &node.promises, may_vote: node.may_vote };
            if group.is_leader() {
                let known = self.leaders.insert(group.term(), *id);
                assert!(known.is_none_or(|k| k == *id), "two leaders in {}", group.term());
                if known.is_none() {
                    self.elections += 1;
                    for (index, entry) in &self.committed {
                        let held = node.mirror.get(index).map(|e| e.at);
                        let kept = *index <= group.checkpoint().index;
                        assert!(kept || held == Some(entry.at), "{id} leads without {}", entry.at);
                    }
                }
            }
            if group.lease_valid(&ctx) {
                holders.push(*id);
            }
            let first = node.applied.len().saturating_sub(3);
            for entry in &node.applied[first..] {
                let known = self.committed.entry(entry.at.index).or_insert(entry.clone());
                assert_eq!(known, entry, "replicas apply the same");
            }
            let newest: Vec<&Entry> = node.mirror.values().rev().take(4).collect();
            for pair in newest.windows(2) {
                let seen = (pair[0].clone(), pair[1].at.term);
                let known = self.entries.entry(pair[0].at).or_insert(seen.clone());
                assert_eq!(*known, seen, "logs match");
            }
        }
        assert!(holders.len() <= 1, "lease holders {holders:?}");
        self.leases += holders.len() as u64;
        for (_, read) in self.cluster.reads.drain(..) {
            if let ReadOutcome::Ready { token, index } = read {
                let known = self.reads[&token];
                assert!(index >= known, "read {token} at {index} missed {known}");
                self.reads_done += 1;
            }
        }
        self.cluster.trace.clear();
    }

    /// No more faults: within a minute somebody holds a lease and what is proposed then is
    /// applied by every member.
    fn recover(&mut self) {
        self.faults = false;
        self.heal();
        for id in self.ids.clone() {
            if self.is_down(id) {
                self.restart(id);
            }
        }
        let end = self.cluster.now + Duration::from_secs(60);
        let mut proposed = None;
        while self.cluster.now < end {
            for _ in 0..10 {
                self.step();
            }
            for id in self.ids.clone() {
                if self.is_down(id) {
                    self.restart(id); // its damaged replica may begin again
                }
            }
            let Some(leader) = self.leader() else { continue };
            let node = self.cluster.node(leader);
            let ctx =
                Context { now: self.cluster.now, support: &node.promises, may_vote: node.may_vote };
            let group = self.cluster.group(leader);
            let members: Vec<NodeId> = group.configuration().members().collect();
            let has = |id: &NodeId, at| {
                self.cluster.node(*id).group.as_ref().is_some_and(|g| g.commit() >= at)
            };
            match proposed {
                None if group.lease_valid(&ctx) => {
                    let at = group.last().index.next();
                    if self.cluster.propose(leader, "after the faults").is_none() {
                        proposed = Some(at);
                    }
                }
                Some(at) if self.joining.is_empty() && members.iter().all(|id| has(id, at)) => {
                    return;
                }
                None | Some(_) => {}
            }
        }
        for id in self.ids.clone() {
            eprintln!("{}", self.cluster.status(id));
            let Some(group) = &self.cluster.node(id).group else { continue };
            eprintln!("  {:?} {:?}", group.binding(), group.progress().collect::<Vec<_>>());
        }
        panic!("the group does not serve again");
    }
}

fn run(seed: u64, rebuilds: bool) -> (u64, u64, u64, usize, u64) {
    let mut world = World::new(seed, rebuilds);
    for _ in 0..6000 {
        world.step();
    }
    world.recover();
    (world.elections, world.leases, world.reads_done, world.committed.len(), world.rebuilt)
}

fn run_all(rebuilds: bool) {
    if let Ok(seed) = std::env::var("OARLOCK_SEED") {
        run(seed.parse().expect("a number"), rebuilds);
        return;
    }
    let seeds: u64 = std::env::var("OARLOCK_SEEDS").map_or(20, |n| n.parse().expect("a number"));
    let mut totals = (0, 0, 0, 0, 0);
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| run(seed, rebuilds));
        let (elections, leases, reads, entries, rebuilt) = result.unwrap_or_else(|_| {
            panic!("seed {seed}: replay with OARLOCK_SEED={seed}");
        });
        totals.0 += elections;
        totals.1 += leases;
        totals.2 += reads;
        totals.3 += entries;
        totals.4 += rebuilt;
    }
    // A schedule in which nothing happens proves nothing.
    assert!(totals.0 > 2 * seeds, "elections: {totals:?}");
    assert!(totals.1 > 0 && totals.2 > seeds && totals.3 > 20, "work: {totals:?}");
    assert_eq!(rebuilds, totals.4 > 0, "rebuilt: {totals:?}");
}

#[test]
fn random_schedules_are_safe_and_live() {
    run_all(false);
}

#[test]
fn rebuilding_replicas_is_safe_and_live() {
    run_all(true);
}
