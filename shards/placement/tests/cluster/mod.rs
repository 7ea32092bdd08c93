//! A cluster that carries out what is planned, checks each task by rules of its own, and counts.

#![allow(dead_code, reason = "each test and the bench use a part")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use oarlock_placement::{
    Action, Duty, LoadSample, Node, Plan, Range, Reason, Replica, ReplicaRole, Rules, SplitAt,
    Task, View, plan,
};
use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId, RangeEpoch, WallMs};

pub(crate) const MIB: u64 = 1 << 20;

/// What was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) moves: usize,
    pub(crate) removals: usize,
    pub(crate) transfers: usize,
    pub(crate) core_moves: usize,
    pub(crate) splits: usize,
    pub(crate) merges: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) view: View,
    pub(crate) counts: Counts,
    next_group: u64,
}

pub(crate) fn node(id: u64, cores: u16, zone: &str) -> Node {
    Node {
        id: NodeId(id),
        cores,
        capacity_bytes: 1 << 40,
        zone: zone.to_owned(),
        down_since: None,
        duty: Duty::Serving,
    }
}

pub(crate) fn voter(node: u64, core: u16) -> Replica {
    let at = CoreAddr::new(NodeId(node), CoreId(core));
    Replica { at, role: ReplicaRole::Voter, caught_up: true }
}

/// A range of 32 MiB that nobody uses; its first replica leads.
pub(crate) fn range(group: u64, replicas: Vec<Replica>) -> Range {
    Range {
        group: GroupId(group),
        epoch: RangeEpoch(1),
        leader: replicas.first().map(|replica| replica.at.node),
        replicas,
        bytes: 32 * MIB,
        keys: 10_000,
        writes_per_s: 0,
        reads_per_s: 0,
        sample: LoadSample::Unknown,
        last_split: None,
        rules: Rules::default(),
        rules_of: None,
        border: None,
    }
}

impl Cluster {
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        let view = View { now: WallMs(1_000_000_000), nodes, ..View::default() };
        Self { view, next_group: 1, ..Self::default() }
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        self.view.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    pub(crate) fn range(&mut self, group: GroupId) -> &mut Range {
        self.view.ranges.iter_mut().find(|range| range.group == group).unwrap()
    }

    pub(crate) fn push(&mut self, range: Range) {
        self.next_group = self.next_group.max(range.group.0 + 1);
        self.view.ranges.push(range);
    }

    /// Ranges as a cluster forms them: replicas go round the nodes, on equal core numbers.
    pub(crate) fn form(&mut self, nodes: &[NodeId], ranges: usize, replicas: usize) {
        let cores: Vec<u16> = nodes.iter().map(|id| self.node(*id).cores).collect();
        let most = usize::from(*cores.iter().max().unwrap());
        for number in 0..ranges {
            let place = |copy: usize| {
                let node = (number / most + copy) % nodes.len();
                let core = number % most % usize::from(cores[node]);
                voter(nodes[node].0, u16::try_from(core).unwrap())
            };
            let places = (0..replicas.min(nodes.len())).map(place).collect();
            let group = self.next_group;
            self.push(range(group, places));
        }
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.view.now = WallMs(self.view.now.0 + ms);
    }

    /// Plans, checks, and takes the tasks as under way.
    pub(crate) fn begin(&mut self) -> Plan {
        let planned = plan(&self.view);
        check_plan(&self.view, &planned);
        self.view.under_way.extend(planned.tasks.iter().cloned());
        planned
    }

    /// Carries out the tasks under way of which this says so.
    pub(crate) fn finish(&mut self, mut done: impl FnMut(&Task) -> bool) {
        let tasks = std::mem::take(&mut self.view.under_way);
        for task in tasks {
            if done(&task) {
                self.carry_out(&task);
            } else {
                self.view.under_way.push(task);
            }
        }
    }

    /// Plans and carries out until nothing is planned; how many rounds had tasks.
    pub(crate) fn rest(&mut self, rounds_max: usize) -> usize {
        for round in 0..rounds_max {
            let planned = self.begin();
            if planned.tasks.is_empty() && self.view.under_way.is_empty() {
                return round;
            }
            self.finish(|_| true);
            self.advance(1_000);
        }
        panic!("no rest within {rounds_max} rounds: {:?}\n{}", self.counts, plan(&self.view));
    }

