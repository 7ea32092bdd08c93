//! Carries out what placement plans: on the core that leads the meta group, as long as it does. It asks
//! whoever leads a range for the next step of its task, again and again until the task is done.
//!
//! It decides nothing but when to plan: `shards/placement` does, beside the core ([`Planning`]): with a hundred
//! thousand ranges a plan takes as long as many turns, and so does it to put together what it looks at. It keeps
//! nothing that must not be lost: another node that comes to lead the meta group plans anew, from how things are by
//! then.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use oarlock_codec::Refusal;
use oarlock_placement::{Action, Duty, Node, Plan, Settings, SplitAt, Task, explain};
use oarlock_shard::{Outcome, SharedSupport, SplitSettings};
use oarlock_store::{Command, Order, RangeReport, Reply, Request};
use oarlock_types::{FeatureLevel, GroupId, Mono, NodeId, RangeMap, Term, WallMs};

use crate::capacities;
use crate::wishes::{Reader, Wishes};
use crate::{NodeEntry, SharedMap};

mod planning;

use planning::Asked;
pub use planning::{Made, Planning};

/// Between two plans, at least.
const PLAN_INTERVAL: Duration = Duration::from_secs(1);
/// The core that plans serves ranges, too: between two plans it rests so many times as long as one takes.
const REST_FACTOR: u32 = 50;
/// Between two steps of a task.
const STEP_REST: Duration = Duration::from_millis(50);
/// A task that has not come to its end by then is planned anew, if it is still wanted.
const TASK_MAX: Duration = Duration::from_secs(600);
/// A node that was not heard of for so long is down.
pub const SILENCE: Duration = Duration::from_secs(2);
/// Nothing is planned before so much time has passed since this node came to lead: until then the others
/// tell how their ranges are.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// It waits no longer for those of whom nothing was told: nobody may lead them.
const REPORTS_WAIT: Duration = Duration::from_secs(15);
/// A leader that goes to another core leads no more, so a replica goes only where cores are far apart, and never
/// for the number of its core alone: load that comes and goes would have one move behind the other.
const CORE_SLACK_PERCENT: u32 = 50;
/// After a merge that was refused, unless one of the ranges changes before.
const REFUSED_REST: Duration = Duration::from_secs(600);
/// Merges, and cuts for rules, at once, in the whole cluster.
const RESHAPES_MAX: usize = 4;

/// What does not change while a node runs.
#[derive(Clone, Debug)]
pub struct PlacementParts {
    /// This node.
    pub node: NodeId,
    /// All nodes.
    pub nodes: Vec<NodeEntry>,
    /// Voters of each range.
    pub replicas: u8,
    /// Moves at once; 0: none.
    pub moves_max: usize,
    /// When a silent node's replicas are made anew.
    pub gone_after: Duration,
    /// What a range is cut for, by the settings of this node: far below that, neighbours are merged.
    pub splits: SplitSettings,
    /// Bytes of a range up to which its neighbour takes it.
    pub merge_bytes_max: u64,
    /// How long ranges stay what they are before they are merged; zero: none ever is.
    pub merge_rest: Duration,
}

#[derive(Debug)]
struct Running {
    task: Task,
    /// The group whose leader is asked.
    group: GroupId,
    order: Order,
    begun: Mono,
    /// It is being asked for, or rests until then.
    is_asked: bool,
    rests_until: Mono,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Wishes,
    Step(GroupId),
    Plan,
}

/// Placement of one core.
#[derive(Debug)]
pub struct Placement {
    parts: PlacementParts,
    leads_since: Option<Mono>,
    /// What was told since a plan was begun last.
    reports: Vec<RangeReport>,
    wishes: Wishes,
    /// They were read since this node came to lead: to plan without them would undo what they ask for.
    knows_wishes: bool,
    reader: Reader,
    tasks: BTreeMap<GroupId, Running>,
    /// Ranges whose merges were refused since, and until when they rest.
    refused: Vec<(GroupId, Mono)>,
    /// The cluster understands merges.
    can_merge: bool,
    /// The wishes are to be read again.
    is_wish_due: bool,
    can_move_cores: bool,
    errands: BTreeMap<u64, Errand>,
    next_errand: u64,
    plans_from: Mono,
    /// What is known of the ranges. `None`: a plan is being made of it.
    planning: Option<Box<Planning>>,
    /// It is to be taken, and a plan made.
    is_planning_due: bool,
    /// Something has changed since the newest plan.
    is_stale: bool,
    map_version: u64,
    /// The newest plan, and what it was made from.
    newest: Made,
}

impl Placement {
    /// Placement that does nothing before its core leads the meta group.
    #[must_use]
    pub fn new(parts: PlacementParts) -> Self {
        Self {
            parts,
            leads_since: None,
            reports: Vec::new(),
            wishes: Wishes::default(),
            knows_wishes: false,
            reader: Reader::default(),
            tasks: BTreeMap::new(),
            refused: Vec::new(),
            can_merge: false,
            is_wish_due: false,
            can_move_cores: false,
            errands: BTreeMap::new(),
            next_errand: 0,
            plans_from: Mono(0),
            planning: Some(Box::default()),
            is_planning_due: false,
            is_stale: true,
            map_version: 0,
            newest: Made::default(),
        }
    }

    /// This core does not lead the meta group: what was known of the cluster is no longer.
    pub fn rest(&mut self) {
        if self.leads_since.is_some() {
            *self = Self { next_errand: self.next_errand, ..Self::new(self.parts.clone()) };
        }
    }

    /// These are the nodes from now on.
    pub fn set_nodes(&mut self, nodes: &[NodeEntry]) {
        self.is_stale = true;
        nodes.clone_into(&mut self.parts.nodes);
    }

    /// The cluster is at this feature level.
    pub fn set_feature_level(&mut self, level: FeatureLevel) {
        self.can_merge = level >= FeatureLevel::MERGES;
        self.can_move_cores = level >= FeatureLevel::CORE_MOVES;
    }

