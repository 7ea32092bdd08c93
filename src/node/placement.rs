//! Carries out what placement plans: on the core that leads the meta group, as long as it does. It asks
//! whoever leads a range for the next step of its task, again and again until the task is done.
//!
//! It decides nothing but when to plan: `shards/placement` does. It keeps nothing that must not be lost:
//! another node that comes to lead the meta group plans anew, from how things are by then.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_placement::{
    Action, Duty, LoadSample, Node, Plan, Range, Replica, ReplicaRole, Rules, Settings, Task, View,
    explain, plan,
};
use oarlock_shard::{Outcome, SharedSupport};
use oarlock_store::{Command, Order, RangeReport, Reply, Request};
use oarlock_types::{GroupId, Mono, NodeId, RangeMap, WallMs, range_map};

use super::duties;

/// Between two plans.
const PLAN_INTERVAL: Duration = Duration::from_secs(1);
/// Between two steps of a task.
const STEP_REST: Duration = Duration::from_millis(50);
/// A task that has not come to its end by then is planned anew, if it is still wanted.
const TASK_MAX: Duration = Duration::from_secs(600);
/// A node that was not heard of for so long is down.
const SILENCE: Duration = Duration::from_secs(2);
/// Nothing is planned before so much time has passed since this node came to lead: until then the others
/// tell how their ranges are.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// Bytes of each node's disk, as a weight: all are alike.
const CAPACITY_BYTES: u64 = 1 << 50;

/// What does not change while a node runs.
#[derive(Clone, Debug)]
pub struct PlacementParts {
    /// This node.
    pub node: NodeId,
    /// All nodes, with their cores.
    pub nodes: Vec<(NodeId, u16)>,
    /// Voters of each range.
    pub replicas: u8,
    /// Moves at once; 0: none.
    pub moves_max: usize,
    /// When a silent node's replicas are made anew.
    pub gone_after: Duration,
}

#[derive(Debug)]
struct Running {
    task: Task,
    order: Order,
    begun: Mono,
    /// It is being asked for, or rests until then.
    is_asked: bool,
    rests_until: Mono,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Duties,
    Step(GroupId),
}

/// Placement of one core.
#[derive(Debug)]
pub struct Placement {
    parts: PlacementParts,
    leads_since: Option<Mono>,
    reports: BTreeMap<GroupId, RangeReport>,
    duties: BTreeMap<NodeId, Duty>,
    tasks: BTreeMap<GroupId, Running>,
    errands: BTreeMap<u64, Errand>,
    next_errand: u64,
    planned_at: Mono,
    /// The newest plan, and what it was made from.
    view: View,
    plan: Plan,
}

impl Placement {
    /// Placement that does nothing before its core leads the meta group.
    #[must_use]
    pub fn new(parts: PlacementParts) -> Self {
        Self {
            parts,
            leads_since: None,
            reports: BTreeMap::new(),
            duties: BTreeMap::new(),
            tasks: BTreeMap::new(),
            errands: BTreeMap::new(),
            next_errand: 0,
            planned_at: Mono(0),
            view: View::default(),
            plan: Plan::default(),
        }
    }

    /// This core does not lead the meta group: what was known of the cluster is no longer.
    pub fn rest(&mut self) {
        if self.leads_since.is_some() {
            *self = Self { next_errand: self.next_errand, ..Self::new(self.parts.clone()) };
        }
    }

    /// Takes note of how ranges are.
    pub fn take_reports(&mut self, reports: Vec<RangeReport>) {
        for report in reports {
            let group = GroupId(report.group);
            let known = self.reports.entry(group).or_default();
            if known.term <= report.term {
                *known = report;
            }
        }
    }

    /// What is planned and done, or why the replicas of a group are where they are.
    #[must_use]
    pub fn explain(&self, group: u64) -> String {
        if self.leads_since.is_none_or(|_| self.view.ranges.is_empty()) {
            return "placement has not looked yet: ask again in some seconds\n".to_owned();
        }
        if group > 0 {
            let explained = explain(&self.view, GroupId(group));
            return explained
                .map_or_else(|| format!("there is no range {group}\n"), |all| all.to_string());
        }
        let under_way = self.tasks.values().map(|running| format!("under way: {}\n", running.task));
        let mut text: String = under_way.collect();
        if self.parts.moves_max == 0 {
            text.push_str("nothing is carried out: placement_moves_max is 0\n");
        }
        text + &self.plan.to_string()
    }

    /// Goes on; gives the requests that are to be sent, with their names.
    pub fn go_on(
        &mut self,
        now: Mono,
        map: &RangeMap,
        support: &SharedSupport,
    ) -> Vec<(u64, GroupId, Request)> {
        let since = *self.leads_since.get_or_insert(now);
        let mut requests = Vec::new();
        if now.since(self.planned_at) >= PLAN_INTERVAL {
            self.planned_at = now;
            if now.since(since) >= FIRST_LOOK {
                self.plan_anew(now, map, support, since);
            }
            if !self.errands.values().any(|errand| *errand == Errand::Duties) {
                requests.push((self.errand(Errand::Duties), GroupId::META, duties::read()));
            }
        }
        self.tasks.retain(|_, running| now.since(running.begun) < TASK_MAX);
        let due = |running: &Running| !running.is_asked && now >= running.rests_until;
        let due: Vec<GroupId> =
            self.tasks.iter().filter(|(_, running)| due(running)).map(|(g, _)| *g).collect();
        for group in due {
            let name = self.errand(Errand::Step(group));
            let Some(running) = self.tasks.get_mut(&group) else { continue };
            running.is_asked = true;
            requests.push((name, group, Request::one(Command::Order(running.order.clone()))));
        }
        requests
    }

