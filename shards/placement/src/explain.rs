//! Why a range's replicas sit where they do, and why they move or stay: text for people.
//!
//! Asks the very functions that plan, of the same view, so that it can say nothing else than they do.

use std::fmt;

use oarlock_types::GroupId;

use crate::View;
use crate::model::{BY_REPLICA, Model, Place};
use crate::needs::Step;
use crate::plan::plan;
use crate::reshape::Apart;
use crate::scale::percent;
use crate::task::{Bytes, Spell};
use crate::view::{Range, Replica, ReplicaRole, Standing};

/// What there is to say about one range's placement, line by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The lines.
    pub lines: Vec<String>,
}

/// Explains a range, or the meta group; `None` if the view has none of that id.
#[must_use]
pub fn explain(view: &View, group: GroupId) -> Option<Explanation> {
    let at = view.ranges.iter().position(|range| range.group == group)?;
    let model = Model::new(view);
    let mut lines = vec![headline(model.range(at)), rules(model.range(at))];
    for (replica, place) in model.members(at) {
        lines.push(member(&model, at, replica, place));
    }
    if let Some(task) = view.under_way.iter().find(|task| task.group == group) {
        lines.push(format!("under way: {}: {}", task.action, task.reason));
        return Some(Explanation { lines });
    }
    let planned = plan(view);
    let task = planned.tasks.iter().find(|task| task.group == group);
    needs(&model, at, task.is_none(), &mut lines);
    match task {
        Some(task) => lines.push(format!("planned: {}: {}", task.action, task.reason)),
        None if model.locked[at] => lines.push("under way: a merge with a neighbour".to_owned()),
        None => {
            let first = planned.waiting == 0 && planned.tasks.iter().all(|t| !t.reason.is_need());
            stays(&model, at, first && !model.mending, &mut lines);
        }
    }
    reshape(&model, at, &mut lines);
    Some(Explanation { lines })
}

fn headline(range: &Range) -> String {
    format!(
        "{} {}: {}, {} keys, {} writes/s, {} reads/s",
        range.group,
        range.epoch,
        Bytes(range.bytes),
        range.keys,
        range.writes_per_s,
        range.reads_per_s
    )
}

fn rules(range: &Range) -> String {
    let rules = &range.rules;
    let mut text = format!("rules: {} replicas", rules.replicas.max(1));
    if let Some(zone) = &rules.leader_zone {
        text += &format!(", leader in zone {zone}");
    }
    if !rules.pinned.is_empty() {
        let nodes: Vec<String> = rules.pinned.iter().map(ToString::to_string).collect();
        text += &format!(", pinned to {}", nodes.join(" "));
    }
    match &range.rules_of {
        Some(keys) => text + ", set for " + keys,
        None => text + ", as for all keys without a rule",
    }
}

/// Where a member is, what it does, and what speaks for and against the place.
fn member(model: &Model<'_>, at: usize, replica: &Replica, place: Place) -> String {
    let leads = model.range(at).leader == Some(replica.at.node);
    let role = match replica.role {
        ReplicaRole::Voter if leads => "leader",
        ReplicaRole::Voter => "voter",
        ReplicaRole::Learner => "learner",
    };
    let mut text = format!("{}: {role}", replica.at);
    if !replica.caught_up {
        text += ", behind";
    }
    let Some(node) = place.node else { return text + ", on a node that is not known" };
    let used = &model.nodes[node];
    text += &match used.standing {
        Standing::Serving => String::new(),
        Standing::Draining => ", on a node that is being drained".to_owned(),
        Standing::Removed => ", on a node that was removed".to_owned(),
        Standing::Gone(ms) => format!(", gone: down for {}", Spell(ms)),
        Standing::Down(ms) => {
            let left = model.settings.gone_after_ms.saturating_sub(ms);
            format!(", down for {}, gone in {}", Spell(ms), Spell(left))
        }
    };
    let alone = model.in_zone(at, used.zone, None) <= 1;
    let zone = model.zones[used.zone];
    text += &format!(", {} zone {zone}", if alone { "alone in" } else { "shares" });
    let position = model.members(at).position(|(other, _)| other.at.node == replica.at.node);
    let aligned = model.aligned(at, replica.at.core, position);
    let others = model.range(at).voters().filter(|other| other.at.node != replica.at.node).count();
    text += &format!(", on the core of {aligned} of {others} others");
    if used.serves() {
        let levels: Vec<String> = (0..BY_REPLICA)
            .map(|share| {
                let scale = &model.scales.by_replica[share];
                let level = percent(scale.level(used.by_replica(share)));
                format!("{level} % of {}", scale.share)
            })
            .collect();
        text += &format!("; {} has, of its fair share, {}", used.id, levels.join(", "));
    }
    text
}