    /// Takes note of how ranges are.
    pub fn take_reports(&mut self, reports: Vec<RangeReport>) {
        self.is_stale |= !reports.is_empty();
        self.reports.extend(reports);
    }

    /// What is planned and done, or why the replicas of a group are where they are.
    #[must_use]
    pub fn explain(&self, group: u64) -> String {
        let Made { view, plan } = &self.newest;
        if view.ranges.is_empty() {
            return "placement has not looked yet: ask again in some seconds\n".to_owned();
        }
        if group > 0 {
            let explained = explain(view, GroupId(group));
            return explained
                .map_or_else(|| format!("there is no range {group}\n"), |all| all.to_string());
        }
        let under_way = self.tasks.values().map(|running| format!("under way: {}\n", running.task));
        let mut text: String = under_way.collect();
        if self.parts.moves_max == 0 {
            text.push_str("nothing is carried out: placement_moves_max is 0\n");
        }
        text + &plan.to_string()
    }

    /// Answers an order that a shard hands on: the meta group's leader in a term. `None`: it leads no more since it took
    /// the order. Whoever reports goes by the term, so it must be that in which this was told, and no later one.
    ///
    /// # Errors
    /// When it does not lead.
    ///
    /// # Panics
    /// For an order that a shard answers by itself.
    pub fn answer(&mut self, order: Order, leads_in: Option<Term>) -> Outcome {
        let term = leads_in.ok_or(Refusal::NotLeader { leader: None })?;
        match order {
            Order::Report { ranges } => {
                self.take_reports(ranges);
                Ok(Reply::Int(i64::try_from(term.get()).unwrap_or(i64::MAX)))
            }
            Order::Explain { group } => Ok(Reply::Bulk(self.explain(group).into())),
            Order::Split { .. }
            | Order::Place { .. }
            | Order::Transfer { .. }
            | Order::Merge { .. }
            | Order::MoveCore { .. } => unreachable!("the shard answers these"),
        }
    }