    fn carry_out(&mut self, task: &Task) {
        let counts = &mut self.counts;
        match task.action {
            Action::Add { .. } | Action::Replace { .. } => counts.moves += 1,
            Action::Remove { .. } => counts.removals += 1,
            Action::Transfer { .. } => counts.transfers += 1,
            Action::MoveCore { .. } => counts.core_moves += 1,
            Action::Split(_) => counts.splits += 1,
            Action::Merge { .. } => counts.merges += 1,
        }
        let now = self.view.now;
        // Where it is as long as nothing was split or merged.
        let guess = usize::try_from(task.group.0).unwrap().saturating_sub(1);
        let is_it = |range: &Range| range.group == task.group;
        let at = match self.view.ranges.get(guess) {
            Some(range) if is_it(range) => guess,
            Some(_) | None => self.view.ranges.iter().position(is_it).unwrap(),
        };
        let range = &mut self.view.ranges[at];
        range.epoch = range.epoch.next();
        let arrive = |range: &mut Range, to: CoreAddr| {
            range.replicas.retain(|replica| replica.at.node != to.node);
            range.replicas.push(Replica { at: to, role: ReplicaRole::Voter, caught_up: true });
        };
        match task.action {
            Action::Add { to } => arrive(range, to),
            Action::Replace { from, to } => {
                range.replicas.retain(|replica| replica.at != from);
                arrive(range, to);
                if range.leader == Some(from.node) {
                    range.leader = Some(to.node);
                }
            }
            Action::Remove { from } => range.replicas.retain(|replica| replica.at != from),
            Action::Transfer { to, .. } => range.leader = Some(to),
            Action::MoveCore { node, to, .. } => {
                range.replicas.iter_mut().find(|r| r.at.node == node).unwrap().at.core = to;
            }
            Action::Split(place) => {
                range.bytes /= 2;
                range.keys /= 2;
                range.writes_per_s /= 2;
                range.reads_per_s /= 2;
                range.sample = LoadSample::Unknown;
                range.last_split = Some(now);
                let mut right = range.clone();
                if place == SplitAt::Border {
                    (range.border, right.border) = (None, None);
                    (right.rules, right.rules_of) = (Rules::default(), None);
                }
                right.group = GroupId(self.next_group);
                self.next_group += 1;
                self.view.ranges.insert(at + 1, right);
            }
            Action::Merge { right, .. } => {
                let behind = self.view.ranges.iter().position(|r| r.group == right).unwrap();
                let gone = self.view.ranges.remove(behind);
                let range = self.range(task.group);
                range.bytes += gone.bytes;
                range.keys += gone.keys;
                range.writes_per_s += gone.writes_per_s;
                range.reads_per_s += gone.reads_per_s;
            }
        }
    }

    /// Replicas of each node, leaders of each node, replicas of each core.
    pub(crate) fn spread(&self) -> BTreeMap<NodeId, (usize, usize, Vec<usize>)> {
        let blank = |node: &Node| (node.id, (0, 0, vec![0; usize::from(node.cores)]));
        let mut spread: BTreeMap<_, _> = self.view.nodes.iter().map(blank).collect();
        for range in &self.view.ranges {
            for replica in &range.replicas {
                let used = spread.get_mut(&replica.at.node).unwrap();
                used.0 += 1;
                used.1 += usize::from(range.leader == Some(replica.at.node));
                used.2[usize::from(replica.at.core.0)] += 1;
            }
        }
        spread
    }

    /// Ranges whose replicas are not all on one core number.
    pub(crate) fn misaligned(&self) -> usize {
        let cores = |range: &Range| -> BTreeSet<CoreId> {
            range.replicas.iter().map(|replica| replica.at.core).collect()
        };
        self.view.ranges.iter().filter(|range| cores(range).len() > 1).count()
    }
}

fn lost(view: &View, id: NodeId) -> bool {
    let Some(node) = view.nodes.iter().find(|node| node.id == id) else { return true };
    let down = node.down_since.map(|since| view.now.0.saturating_sub(since.0));
    node.duty == Duty::Removed || down.is_some_and(|ms| ms >= view.settings.gone_after_ms)
}

fn up(view: &View, id: NodeId) -> bool {
    let node = view.nodes.iter().find(|node| node.id == id);
    node.is_some_and(|node| node.down_since.is_none() && node.duty != Duty::Removed)
}

fn serving(view: &View, id: NodeId) -> bool {
    let node = view.nodes.iter().find(|node| node.id == id);
    up(view, id) && node.is_some_and(|node| node.duty == Duty::Serving && node.cores > 0)
}

