//! Whether a rule can be kept by the nodes that there are, and whether ranges are as the rules want them, judged
//! by one look at the cluster. It asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_cluster::rules::{Rule, RuleSet};

use crate::bench::cluster_map::RangeRow;
use crate::cli::top::look::Look;

/// The ranges of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// How many there are.
    pub(super) ranges: usize,
    /// How many of them are as the rule wants them.
    pub(super) in_order: usize,
    /// What is still to be done with the first of the others.
    pub(super) why: Option<String>,
}

/// What is known of the nodes.
#[derive(Clone, Debug)]
pub(super) struct Nodes<'a> {
    /// Where each stands; empty: nothing is known.
    zones: BTreeMap<u64, &'a str>,
    duties: BTreeMap<u64, &'a str>,
    /// Replicas of a range without a rule.
    replicas: u8,
    /// The node that leads each group, by the word of those that say so.
    leaders: BTreeMap<u64, u64>,
}

fn listed<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    texts.join(", ")
}

impl<'a> Nodes<'a> {
    /// What a look shows.
    pub(super) fn of(look: &'a Look) -> Self {
        let statuses = || look.nodes.values().filter_map(|node| node.status.as_ref());
        let zones = look.nodes.iter().map(|(id, node)| (*id, node.address.zone.as_str()));
        let duties = look.duties.iter().flatten().map(|(id, duty)| (*id, duty.as_str()));
        // Of two who say so, one does not know yet that it is over.
        let mut leads: Vec<(u64, u64, u64)> = statuses()
            .flat_map(|status| {
                let led = status.groups.iter().filter(|group| group.role == "leader");
                led.map(|group| (group.group, group.term, status.node))
            })
            .collect();
        leads.sort_unstable();
        Self {
            zones: zones.collect(),
            duties: duties.collect(),
            replicas: statuses().map(|status| status.replication_factor).max().unwrap_or(0),
            leaders: leads.into_iter().map(|(group, _, node)| (group, node)).collect(),
        }
    }

    fn is(&self, node: u64, duty: &str) -> bool {
        self.duties.get(&node).is_some_and(|known| *known == duty)
    }

    /// Why no nodes that there are could keep the rule.
    pub(super) fn refuse(&self, rule: &Rule) -> Result<(), String> {
        let pinned: Vec<u64> = rule.pinned.iter().map(|node| node.get()).collect();
        if let Some(node) = pinned.iter().find(|node| !self.zones.contains_key(node)) {
            let known = listed(self.zones.keys());
            return Err(format!("the cluster has no node {node}: its nodes are {known}"));
        }
        if let Some(node) = pinned.iter().find(|node| self.is(**node, "removed")) {
            return Err(format!(
                "node {node} was given up: `oarlock node serve {node}` takes that back"
            ));
        }
        let may_hold = |node: &&u64| pinned.is_empty() || pinned.contains(node);
        let serves = |node: &&u64| !self.duties.contains_key(node);
        let serving: Vec<u64> =
            self.zones.keys().filter(may_hold).filter(serves).copied().collect();
        let replicas = rule.replicas.unwrap_or(self.replicas);
        if serving.len() < usize::from(replicas) {
            let whose = if pinned.is_empty() { "" } else { " of these" };
            let nodes = if serving.is_empty() { "none does".to_owned() } else { listed(&serving) };
            return Err(format!(
                "{replicas} replicas need as many nodes{whose} that serve, and there are {}: {nodes}",
                serving.len()
            ));
        }
        let Some(zone) = &rule.leader_zone else { return Ok(()) };
        let zones: BTreeSet<&str> =
            self.zones.values().copied().filter(|zone| !zone.is_empty()).collect();
        if !zones.contains(zone.as_str()) {
            let known = if zones.is_empty() {
                "no node says where it stands (`zone` in the configuration)".to_owned()
            } else {
                format!("the zones are {}", listed(zones))
            };
            return Err(format!("no node stands in zone {zone}: {known}"));
        }
        if !serving.iter().any(|node| self.zones[node] == zone) {
            let places = serving.iter().map(|node| {
                let zone = self.zones[node];
                format!("{node} in {}", if zone.is_empty() { "none" } else { zone })
            });
            let places = listed(places);
            return Err(format!("none of the nodes that may hold it is in zone {zone}: {places}"));
        }
        Ok(())
    }

    /// What is still to be done with a range.
    fn lacks(&self, range: &RangeRow, rules: &RuleSet) -> Option<String> {
        let end = (!range.end.is_empty()).then_some(range.end.as_slice());
        let ruled = rules.of_range(&range.start, end, self.replicas);
        let (group, wanted) = (range.group, ruled.rules);
        if let Some(border) = ruled.border {
            let border = border.escape_ascii();
            return Some(format!("range {group} is to be cut at \"{border}\""));
        }
        let has = range.replicas.len();
        if wanted.replicas > 0 && has != usize::from(wanted.replicas) {
            return Some(format!("range {group} has {has} of {} replicas", wanted.replicas));
        }
        let is_pinned = |node: &&u64| wanted.allow(oarlock_types::NodeId(**node));
        if let Some(node) = range.replicas.iter().find(|node| !is_pinned(node)) {
            return Some(format!("range {group} has a replica on node {node}"));
        }
        let zone = wanted.leader_zone?;
        match self.leaders.get(&group) {
            Some(leader) if self.zones.get(leader).is_some_and(|place| *place == zone) => None,
            Some(leader) => {
                Some(format!("range {group} is led by node {leader}, not in zone {zone}"))
            }
            None => Some(format!("nobody says that he leads range {group}")),
        }
    }

    /// How far the ranges are that a rule counts for.
    pub(super) fn order(&self, rule: &Rule, rules: &RuleSet, ranges: &[RangeRow]) -> Order {
        let mut order = Order::default();
        for range in ranges {
            let end = (!range.end.is_empty()).then(|| range.end.clone().into());
            let keys = Rule { start: range.start.clone().into(), end, ..Rule::default() };
            let of_first = rules.of_key(&range.start).is_some_and(|of| of.start == rule.start);
            // One that begins before the rule does, and holds some of its keys, is still to be cut.
            let ruled = rules.of_range(&keys.start, keys.end.as_deref(), self.replicas);
            let is_uncut = ruled.border.is_some() && rule.overlaps(&keys);
            if !(of_first || is_uncut) {
                continue;
            }
            let lacks = self.lacks(range, rules);
            order.ranges += 1;
            order.in_order += usize::from(lacks.is_none());
            order.why = order.why.or(lacks);
        }
        order
    }
}

#[cfg(test)]
mod tests;