    /// Whether it plans and finds nothing to do now, nor has anything under way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let Made { view, plan: Plan { tasks, waiting, .. } } = &self.newest;
        !view.ranges.is_empty() && self.tasks.is_empty() && tasks.is_empty() && *waiting == 0
    }

    /// Goes on; gives the requests that are to be sent, with their names. A plan may be to be made.
    pub fn go_on(
        &mut self,
        now: Mono,
        map: &SharedMap,
        support: &SharedSupport,
    ) -> Vec<(u64, GroupId, Request)> {
        let since = *self.leads_since.get_or_insert(now);
        let mut requests = Vec::new();
        if now >= self.plans_from {
            self.plans_from = now + PLAN_INTERVAL;
            if self.knows_wishes
                && now.since(since) >= FIRST_LOOK
                && self.is_plan_due(now, map, support, since)
            {
                self.plan_anew(now, map, support, since);
            }
            self.is_wish_due = true;
        }
        let is_asking = self.is_under_way(Errand::Wishes);
        if (self.is_wish_due || self.reader.is_reading()) && !is_asking {
            self.is_wish_due = false;
            let request = self.reader.request();
            requests.push((self.errand(Errand::Wishes), GroupId::META, request));
        }
        self.tasks.retain(|_, running| now.since(running.begun) < TASK_MAX);
        let due = |running: &Running| !running.is_asked && now >= running.rests_until;
        let due: Vec<GroupId> =
            self.tasks.iter().filter(|(_, running)| due(running)).map(|(g, _)| *g).collect();
        for group in due {
            let name = self.errand(Errand::Step(group));
            let Some(running) = self.tasks.get_mut(&group) else { continue };
            running.is_asked = true;
            let request = Request::one(Command::Order(running.order.clone()));
            requests.push((name, running.group, request));
        }
        requests
    }

    fn errand(&mut self, errand: Errand) -> u64 {
        self.next_errand += 1;
        self.errands.insert(self.next_errand, errand);
        self.next_errand
    }

    fn is_under_way(&self, errand: Errand) -> bool {
        self.errands.values().any(|under_way| *under_way == errand)
    }

    /// A plan that is to be made, and then to be [told](Self::planned).
    pub fn take_planning(&mut self) -> Option<Box<Planning>> {
        std::mem::take(&mut self.is_planning_due).then(|| self.planning.take()).flatten()
    }

    /// A plan is made, which took some time. Gives the one before, to be dropped wherever there is time for that, too.
    pub fn planned(
        &mut self,
        now: Mono,
        mut planning: Box<Planning>,
        took: Duration,
        map: &RangeMap,
    ) -> Made {
        let made = planning.made.take();
        if self.errands.remove(&planning.name) != Some(Errand::Plan) {
            return made.unwrap_or_default(); // of an earlier time of leading
        }
        self.planning = Some(planning);
        self.plans_from = self.plans_from.max(now + took * REST_FACTOR);
        let Some(made) = made else {
            self.is_stale = true;
            return Made::default();
        };
        let before = std::mem::replace(&mut self.newest, made);
        self.take_up_tasks(now, map);
        before
    }

    fn take_up_tasks(&mut self, now: Mono, map: &RangeMap) {
        if self.parts.moves_max == 0 {
            return;
        }
        for task in &self.newest.plan.tasks {
            // Of a range that has changed since it says nothing.
            let is_as_planned =
                map.group(task.group).is_some_and(|range| range.epoch == task.epoch);
            let Some((group, order)) = self.order_of(task, map).filter(|_| is_as_planned) else {
                continue;
            };
            tracing::info!("placement: {task}");
            let (begun, rests_until, task) = (now, now, task.clone());
            let running = Running { task, group, order, begun, is_asked: false, rests_until };
            let task = &running.task;
            self.tasks.insert(task.group, running);
        }
    }

    /// What became of a request.
    pub fn outcome(&mut self, now: Mono, name: u64, outcome: &Outcome) {
        match self.errands.remove(&name) {
            Some(Errand::Wishes) => {
                if let Ok(reply) = outcome
                    && let Some(found) = self.reader.take(reply)
                {
                    self.is_stale |= found != self.wishes;
                    (self.wishes, self.knows_wishes) = (found, true);
                }
            }
            Some(Errand::Step(group)) => {
                let Some(running) = self.tasks.get_mut(&group) else { return };
                // A transfer is done once it was asked for: the next plan sees who leads. A merge is ordered
                // once, and so is a cut: what has changed since is planned anew.
                let is_once = match running.task.action {
                    Action::Transfer { .. } | Action::Split(_) => true,
                    Action::Merge { .. } => outcome.is_ok(),
                    // The node may have other cores by now.
                    Action::MoveCore { .. } => matches!(outcome, Ok(Reply::Error(_))),
                    Action::Add { .. } | Action::Replace { .. } | Action::Remove { .. } => false,
                };
                if let (Action::Merge { right, .. }, Ok(Reply::Error(error))) =
                    (running.task.action, outcome)
                {
                    tracing::info!("placement: refused ({error:?}): {}", running.task);
                    // By what is told of them they would fit: nothing says when they will.
                    self.refused.push((right, now + REFUSED_REST));
                }
                if *outcome == Ok(Reply::Ok) || is_once {
                    tracing::info!("placement: done: {}", running.task);
                    self.tasks.remove(&group);
                    self.is_stale = true;
                } else {
                    running.is_asked = false;
                    running.rests_until = now + STEP_REST;
                }
            }
            Some(Errand::Plan) | None => {} // of an earlier time of leading
        }
    }

    /// Whether a plan could be another one than the newest. What waits for time to pass, or for others, is
    /// looked at each time.
    fn is_plan_due(
        &mut self,
        now: Mono,
        map: &RangeMap,
        support: &SharedSupport,
        since: Mono,
    ) -> bool {
        let Some(planning) = &self.planning else { return false };
        let is_rested = planning.rested_at.is_some_and(|at| now >= at);
        let is_new_map = std::mem::replace(&mut self.map_version, map.version()) != map.version();
        let was_stale = std::mem::take(&mut self.is_stale);
        let nodes = self.parts.nodes.iter();
        let is_down = |node: NodeId| self.silence(node, now, support, since) >= SILENCE;
        let Plan { waiting, blocked, .. } = &self.newest.plan;
        let waits = *waiting > 0 || !blocked.is_empty();
        was_stale
            || is_new_map
            || waits
            || is_rested
            || !self.tasks.is_empty()
            || nodes.map(|node| node.id).any(is_down)
    }

    /// For how long nothing was heard of a node.
    fn silence(&self, node: NodeId, now: Mono, support: &SharedSupport, since: Mono) -> Duration {
        if node == self.parts.node {
            return Duration::ZERO;
        }
        now.since(support.heard_at(node).unwrap_or(since))
    }

    fn plan_anew(&mut self, now: Mono, map: &SharedMap, support: &SharedSupport, since: Mono) {
        // A range that was merged since can not be asked for anything.
        self.tasks.retain(|group, _| map.group(*group).is_some());
        self.give_up_tasks_of_lost_nodes(now, support, since);
        self.give_up_misled_tasks(map);
        let asked = Asked {
            now,
            map: SharedMap::clone(map),
            nodes: self.nodes(now, support, since),
            settings: self.settings(),
            wishes: self.wishes.clone(),
            under_way: self.tasks.values().map(|running| running.task.clone()).collect(),
            replicas: self.parts.replicas,
            merge_rest: self.parts.merge_rest,
            reports: std::mem::take(&mut self.reports),
            refused: std::mem::take(&mut self.refused),
            is_late: now.since(since) >= REPORTS_WAIT,
        };
        let name = self.errand(Errand::Plan);
        let planning = self.planning.as_mut().expect("invariant: no plan is being made");
        (planning.name, planning.asked) = (name, asked);
        self.is_planning_due = true;
    }

    /// What an abandoned move had left only learns: a task that took it for a voter, because that was told later, would
    /// make it one, and wait for it for as long as its node may be away.
    fn give_up_misled_tasks(&mut self, map: &RangeMap) {
        let Some(known) = &self.planning else { return };
        self.tasks.retain(|group, running| {
            let Order::Place { voters } = &running.order else { return true };
            let Some(range) = map.group(*group) else { return false };
            let target = match running.task.action {
                Action::Add { to } | Action::Replace { to, .. } => Some(to.node),
                Action::Remove { .. }
                | Action::Transfer { .. }
                | Action::Split(_)
                | Action::Merge { .. }
                | Action::MoveCore { .. } => None,
            };
            let mut others = voters.iter().map(|node| NodeId(*node)).filter(|n| Some(*n) != target);
            let is_misled = others.any(|node| known.learns(&range, node));
            if is_misled {
                tracing::info!("placement: given up, a voter of it only learns: {}", running.task);
            }
            !is_misled
        });
    }

    /// What was to go to a node that has gone silent since, or is drained or removed, is planned anew: the range may
    /// need another one, and a node that is to be replaced may be one that never gets the replica.
    fn give_up_tasks_of_lost_nodes(&mut self, now: Mono, support: &SharedSupport, since: Mono) {
        let mut tasks = std::mem::take(&mut self.tasks);
        tasks.retain(|_, running| {
            let target = match running.task.action {
                Action::Add { to } | Action::Replace { to, .. } => Some(to.node),
                Action::Transfer { to, .. } => Some(to),
                Action::MoveCore { node, .. } => Some(node),
                Action::Remove { .. } | Action::Split(_) | Action::Merge { .. } => None,
            };
            let is_unfit = |node: NodeId| {
                self.silence(node, now, support, since) >= SILENCE
                    || self.wishes.duties.get(&node).is_some_and(|duty| *duty != Duty::default())
            };
            let is_lost = target.is_some_and(is_unfit);
            if is_lost {
                let task = &running.task;
                tracing::info!("placement: given up, its target is silent or drained: {task}");
            }
            !is_lost
        });
        self.tasks = tasks;
    }

    fn nodes(&self, now: Mono, support: &SharedSupport, since: Mono) -> Vec<Node> {
        let nodes = self.parts.nodes.iter().map(|node| {
            let silence = self.silence(node.id, now, support, since);
            let down_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
            let down_since = WallMs((now.0 / 1000).saturating_sub(down_ms));
            Node {
                id: node.id,
                cores: cores_of(node, support),
                capacity_bytes: capacities::of(&self.wishes.capacities, node.id),
                zone: node.zone.clone(),
                down_since: (silence >= SILENCE).then_some(down_since),
                duty: self.wishes.duties.get(&node.id).copied().unwrap_or_default(),
            }
        });
        nodes.collect()
    }

    /// What is carried out otherwise, or not yet, is not planned either.
    fn settings(&self) -> Settings {
        let gone_after_ms = u64::try_from(self.parts.gone_after.as_millis()).unwrap_or(u64::MAX);
        let merge_rest_ms = u64::try_from(self.parts.merge_rest.as_millis()).unwrap_or(u64::MAX);
        let merges = self.can_merge && merge_rest_ms > 0;
        let SplitSettings { bytes, keys, requests_per_s, .. } = self.parts.splits;
        Settings {
            gone_after_ms,
            moves_max: self.parts.moves_max.max(1),
            core_moves_per_node_max: usize::from(self.can_move_cores),
            core_slack_percent: CORE_SLACK_PERCENT,
            align_percent: 0,
            reshapes_max: RESHAPES_MAX,
            plans_merges: merges,
            plans_splits: false,
            split_bytes: bytes,
            split_keys: keys,
            split_load_per_s: requests_per_s,
            merge_bytes_max: self.parts.merge_bytes_max,
            merge_rest_ms,
            ..Settings::default()
        }
    }

    /// The group whose leader is to be asked for a task, and the order; `None` for what is not carried out by
    /// orders.
    fn order_of(&self, task: &Task, map: &RangeMap) -> Option<(GroupId, Order)> {
        let range = map.group(task.group)?;
        // What a move that was given up has left only learns: it is none of the voters that stay.
        let known = self.planning.as_ref();
        let learns = |node: &NodeId| known.is_some_and(|known| known.learns(&range, *node));
        let members = range.replicas.iter().map(|at| at.node).filter(|node| !learns(node));
        let voters = |gone: Option<NodeId>, new: Option<NodeId>| {
            let stay = members.clone().filter(|node| Some(*node) != gone && Some(*node) != new);
            let voters = stay.chain(new).map(NodeId::get).collect();
            Some((task.group, Order::Place { voters }))
        };
        match task.action {
            Action::Add { to } => voters(None, Some(to.node)),
            Action::Replace { from, to } => voters(Some(from.node), Some(to.node)),
            Action::Remove { from } => voters(Some(from.node), None),
            Action::Transfer { to, .. } => Some((task.group, Order::Transfer { to: to.get() })),
            Action::Merge { right, .. } => {
                let start = Bytes::copy_from_slice(map.group(right)?.start);
                let (into_start, into_epoch) = (Bytes::copy_from_slice(range.start), range.epoch);
                Some((right, Order::Merge { start, into_start, into_epoch }))
            }
            Action::Split(SplitAt::Border) => {
                let replicas = self.parts.replicas;
                let at = self.wishes.rules.of_range(range.start, range.end, replicas).border?;
                Some((task.group, Order::Split { at }))
            }
            Action::MoveCore { node, to, .. } => {
                Some((task.group, Order::MoveCore { node: node.get(), core: to.get() }))
            }
            Action::Split(SplitAt::HalfOfBytes | SplitAt::HalfOfLoad) => None,
        }
    }
}