fn sound(view: &View, replica: &Replica) -> bool {
    replica.role == ReplicaRole::Voter && replica.caught_up && up(view, replica.at.node)
}

/// Whether a majority of the voters, as they would be, are up and caught up.
fn has_quorum(view: &View, replicas: &[Replica]) -> bool {
    let voters = replicas.iter().filter(|replica| replica.role == ReplicaRole::Voter).count();
    let sound = replicas.iter().filter(|replica| sound(view, replica)).count();
    voters > 0 && sound > voters / 2
}

/// Pairs of voters that share a zone; those that are lost do not count.
fn shared(view: &View, replicas: &[Replica]) -> usize {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    for replica in replicas.iter().filter(|replica| replica.role == ReplicaRole::Voter) {
        let node = view.nodes.iter().find(|node| node.id == replica.at.node);
        if let Some(node) = node.filter(|node| !lost(view, node.id)) {
            *zones.entry(&node.zone).or_default() += 1;
        }
    }
    zones.values().map(|count| count * (count - 1) / 2).sum()
}

/// What must hold of any plan, reckoned from the view alone.
pub(crate) fn check_plan(view: &View, planned: &Plan) {
    let mut groups: BTreeSet<GroupId> = BTreeSet::new();
    let busy = view.under_way.iter().chain(&planned.tasks);
    for task in busy.clone() {
        assert!(groups.insert(task.group), "two tasks for {}: {task}", task.group);
        if let Action::Merge { right, .. } = task.action {
            assert!(groups.insert(right), "two tasks for {right}: {task}");
        }
    }
    for task in &planned.tasks {
        check_task(view, task);
    }
    let settings = &view.settings;
    let count = |wanted: fn(&Action) -> bool| busy.clone().filter(|t| wanted(&t.action)).count();
    let moves = count(|a| matches!(a, Action::Add { .. } | Action::Replace { .. }));
    let cheap = count(|a| matches!(a, Action::Remove { .. } | Action::Transfer { .. }));
    let shapes = count(|a| matches!(a, Action::Split(_) | Action::Merge { .. }));
    let fresh = !planned.tasks.is_empty() && view.under_way.is_empty();
    assert!(!fresh || moves <= settings.moves_max, "{moves} moves");
    assert!(!fresh || cheap <= settings.transfers_max, "{cheap} transfers");
    assert!(!fresh || shapes <= settings.reshapes_max, "{shapes} splits and merges");
    for node in &view.nodes {
        let takes_part = |task: &&Task| match task.action {
            Action::Add { to } => to.node == node.id,
            Action::Replace { from, to } => from.node == node.id || to.node == node.id,
            Action::Remove { .. }
            | Action::Transfer { .. }
            | Action::MoveCore { .. }
            | Action::Split(_)
            | Action::Merge { .. } => false,
        };
        let moves = busy.clone().filter(takes_part).count();
        let bounded = !fresh || !up(view, node.id) || moves <= settings.moves_per_node_max;
        assert!(bounded, "{moves} moves of {}", node.id);
    }
}