    fn errand(&mut self, errand: Errand) -> u64 {
        self.next_errand += 1;
        self.errands.insert(self.next_errand, errand);
        self.next_errand
    }

    /// What became of a request.
    pub fn outcome(&mut self, now: Mono, name: u64, outcome: &Outcome) {
        match self.errands.remove(&name) {
            Some(Errand::Duties) => {
                if let Ok(reply) = outcome {
                    self.duties = duties::found(reply);
                }
            }
            Some(Errand::Step(group)) => {
                let Some(running) = self.tasks.get_mut(&group) else { return };
                // A transfer is done once it was asked for: the next plan sees who leads.
                let is_transfer = matches!(running.task.action, Action::Transfer { .. });
                if *outcome == Ok(Reply::Ok) || is_transfer {
                    tracing::info!("placement: done: {}", running.task);
                    self.tasks.remove(&group);
                } else {
                    running.is_asked = false;
                    running.rests_until = now + STEP_REST;
                }
            }
            None => {} // of an earlier time of leading
        }
    }

    fn plan_anew(&mut self, now: Mono, map: &RangeMap, support: &SharedSupport, since: Mono) {
        self.view = self.look(now, map, support, since);
        self.plan = plan(&self.view);
        if self.parts.moves_max == 0 {
            return;
        }
        for task in &self.plan.tasks {
            let Some(order) = self.order_of(task, map) else { continue };
            tracing::info!("placement: {task}");
            let (begun, rests_until) = (now, now);
            let running =
                Running { task: task.clone(), order, begun, is_asked: false, rests_until };
            self.tasks.insert(task.group, running);
        }
    }

    /// The order that a task comes to; `None` for what is not carried out by orders.
    fn order_of(&self, task: &Task, map: &RangeMap) -> Option<Order> {
        let members = map.group(task.group)?.replicas.iter().map(|at| at.node);
        let voters = |gone: Option<NodeId>, new: Option<NodeId>| {
            let stay = members.clone().filter(|node| Some(*node) != gone && Some(*node) != new);
            let voters = stay.chain(new).map(NodeId::get).collect();
            Some(Order::Place { voters })
        };
        match task.action {
            Action::Add { to } => voters(None, Some(to.node)),
            Action::Replace { from, to } => voters(Some(from.node), Some(to.node)),
            Action::Remove { from } => voters(Some(from.node), None),
            Action::Transfer { to, .. } => Some(Order::Transfer { to: to.get() }),
            Action::MoveCore { .. } | Action::Split(_) | Action::Merge { .. } => None,
        }
    }

    fn look(&self, now: Mono, map: &RangeMap, support: &SharedSupport, since: Mono) -> View {
        let wall = |at: Mono| WallMs(at.0 / 1000);
        let nodes = self.parts.nodes.iter().map(|(id, cores)| {
            let heard = if *id == self.parts.node { Some(now) } else { support.heard_at(*id) };
            let heard = heard.unwrap_or(since);
            let is_down = now.since(heard) >= SILENCE;
            Node {
                id: *id,
                cores: *cores,
                capacity_bytes: CAPACITY_BYTES,
                zone: String::new(),
                down_since: is_down.then(|| wall(heard)),
                duty: self.duties.get(id).copied().unwrap_or_default(),
            }
        });
        let meta = map.group(GroupId::META);
        View {
            now: wall(now),
            settings: self.settings(),
            nodes: nodes.collect(),
            ranges: meta.into_iter().chain(map.ranges()).map(|range| self.range(&range)).collect(),
            under_way: self.tasks.values().map(|running| running.task.clone()).collect(),
        }
    }

    fn range(&self, range: &range_map::Range<'_>) -> Range {
        let report = self.reports.get(&range.group);
        let leader = report.map(|report| NodeId(report.leader));
        let caught_up =
            |node: NodeId| report.is_some_and(|report| !report.lagging.contains(&node.get()));
        let replica = |at: &oarlock_types::CoreAddr| Replica {
            at: *at,
            role: ReplicaRole::Voter,
            caught_up: caught_up(at.node),
        };
        Range {
            group: range.group,
            epoch: range.epoch,
            replicas: range.replicas.iter().map(replica).collect(),
            leader: leader.filter(|leader| range.core_on(*leader).is_some()),
            bytes: report.map_or(0, |report| report.bytes),
            keys: report.map_or(0, |report| report.keys),
            writes_per_s: report.map_or(0, |report| report.writes_per_s),
            reads_per_s: report.map_or(0, |report| report.reads_per_s),
            sample: LoadSample::Unknown,
            last_split: None,
            rules: Rules { replicas: self.parts.replicas, ..Rules::default() },
        }
    }

    /// What is carried out otherwise, or not yet, is not planned either.
    fn settings(&self) -> Settings {
        let gone_after_ms = u64::try_from(self.parts.gone_after.as_millis()).unwrap_or(u64::MAX);
        Settings {
            gone_after_ms,
            moves_max: self.parts.moves_max.max(1),
            core_moves_per_node_max: 0,
            reshapes_max: 0,
            ..Settings::default()
        }
    }
}