/// The cores that a node has by now, as far as it was heard from.
fn cores_of(node: &NodeEntry, support: &SharedSupport) -> u16 {
    let heard =
        if node.id == support.node() { support.cores() } else { support.peer_cores(node.id) };
    if heard == 0 { node.cores } else { heard }
}

#[cfg(test)]
mod tests {
    use oarlock_placement::{ReplicaRole, View, plan};
    use oarlock_shard::SupportTable;
    use oarlock_shard::support_table::TableConfig;
    use oarlock_types::{Incarnation, RangeDescriptor, RangeMap, range_map};

    use super::*;
    use crate::duties;
    use crate::rules::{self, Rule};

    const NODES: [(NodeId, u16); 4] =
        [(NodeId(1), 1), (NodeId(2), 1), (NodeId(3), 1), (NodeId(4), 1)];

    fn second(number: u64) -> Mono {
        Mono(number * 1_000_000)
    }

    fn node(id: NodeId, cores: u16) -> NodeEntry {
        let address = ([127, 0, 0, 1], 1).into();
        let (core_ports, zone) = (Vec::new(), String::new());
        NodeEntry { id, peer_address: address, client_address: address, cores, core_ports, zone }
    }

    fn parts(moves_max: usize) -> PlacementParts {
        let gone_after = Duration::from_secs(3600);
        PlacementParts {
            node: NodeId(1),
            nodes: NODES.iter().map(|(id, cores)| node(*id, *cores)).collect(),
            replicas: 3,
            moves_max,
            gone_after,
            splits: SplitSettings::default(),
            merge_bytes_max: 512 << 10,
            merge_rest: Duration::from_secs(10),
        }
    }