fn check_task(view: &View, task: &Task) {
    let range = view.ranges.iter().find(|range| range.group == task.group).unwrap();
    assert_eq!(range.epoch, task.epoch);
    assert!(has_quorum(view, &range.replicas), "no quorum carries this out: {task}");
    let is_for_rules = matches!(
        task.reason,
        Reason::TooFew(..)
            | Reason::TooMany(..)
            | Reason::NotPinned(_)
            | Reason::SharedZone(_)
            | Reason::LeaderZone(_)
    );
    let is_cut = range.border.is_none() || range.group == GroupId::META;
    assert!(is_cut || !is_for_rules, "done to keys of other rules: {task}");
    match task.action {
        Action::Add { to } => check_arrival(view, range, None, to, task),
        Action::Replace { from, to } => check_arrival(view, range, Some(from), to, task),
        Action::Remove { from } => {
            let left: Vec<_> = range.replicas.iter().copied().filter(|r| r.at != from).collect();
            assert_eq!(left.len() + 1, range.replicas.len(), "nothing to remove: {task}");
            assert!(has_quorum(view, &left), "below quorum: {task}");
            assert_ne!(range.leader, Some(from.node), "the leader is taken away: {task}");
        }
        Action::Transfer { from, to } => {
            assert_eq!(range.leader, Some(from));
            let heir = range.replicas.iter().find(|r| r.at.node == to).unwrap();
            assert!(sound(view, heir) && serving(view, to), "no voter to lead: {task}");
            let zone = |id| &view.nodes.iter().find(|node| node.id == id).unwrap().zone;
            let even = matches!(task.reason, Reason::UnevenNodes { .. });
            let home = range.rules.leader_zone.as_ref();
            let leaves = home == Some(zone(from)) && home != Some(zone(to));
            assert!(!even || !leaves, "out of the leader's zone: {task}");
        }
        Action::MoveCore { node, from, to } => {
            let cores = view.nodes.iter().find(|known| known.id == node).unwrap().cores;
            assert!(to.0 < cores && from != to, "{task}");
            let without =
                |r: &Replica| Replica { caught_up: r.caught_up && r.at.node != node, ..*r };
            let left: Vec<Replica> = range.replicas.iter().map(without).collect();
            let alone = range.voters().count() == 1;
            assert!(has_quorum(view, &left) || alone, "below quorum: {task}");
        }
        Action::Split(SplitAt::Border) => {
            assert!(range.border.is_some() && range.group != GroupId::META, "{task}");
        }
        Action::Split(_) => assert!(range.keys >= 2 && range.group != GroupId::META, "{task}"),
        Action::Merge { right, right_epoch } => {
            let at = view.ranges.iter().position(|r| r.group == task.group).unwrap();
            let mut behind = view.ranges[at + 1..].iter().filter(|r| r.group != GroupId::META);
            let other = behind.next().unwrap();
            assert_eq!((other.group, other.epoch), (right, right_epoch), "no neighbour: {task}");
            assert!(other.bytes <= view.settings.merge_bytes_max, "too large: {task}");
            assert_eq!(range.rules, other.rules, "{task}");
        }
    }
}

fn check_arrival(view: &View, range: &Range, from: Option<CoreAddr>, to: CoreAddr, task: &Task) {
    let target = view.nodes.iter().find(|node| node.id == to.node).unwrap();
    assert!(serving(view, to.node), "to a node that does not serve: {task}");
    assert!(to.core.0 < target.cores, "to a core that is not there: {task}");
    assert!(range.rules.allow(to.node), "to a node that the rules forbid: {task}");
    let held = range.voters().any(|replica| replica.at.node == to.node);
    assert!(!held, "a second replica on a node: {task}");
    let with = |id: NodeId| {
        let stays = |r: &&Replica| Some(r.at) != from && r.at.node != id;
        let mut after: Vec<Replica> = range.replicas.iter().filter(stays).copied().collect();
        let at = CoreAddr::new(id, CoreId(0));
        after.push(Replica { at, role: ReplicaRole::Voter, caught_up: true });
        after
    };
    let after = with(to.node);
    assert!(has_quorum(view, &after), "below quorum: {task}");
    let (before, now) = (shared(view, &range.replicas), shared(view, &after));
    match task.reason {
        Reason::SharedZone(_) => assert!(now < before, "no zone is gained: {task}"),
        Reason::UnevenNodes { .. } | Reason::LeaderZone(_) => {
            assert!(now <= before, "zones get worse: {task}");
        }
        Reason::Gone(..)
        | Reason::Removed(_)
        | Reason::Draining(_)
        | Reason::TooFew(..)
        | Reason::NotPinned(_) => {
            let used = |id| -> u64 {
                let here =
                    view.ranges.iter().filter(|r| r.replicas.iter().any(|r| r.at.node == id));
                here.map(|range| range.bytes).sum()
            };
            let fill = u64::from(view.settings.fill_percent_max);
            let possible = view.nodes.iter().filter(|node| {
                serving(view, node.id)
                    && range.rules.allow(node.id)
                    && !range.replicas.iter().any(|replica| replica.at.node == node.id)
                    && used(node.id) + range.bytes <= node.capacity_bytes / 100 * fill
            });
            let best = possible.map(|node| shared(view, &with(node.id))).min();
            let slack = planned_room(view);
            assert!(slack || best.is_none_or(|best| now <= best), "a better zone is free: {task}");
        }
        Reason::TooMany(..)
        | Reason::Border(_)
        | Reason::Leftover(_)
        | Reason::UnevenCores { .. }
        | Reason::Align(_)
        | Reason::Size(..)
        | Reason::Load(_)
        | Reason::Small(..) => panic!("no reason for a new replica: {task}"),
    }
}

/// Whether nodes are so full that tasks of one plan may take each other's room.
fn planned_room(view: &View) -> bool {
    let all: u64 = view.ranges.iter().map(|range| range.bytes * 8).sum();
    view.nodes.iter().any(|node| node.capacity_bytes / 100 < all / 50)
}
