//! The order of a plan: what is out of order, then splits and merges, then evenness.
//!
//! Each task is applied to the sums before the next is sought, and its range is not looked at again.

use std::collections::BTreeMap;
use std::fmt;

use oarlock_types::GroupId;

use crate::View;
use crate::model::Model;
use crate::needs::{Need, Step};
use crate::task::{Action, Blocked, Obstacle, Reason, Task};

/// What to do now, in order of importance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The tasks to give out, no two for one range and none for a range that has one.
    pub tasks: Vec<Task>,
    /// What should be done and can not be.
    pub blocked: Vec<Blocked>,
    /// Ranges with replicas out of order that wait until others are done.
    pub waiting: usize,
}

/// What should be done with a cluster now. The same view gives the same plan.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let mut planner = Planner::new(view);
    planner.mend();
    planner.model.rescale();
    planner.split();
    planner.merge();
    if !planner.model.mending && planner.waiting == 0 {
        planner.even_nodes();
    }
    planner.even_leaders();
    planner.even_cores();
    planner.finish()
}

/// A plan in the making.
pub(crate) struct Planner<'a> {
    pub(crate) model: Model<'a>,
    tasks: Vec<Task>,
    blocked: BTreeMap<(Reason, Obstacle), (GroupId, usize)>,
    pub(crate) waiting: usize,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(view: &'a View) -> Self {
        let model = Model::new(view);
        Self { model, tasks: Vec::new(), blocked: BTreeMap::new(), waiting: 0 }
    }

    pub(crate) fn finish(self) -> Plan {
        let blocked = self
            .blocked
            .into_iter()
            .map(|((reason, obstacle), (first, count))| Blocked { reason, obstacle, first, count });
        Plan { tasks: self.tasks, blocked: blocked.collect(), waiting: self.waiting }
    }

    pub(crate) fn add(&mut self, at: usize, action: Action, reason: Reason) {
        let task = self.model.task(at, action, reason);
        debug_assert!(!self.model.locked[at], "one task for a range");
        self.model.apply(at, &task);
        self.tasks.push(task);
    }

    pub(crate) fn block(&mut self, at: usize, reason: Reason, obstacle: Obstacle) {
        let group = self.model.range(at).group;
        self.blocked.entry((reason, obstacle)).or_insert((group, 0)).1 += 1;
    }

    /// Whether one more task of this kind may be under way.
    pub(crate) fn has_slot(&self, action: Action) -> bool {
        let (model, settings) = (&self.model, self.model.settings);
        match action {
            Action::Add { .. } | Action::Replace { .. } => model.moves < settings.moves_max,
            Action::Remove { .. } | Action::Transfer { .. } => {
                model.transfers < settings.transfers_max
            }
            Action::MoveCore { node, .. } => model.node_at(node).is_some_and(|node| {
                model.nodes[node].core_moves < settings.core_moves_per_node_max
            }),
            Action::Split(_) | Action::Merge { .. } => model.reshapes < settings.reshapes_max,
        }
    }

    /// Brings replicas in order, those that are nearest to losing their quorum first.
    fn mend(&mut self) {
        let mut patients: Vec<(u8, usize, usize, Vec<Need>)> = Vec::new();
        for at in 0..self.model.locked.len() {
            let needs = if self.model.locked[at] { Vec::new() } else { self.model.needs(at) };
            if let Some(first) = needs.first() {
                let quorum = self.model.quorum(at);
                let spare = quorum.sound.saturating_sub(quorum.needed());
                patients.push((first.rank(), spare, at, needs));
            }
        }
        patients.sort_unstable();
        for (_, _, at, needs) in patients {
            self.treat(at, &needs);
        }
    }

    /// Plans the first step that is possible, and says of those before it why they are not.
    fn treat(&mut self, at: usize, needs: &[Need]) {
        let full = self.model.moves >= self.model.settings.moves_max;
        let possible = self.model.quorum(at).holds();
        for &need in needs {
            // Looking for a place is what takes long, when many wait.
            if full && possible && need.copies() {
                return self.wait(at);
            }
            match self.model.step(at, need) {
                Step::Do(action) if self.has_slot(action) => {
                    let reason = self.model.reason(at, need);
                    return self.add(at, action, reason);
                }
                Step::Do(_) | Step::Wait => return self.wait(at),
                Step::Blocked(obstacle) => {
                    let reason = self.model.reason(at, need);
                    self.block(at, reason, obstacle);
                }
            }
        }
    }

    /// Leaves a range alone until others are done.
    fn wait(&mut self, at: usize) {
        self.waiting += 1;
        self.model.locked[at] = true;
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for task in &self.tasks {
            writeln!(f, "{task}")?;
        }
        for blocked in &self.blocked {
            writeln!(f, "can not: {blocked}")?;
        }
        if self.waiting > 0 {
            writeln!(f, "waiting: {}", self.waiting)?;
        }
        if self.tasks.is_empty() && self.blocked.is_empty() && self.waiting == 0 {
            writeln!(f, "nothing to do")?;
        }
        Ok(())
    }
}