    #[test]
    fn nodes_count_with_the_cores_that_were_heard_of() {
        let peers = [(NodeId(2), 3), (NodeId(3), 0)];
        let table = SharedSupport::new(SupportTable::new(&TableConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            cores: 4,
            cores_max: 8,
            origin: Mono(0),
            peers: &peers,
        }));
        let cores = |id| cores_of(&node(NodeId(id), 2), &table);
        assert_eq!([1, 2, 3].map(cores), [4, 3, 2]);
        assert!(table.learn_cores(NodeId(3), 5));
        assert_eq!(cores(3), 5);
    }

    /// Node 1, which has heard of all others at this moment.
    fn support() -> SharedSupport {
        let peers: Vec<(NodeId, u16)> = NODES[1..].to_vec();
        SharedSupport::new(SupportTable::new(&TableConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            cores: 1,
            cores_max: 1,
            origin: Mono(0),
            peers: &peers,
        }))
    }

    /// One range, and the meta group, each led by its first replica; all of it was told.
    fn told(placement: &mut Placement, map: &RangeMap) {
        let meta = map.group(GroupId::META).into_iter();
        let report = |range: range_map::Range<'_>| RangeReport {
            group: range.group.get(),
            term: 1,
            leader: range.replicas[0].node.get(),
            ..RangeReport::default()
        };
        placement.take_reports(meta.chain(map.ranges()).map(report).collect());
    }

    /// What the meta group answers: pairs of keys and values.
    fn wishes(duties: Vec<Reply>, capacities: Vec<Reply>, rules: Vec<Reply>) -> Outcome {
        Ok(Reply::Array([duties, capacities, rules].map(Reply::Array).to_vec()))
    }

    fn drained(node: u64) -> Outcome {
        let key = duties::key(NodeId(node));
        let value = Bytes::from_static(duties::DRAINING);
        wishes(vec![Reply::Bulk(key), Reply::Bulk(value)], Vec::new(), Vec::new())
    }

    /// Goes on until the requests are for other groups than the meta group's duties.
    fn orders(
        placement: &mut Placement,
        map: &SharedMap,
        duties: &Outcome,
        seconds: std::ops::Range<u64>,
    ) -> Vec<(u64, GroupId, Order)> {
        let support = support();
        let mut orders = Vec::new();
        for now in seconds.map(second) {
            for (name, group, request) in step(placement, now, map, &support) {
                match request.commands.as_slice() {
                    [Command::Order(order)] => orders.push((name, group, order.clone())),
                    _ => placement.outcome(now, name, duties),
                }
            }
        }
        orders
    }

    /// One step; what is to be planned is planned at once.
    fn step(
        placement: &mut Placement,
        now: Mono,
        map: &SharedMap,
        support: &SharedSupport,
    ) -> Vec<(u64, GroupId, Request)> {
        let mut requests = placement.go_on(now, map, support);
        if let Some(mut planning) = placement.take_planning() {
            planning.make();
            placement.planned(now, planning, Duration::ZERO, map);
            requests.extend(placement.go_on(now, map, support));
        }
        requests
    }

    fn formed() -> SharedMap {
        SharedMap::new(RangeMap::formation(&NODES, &[Bytes::from_static(b"m")], 3).unwrap())
    }

    /// What a plan of this second is made from.
    fn look(placement: &mut Placement, at: u64, map: &SharedMap) -> View {
        placement.plan_anew(second(at), map, &support(), second(at));
        let mut planning = placement.take_planning().unwrap();
        planning.make();
        placement.planned(second(at), planning, Duration::ZERO, map);
        std::mem::take(&mut placement.newest.view)
    }

    #[test]
    fn nothing_is_planned_onto_nodes_that_nobody_hears_of() {
        let (map, duties) = (formed(), drained(2));
        let mut placement = Placement::new(parts(8));
        told(&mut placement, &map);
        // The others have not been heard of, and count as up for two seconds.
        placement.leads_since = Some(second(9));
        placement.plans_from = second(9);
        let first = orders(&mut placement, &map, &duties, 9..14);
        assert!(first.is_empty(), "nobody is up but this node: {first:?}");
        assert!(placement.explain(0).contains("can not"), "{}", placement.explain(0));
    }

    #[test]
    fn an_order_names_the_voters_that_stay_and_the_new_one() {
        let map = formed();
        let range = map.ranges().next().unwrap();
        let at = |place: usize| range.replicas[place];
        let new =
            NODES.iter().map(|(node, _)| *node).find(|n| range.core_on(*n).is_none()).unwrap();
        let to = oarlock_types::CoreAddr::new(new, oarlock_types::CoreId(0));
        let order = |action| {
            let (group, epoch) = (range.group, range.epoch);
            let reason = oarlock_placement::Reason::Draining(NodeId(2));
            let task = Task { group, epoch, action, reason };
            Placement::new(parts(8)).order_of(&task, &map).map(|(_, order)| order)
        };
        let voters = |nodes: &[NodeId]| {
            Some(Order::Place { voters: nodes.iter().map(|node| node.get()).collect() })
        };
        let [a, b, c] = [at(0).node, at(1).node, at(2).node];
        assert_eq!(order(Action::Replace { from: at(1), to }), voters(&[a, c, new]));
        assert_eq!(order(Action::Remove { from: at(0) }), voters(&[b, c]));
        assert_eq!(order(Action::Add { to }), voters(&[a, b, c, new]));
        let transfer = Action::Transfer { from: a, to: b };
        assert_eq!(order(transfer), Some(Order::Transfer { to: b.get() }));
        let (from, to) = (oarlock_types::CoreId(0), oarlock_types::CoreId(1));
        let moved = order(Action::MoveCore { node: c, from, to });
        assert_eq!(moved, Some(Order::MoveCore { node: c.get(), core: 1 }));
        assert_eq!(order(Action::Split(oarlock_placement::SplitAt::HalfOfBytes)), None);
    }

    /// Placement that leads and was told of all ranges and these wishes, at this second.
    fn told_of(map: &SharedMap, wishes: &Outcome, at: u64) -> Placement {
        let mut placement = Placement::new(parts(8));
        told(&mut placement, map);
        let requests = step(&mut placement, second(at), map, &support());
        let [(name, GroupId::META, request)] = requests.as_slice() else { panic!("{requests:?}") };
        assert!(request.is_read() && request.transaction);
        placement.outcome(second(at), *name, wishes);
        placement
    }

    fn written(rule: &Rule) -> [Reply; 2] {
        [Reply::Bulk(rules::key(&rule.start)), Reply::Bulk(rule.write().into())]
    }

    #[test]
    fn what_is_wanted_for_keys_and_told_by_nodes_is_planned_by() {
        let map = formed();
        let five = Rule {
            start: Bytes::from_static(b"m"),
            replicas: Some(5),
            leader_zone: Some("east".to_owned()),
            ..Rule::default()
        };
        let capacity = |node: u64, bytes: &'static str| {
            let key = Bytes::from(format!("capacity/{node}"));
            [Reply::Bulk(key), Reply::Bulk(Bytes::from_static(bytes.as_bytes()))]
        };
        let capacities = [capacity(1, "4000"), capacity(2, "2000")].concat();
        let wishes = wishes(Vec::new(), capacities, written(&five).to_vec());
        let mut placement = told_of(&map, &wishes, 1);
        let view = look(&mut placement, 1, &map);
        let capacities: Vec<u64> = view.nodes.iter().map(|node| node.capacity_bytes).collect();
        assert_eq!(capacities, [4000, 2000, 3000, 3000], "of two nothing is known");
        let [meta, left, right] = view.ranges.as_slice() else { panic!("{:?}", view.ranges) };
        for plain in [meta, left] {
            assert_eq!((plain.rules.replicas, &plain.rules_of, &plain.border), (3, &None, &None));
        }
        assert_eq!((right.rules.replicas, right.rules.leader_zone.as_deref()), (5, Some("east")));
        assert_eq!(right.rules_of.as_deref(), Some(r#"keys from "m" on"#));
    }

    #[test]
    fn nothing_is_planned_before_it_is_known_what_is_wanted() {
        let map = formed();
        let mut placement = Placement::new(parts(8));
        told(&mut placement, &map);
        let mut asked = Vec::new();
        for now in (1..30).map(second) {
            for (name, _, request) in step(&mut placement, now, &map, &support()) {
                assert!(request.is_read(), "{request:?}");
                placement.outcome(now, name, &Err(oarlock_codec::Refusal::NoQuorum));
                asked.push(name);
            }
        }
        assert!(asked.len() > 20, "it is asked again and again");
        assert!(placement.explain(0).contains("has not looked yet"));
        let name = asked.len() as u64 + 1;
        let [(named, ..)] = &step(&mut placement, second(30), &map, &support())[..] else {
            panic!("the wishes are asked for");
        };
        assert_eq!(*named, name);
        placement.outcome(second(30), name, &wishes(Vec::new(), Vec::new(), Vec::new()));
        step(&mut placement, second(31), &map, &support());
        assert!(!placement.explain(0).contains("has not looked yet"));
    }

    #[test]
    fn a_range_is_cut_once_where_a_rule_begins_and_the_meta_group_never() {
        let map = formed();
        let inside = |start: &'static str, end: &'static str| Rule {
            start: Bytes::from_static(start.as_bytes()),
            end: Some(Bytes::from_static(end.as_bytes())),
            replicas: Some(1),
            ..Rule::default()
        };
        let rules = [inside("p", "t"), inside("map", "map0")];
        let rules = rules.iter().flat_map(written).collect();
        let mut placement = told_of(&map, &wishes(Vec::new(), Vec::new(), rules), 1);
        // None but this node was heard of for long: what is ordered is seen without a plan.
        let view = look(&mut placement, 1, &map);
        placement.tasks.clear();
        let border = |at: usize| view.ranges[at].border.as_deref();
        assert_eq!([0, 1, 2].map(border), [None, None, Some(&b"map"[..])]);
        let range = map.ranges().nth(1).unwrap();
        let reason = oarlock_placement::Reason::Border(b"map".to_vec());
        let action = Action::Split(SplitAt::Border);
        let task = Task { group: range.group, epoch: range.epoch, action, reason };
        let (group, order) = placement.order_of(&task, &map).unwrap();
        assert_eq!(
            (group, &order),
            (range.group, &Order::Split { at: Bytes::from_static(b"map") })
        );
        // Whatever comes of it, the next plan looks anew: it may have been cut already.
        let (begun, rests_until) = (second(1), second(1));
        let running = Running { task, group, order, begun, is_asked: true, rests_until };
        placement.tasks.insert(group, running);
        let name = placement.errand(Errand::Step(group));
        let refused = Reply::Error(oarlock_store::ErrorReply::NothingToSplit);
        placement.outcome(second(1), name, &Ok(refused));
        assert!(placement.tasks.is_empty() && placement.is_stale);
    }

    #[test]
    fn a_merge_is_ordered_of_the_right_one_for_the_left_ones_version() {
        let map = formed();
        let ranges: Vec<_> = map.ranges().take(2).collect();
        let (left, right) = (ranges[0], ranges[1]);
        let action = Action::Merge { right: right.group, right_epoch: right.epoch };
        let reason = oarlock_placement::Reason::Small(right.group, 0, 0);
        let task = Task { group: left.group, epoch: left.epoch, action, reason };
        let [start, into_start] = [right.start, left.start].map(Bytes::copy_from_slice);
        let order = Order::Merge { start, into_start, into_epoch: left.epoch };
        assert_eq!(Placement::new(parts(8)).order_of(&task, &map), Some((right.group, order)));
    }

    #[test]
    fn ranges_merge_once_they_have_rested_and_all_nodes_understand_it() {
        let points: Vec<Bytes> = (1..40).map(|place| Bytes::from(vec![place * 6])).collect();
        let map = SharedMap::new(RangeMap::formation(&NODES, &points, 3).unwrap());
        let mut placement = Placement::new(parts(8));
        told(&mut placement, &map);
        let mut merges = |second_number: u64, level: FeatureLevel| {
            placement.set_feature_level(level);
            placement.tasks.clear();
            let view = look(&mut placement, second_number, &map);
            let tasks = plan(&view).tasks.into_iter();
            tasks.filter(|task| matches!(task.action, Action::Merge { .. })).count()
        };
        assert_eq!(merges(1, FeatureLevel::MERGES), 0, "they are new to it");
        assert_eq!(merges(10, FeatureLevel::MERGES), 0);
        assert_eq!(merges(12, FeatureLevel::FIRST), 0);
        assert_eq!(merges(12, FeatureLevel::MERGES), RESHAPES_MAX);
    }

    #[test]
    fn a_move_to_a_node_that_has_died_since_does_not_hold_up_its_range() {
        let map = formed();
        let mut placement = Placement::new(parts(8));
        told(&mut placement, &map);
        placement.leads_since = Some(second(1));
        let range = map.ranges().next().unwrap();
        let to = oarlock_types::CoreAddr::new(NodeId(4), oarlock_types::CoreId(0));
        let mut begin = |group: GroupId, action: Action| {
            let reason = oarlock_placement::Reason::Draining(NodeId(2));
            let task = Task { group, epoch: range.epoch, action, reason };
            let (group, order) = placement.order_of(&task, &map).unwrap();
            let (begun, rests_until) = (second(1), second(1));
            let running = Running { task, group, order, begun, is_asked: true, rests_until };
            placement.tasks.insert(group, running);
        };
        let from = range.replicas[1];
        begin(range.group, Action::Replace { from, to });
        begin(
            GroupId::META,
            Action::Remove { from: map.group(GroupId::META).unwrap().replicas[0] },
        );
        let support = support();
        // Nobody has been heard of, which counts from when this node came to lead.
        placement.give_up_tasks_of_lost_nodes(second(2), &support, second(1));
        assert_eq!(placement.tasks.len(), 2, "silent for a second only");
        placement.give_up_tasks_of_lost_nodes(second(3), &support, second(1));
        let left: Vec<GroupId> = placement.tasks.keys().copied().collect();
        assert_eq!(left, [GroupId::META], "what needs no target goes on");
    }

    /// A node that may have lost replicas which nobody can name is drained, and gets none.
    #[test]
    fn a_move_to_a_node_that_is_drained_since_is_given_up() {
        let map = formed();
        let range = map.ranges().next().unwrap();
        let from = range.replicas[1];
        let to = oarlock_types::CoreAddr::new(NodeId(4), oarlock_types::CoreId(0));
        for (drained_node, is_given_up) in [(from.node.get(), false), (4, true)] {
            let mut placement = told_of(&map, &drained(drained_node), 1);
            let (group, epoch) = (range.group, range.epoch);
            let reason = oarlock_placement::Reason::Draining(from.node);
            let task = Task { group, epoch, action: Action::Replace { from, to }, reason };
            let (group, order) = placement.order_of(&task, &map).unwrap();
            let (begun, rests_until) = (second(1), second(1));
            let running = Running { task, group, order, begun, is_asked: true, rests_until };
            placement.tasks.insert(group, running);
            placement.give_up_tasks_of_lost_nodes(second(2), &support(), second(2));
            assert_eq!(placement.tasks.is_empty(), is_given_up, "n{drained_node} is drained");
        }
    }

    #[test]
    fn who_only_learns_is_no_voter_and_is_asked_to_be_none() {
        let map = formed();
        let mut placement = Placement::new(parts(8));
        told(&mut placement, &map);
        let range = map.ranges().next().unwrap();
        let [a, b, c] = [0, 1, 2].map(|place: usize| range.replicas[place]);
        let mut report =
            placement.reports.iter().find(|r| r.group == range.group.get()).unwrap().clone();
        let as_of = |index: u64| index | RangeReport::AS_OF;
        let learns = c.node.get() | RangeReport::LEARNS;
        report.lagging = vec![c.node.get(), learns, as_of(range.configured.get() + 1)];
        let mut roles = |report: &RangeReport| {
            placement.take_reports(vec![report.clone()]);
            let view = look(&mut placement, 1, &map);
            let seen = view.ranges.into_iter().find(|seen| seen.group == range.group).unwrap();
            seen.replicas.iter().map(|replica| replica.role).collect::<Vec<_>>()
        };
        assert_eq!(roles(&report), [ReplicaRole::Voter; 3], "of another entry");
        report.lagging = vec![c.node.get(), learns, as_of(range.configured.get())];
        assert_eq!(roles(&report), [ReplicaRole::Voter, ReplicaRole::Voter, ReplicaRole::Learner]);
        let reason = oarlock_placement::Reason::Leftover(c.node);
        let (group, epoch) = (range.group, range.epoch);
        let task = Task { group, epoch, action: Action::Remove { from: c }, reason };
        let voters = vec![a.node.get(), b.node.get()];
        assert_eq!(placement.order_of(&task, &map), Some((group, Order::Place { voters })));
    }

    /// That a member only learns may be told after a task was begun that takes it for a voter.
    #[test]
    fn a_task_that_would_make_a_leftover_a_voter_is_given_up() {
        let map = formed();
        let mut placement = Placement::new(parts(8));
        told(&mut placement, &map);
        let range = map.ranges().next().unwrap();
        let [a, b, c] = [0, 1, 2].map(|place: usize| range.replicas[place]);
        let (group, epoch) = (range.group, range.epoch);
        let reason = oarlock_placement::Reason::Draining(a.node);
        let task = Task { group, epoch, action: Action::Remove { from: a }, reason };
        let begin = |placement: &mut Placement| {
            placement.tasks.clear();
            let (group, order) = placement.order_of(&task, &map).unwrap();
            let (begun, rests_until) = (second(1), second(1));
            let (task, order) = (task.clone(), order.clone());
            let running = Running { task, group, order, begun, is_asked: true, rests_until };
            placement.tasks.insert(group, running);
        };
        begin(&mut placement);
        placement.give_up_misled_tasks(&map);
        let order = Order::Place { voters: vec![b.node.get(), c.node.get()] };
        assert_eq!(placement.tasks[&group].order, order, "nothing speaks against it");
        let mut report =
            placement.reports.iter().find(|r| r.group == range.group.get()).unwrap().clone();
        report.lagging =
            vec![c.node.get() | RangeReport::LEARNS, range.configured.get() | RangeReport::AS_OF];
        placement.take_reports(vec![report]);
        look(&mut placement, 1, &map);
        placement.tasks.retain(|_, running| running.task == task);
        placement.give_up_misled_tasks(&map);
        assert!(placement.tasks.is_empty());
        begin(&mut placement);
        assert_eq!(placement.tasks[&group].order, Order::Place { voters: vec![b.node.get()] });
        placement.give_up_misled_tasks(&map);
        assert_eq!(placement.tasks.len(), 1, "it takes nobody for what it is not");
    }

    /// A task of a range and its neighbour, which is being asked for under this name.
    fn merging(placement: &mut Placement, map: &RangeMap, name: u64) -> (GroupId, GroupId) {
        let ranges: Vec<_> = map.ranges().take(2).collect();
        let (left, right) = (ranges[0], ranges[1]);
        let action = Action::Merge { right: right.group, right_epoch: right.epoch };
        let reason = oarlock_placement::Reason::Small(right.group, 0, 0);
        let task = Task { group: left.group, epoch: left.epoch, action, reason };
        let (group, order) = placement.order_of(&task, map).unwrap();
        let (begun, rests_until) = (second(1), second(1));
        let running = Running { task, group, order, begun, is_asked: true, rests_until };
        placement.tasks.insert(left.group, running);
        placement.errands.insert(name, Errand::Step(left.group));
        (left.group, right.group)
    }

    #[test]
    fn a_merge_that_was_refused_is_not_ordered_again_soon() {
        let map = formed();
        let mut placement = Placement::new(parts(8));
        let (_, right) = merging(&mut placement, &map, 1);
        let refused = Ok(Reply::Error(oarlock_store::ErrorReply::TooLargeToMerge));
        placement.outcome(second(20), 1, &refused);
        assert!(placement.tasks.is_empty());
        assert_eq!(placement.refused, [(right, second(20) + REFUSED_REST)]);
        look(&mut placement, 21, &map);
        assert!(placement.refused.is_empty(), "whoever plans knows it from then on");
    }

    #[test]
    fn the_task_of_a_range_that_is_no_more_is_forgotten() {
        let map = formed();
        let mut placement = Placement::new(parts(0));
        told(&mut placement, &map);
        let (left, _) = merging(&mut placement, &map, 1);
        let support = support();
        placement.plan_anew(second(2), &map, &support, second(1));
        assert_eq!(placement.tasks.keys().copied().collect::<Vec<_>>(), [left]);
        let planning = placement.take_planning().unwrap();
        placement.planned(second(2), planning, Duration::ZERO, &map);
        placement.plan_anew(second(2), &SharedMap::default(), &support, second(1));
        assert!(placement.tasks.is_empty());
    }

    /// What was made of how things were is not carried out where they have changed since, nor by who leads no more.
    #[test]
    fn a_plan_that_comes_late_counts_for_what_has_not_changed() {
        let made = || {
            let map = formed();
            let mut placement = told_of(&map, &drained(2), 1);
            placement.plan_anew(second(9), &map, &support(), second(9));
            let mut planning = placement.take_planning().unwrap();
            planning.make();
            let Made { plan, .. } = planning.made.as_ref().unwrap();
            assert!(!plan.tasks.is_empty(), "{plan}");
            (placement, planning, map)
        };
        let (mut placement, planning, map) = made();
        placement.planned(second(9), planning, Duration::from_secs(1), &map);
        assert!(!placement.tasks.is_empty());
        assert_eq!(placement.plans_from, second(9) + REST_FACTOR * Duration::from_secs(1));
        let (mut placement, planning, map) = made();
        let mut map = RangeMap::clone(&map);
        let newer = map
            .ranges()
            .map(|range| range.to_descriptor())
            .map(|range| RangeDescriptor { epoch: range.epoch.next(), ..range });
        let newer: Vec<RangeDescriptor> = newer.collect();
        map.apply(2, &newer);
        placement.planned(second(9), planning, Duration::ZERO, &map);
        let left: Vec<GroupId> = placement.tasks.keys().copied().collect();
        assert!(left.iter().all(|group| *group == GroupId::META), "{left:?}");
        let (mut placement, planning, map) = made();
        placement.leads_since = Some(second(1));
        placement.rest();
        placement.planned(second(9), planning, Duration::ZERO, &map);
        assert!(placement.tasks.is_empty() && placement.explain(0).contains("has not looked yet"));
    }

    /// Who has stepped down in the turn in which it took a report must not answer by the term of its successor: nobody
    /// would tell that one.
    #[test]
    fn who_has_just_stepped_down_takes_no_report() {
        let mut placement = Placement::new(parts(8));
        let report = || Order::Report { ranges: vec![RangeReport::default()] };
        let refused = Err(Refusal::NotLeader { leader: None });
        assert_eq!(placement.answer(report(), None), refused);
        assert!(placement.reports.is_empty());
        assert_eq!(placement.answer(report(), Some(Term(7))), Ok(Reply::Int(7)));
        assert_eq!(placement.reports.len(), 1);
    }

    #[test]
    fn who_no_longer_leads_forgets_what_it_knew() {
        let map = formed();
        let mut placement = Placement::new(parts(8));
        told(&mut placement, &map);
        placement.leads_since = Some(second(1));
        placement.rest();
        assert!(placement.reports.is_empty() && placement.leads_since.is_none());
        assert!(placement.explain(0).contains("has not looked yet"));
    }
}