/// What is out of order, and, if nothing is planned for the range, why not.
fn needs(model: &Model<'_>, at: usize, unplanned: bool, lines: &mut Vec<String>) {
    for need in model.needs(at) {
        let reason = model.reason(at, need);
        match model.step(at, need) {
            Step::Blocked(obstacle) => lines.push(format!("can not: {reason}, but {obstacle}")),
            Step::Do(action) if unplanned => {
                lines.push(format!("waits for others to end: {action}: {reason}"));
            }
            Step::Wait if unplanned => lines.push(format!("waits for busy nodes: {reason}")),
            Step::Do(_) | Step::Wait => {}
        }
    }
}

/// Why the replicas and the leader stay, of a range for which nothing is planned.
fn stays(model: &Model<'_>, at: usize, even: bool, lines: &mut Vec<String>) {
    if !model.is_healthy(at) {
        let why = "no replica is moved for evenness unless all are sound, on nodes that serve";
        lines.push(format!("stays: {why}"));
        return;
    }
    for (position, (replica, place)) in model.members(at).enumerate() {
        let Some(node) = place.node else { continue };
        if let Some(better) = model.better_place(at, position) {
            let to = model.nodes[better.node].id;
            let reason = model.uneven_nodes(at, node, better.node);
            let why = if even { "others gain more" } else { "replicas are brought in order first" };
            lines.push(format!("{} could go to {to}: {reason}; {why}", replica.at));
        }
        if let Some(better) = model.better_core(at, position, &model.core_state(node)) {
            let core = better.core;
            let reason = model.uneven_cores(at, position, better, &model.core_state(node));
            lines.push(format!("{} could go to c{core}: {reason}; others gain more", replica.at));
        }
    }
    if let Some(heir) = model.better_leader(at) {
        let to = model.nodes[heir.node].id;
        let reason = model.uneven_leaders(at, heir);
        lines.push(format!("{to} could lead: {reason}; others gain more"));
    }
    if let Some(line) = nearest(model, at) {
        lines.push(line);
    }
}

/// The move that would gain most, when none gains enough.
fn nearest(model: &Model<'_>, at: usize) -> Option<String> {
    let mut best: Option<(f64, usize, usize)> = None;
    let mut zoned = false;
    for (position, (_, place)) in model.members(at).enumerate() {
        let from = place.node?;
        if model.better_place(at, position).is_some() {
            return None;
        }
        for (node, used) in model.nodes.iter().enumerate() {
            let free = used.serves()
                && model.range(at).rules.allow(used.id)
                && !model.places(at).iter().any(|other| other.node == Some(node));
            let gain = model.move_gain(at, from, node);
            if free && !model.zone_allows(at, position, used.zone) {
                zoned = true;
            } else if free && best.is_none_or(|(than, ..)| gain > than) {
                best = Some((gain, from, node));
            }
        }
    }
    Some(match best {
        Some((_, from, to)) => {
            let (id, other) = (model.nodes[from].id, model.nodes[to].id);
            let reason = model.uneven_nodes(at, from, to);
            let zones = if zoned { "; other places fit the rules about zones less" } else { "" };
            format!("stays: nearest to gain is {id} to {other}, and not enough: {reason}{zones}")
        }
        None if zoned => "stays: any other place would fit the rules about zones less".to_owned(),
        None => "stays: there is no other place for it".to_owned(),
    })
}

/// Whether the range is split or merged, and why not.
fn reshape(model: &Model<'_>, at: usize, lines: &mut Vec<String>) {
    if let Some((reason, Err(obstacle))) = model.split_step(at) {
        lines.push(format!("not split: {reason}, but {obstacle}"));
    }
    let is_range = |other: &usize| model.range(*other).group != GroupId::META;
    if !is_range(&at) {
        return;
    }
    let before = (0..at).rev().find(is_range).map(|left| (left, at, left));
    let behind = (at + 1..model.locked.len()).find(is_range).map(|right| (at, right, right));
    let pairs = model.pairs();
    for (left, right, other) in before.into_iter().chain(behind) {
        let other = model.range(other).group;
        if pairs.contains(&(left, right)) {
            lines.push(format!("to be merged with {other}"));
            continue;
        }
        let few = (model.ranges_to_spare() == 0).then_some(Apart::Few);
        match model.apart(left, right).or(few) {
            Some(why) => lines.push(format!("not merged with {other}: {why}")),
            None => lines.push(format!("not merged with {other} yet: others are")),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
