//! Whether a node may be restarted now, judged by what all nodes say of their replicas at one look. It asks
//! nobody.
//!
//! What is not known counts against it: a node that does not answer, a range that nobody leads. Else a range
//! can spare its replica on the node if, without it, a majority of its voters can take over or go on at once:
//! of both sets while the members change.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_types::GroupId;
use serde_json::{Value, json};

use crate::bench::cluster_map::{GroupStatus, NodeStatus};
use crate::cli::top::look::Look;

/// So many entries a follower may lack and still count as up to date: under load some are always on their way.
const LAG_MAX: u64 = 1000;
/// Reasons that are printed for people.
const SHOWN_MAX: usize = 10;

/// What speaks against a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// The range that it would harm, if it is one.
    pub(super) range: Option<u64>,
    /// In words.
    pub(super) why: String,
}

impl Reason {
    fn text(&self) -> String {
        match self.range {
            Some(range) if range == GroupId::META.get() => format!("the meta group: {}", self.why),
            Some(range) => format!("range {range}: {}", self.why),
            None => self.why.clone(),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The node in question.
    pub(super) node: u64,
    /// Groups that have a replica on it, the meta group included.
    pub(super) held: usize,
    /// What speaks against it; nothing if it may be restarted.
    pub(super) against: Vec<Reason>,
}

impl Verdict {
    /// Whether the node may be restarted.
    pub(super) fn is_safe(&self) -> bool {
        self.against.is_empty()
    }

    /// For people: the answer, and the first reasons.
    pub(super) fn text(&self) -> String {
        let Self { node, held, against } = self;
        if self.is_safe() {
            return format!(
                "node {node} may be restarted: each of the {held} groups with a replica there has a \
                 quorum without it\n"
            );
        }
        let mut text = format!("node {node} must not be restarted now:\n");
        for reason in against.iter().take(SHOWN_MAX) {
            text.push_str(&format!("  {}\n", reason.text()));
        }
        if against.len() > SHOWN_MAX {
            text.push_str(&format!("  and {} more\n", against.len() - SHOWN_MAX));
        }
        text
    }

    /// The first reason, and how many others there are; empty if it is safe.
    pub(super) fn brief(&self) -> String {
        let first = self.against.first().map(Reason::text).unwrap_or_default();
        match self.against.len() {
            0 | 1 => first,
            more => format!("{first} (and {} more)", more - 1),
        }
    }

    /// For programs: all reasons.
    pub(super) fn json(&self) -> Value {
        let against = self.against.iter();
        let against = against.map(|reason| json!({ "range": reason.range, "why": reason.why }));
        json!({
            "node": self.node,
            "safe": self.is_safe(),
            "groups": self.held,
            "against": against.collect::<Vec<_>>(),
        })
    }
}

/// Judges a look; `None` if the cluster has no such node.
pub(super) fn judge(look: &Look, node: u64) -> Option<Verdict> {
    let seen = Seen::new(look);
    if !seen.named.contains(&node) {
        return None;
    }
    let mut against = seen.silent(look);
    let held = seen.held(look, node);
    for group in &held {
        if let Err(why) = seen.spares(*group, node) {
            against.push(Reason { range: Some(*group), why });
        }
    }
    Some(Verdict { node, held: held.len(), against })
}

/// A look, by node and by group.
struct Seen<'a> {
    /// All nodes that anybody names.
    named: BTreeSet<u64>,
    statuses: BTreeMap<u64, &'a NodeStatus>,
    replicas: BTreeMap<u64, BTreeMap<u64, &'a GroupStatus>>,
}

impl<'a> Seen<'a> {
    fn new(look: &'a Look) -> Self {
        let answered = look.nodes.iter().filter_map(|(id, n)| Some((*id, n.status.as_ref()?)));
        let statuses: BTreeMap<u64, &NodeStatus> = answered.collect();
        let mut named: BTreeSet<u64> = look.nodes.keys().copied().collect();
        let mut replicas: BTreeMap<u64, BTreeMap<u64, &GroupStatus>> = BTreeMap::new();
        for (id, status) in &statuses {
            named.extend(status.nodes.iter().map(|node| node.node));
            for group in &status.groups {
                replicas.entry(group.group).or_default().insert(*id, group);
            }
        }
        Self { named, statuses, replicas }
    }

    /// Who does not answer, but for those that are given up.
    fn silent(&self, look: &Look) -> Vec<Reason> {
        let is_removed = |node: &u64| {
            look.duties.as_ref().and_then(|duties| duties.get(node)).is_some_and(|d| d == "removed")
        };
        let silent = self.named.iter().filter(|node| !self.statuses.contains_key(node));
        let silent = silent.filter(|node| !is_removed(node));
        silent
            .map(|node| Reason { range: None, why: format!("node {node} does not answer") })
            .collect()
    }

    /// The groups that have a replica on a node, by anybody's word.
    fn held(&self, look: &Look, node: u64) -> BTreeSet<u64> {
        let by_map = look.ranges.iter().filter(|range| range.replicas.contains(&node));
        let mut held: BTreeSet<u64> = by_map.map(|range| range.group).collect();
        if let Some(status) = self.statuses.get(&node) {
            held.extend(status.groups.iter().map(|group| group.group));
            held.extend(status.damaged.iter().map(|damaged| damaged.group));
        }
        for status in self.statuses.values() {
            let counts_on = |group: &&GroupStatus| members(group).any(|member| member == node);
            held.extend(status.groups.iter().filter(counts_on).map(|group| group.group));
        }
        held
    }

    /// Whether a group can do without its replica on a node for a while; if not, why not.
    fn spares(&self, group: u64, node: u64) -> Result<(), String> {
        let none = BTreeMap::new();
        let replicas = self.replicas.get(&group).unwrap_or(&none);
        let leaders = replicas.iter().filter(|(_, replica)| replica.role == "leader");
        // Two may say so while one has not heard of the other: the later term is right.
        let Some((leader, leads)) = leaders.max_by_key(|(_, replica)| replica.term) else {
            return Err("no node that answers leads it".to_owned());
        };
        let later = |member: &u64| replicas.get(member).is_some_and(|r| r.term > leads.term);
        if let Some(member) = members(leads).find(later) {
            return Err(format!("an election is under way (node {member} is in a later term)"));
        }
        if leads.voters.is_empty() {
            return Err(format!("node {leader}, which leads it, does not tell its voters"));
        }
        let halves: &[(&str, &[u64])] = if leads.outgoing.is_empty() {
            &[("", &leads.voters)]
        } else {
            &[("new ", &leads.voters), ("old ", &leads.outgoing)]
        };
        for (name, voters) in halves {
            let others = voters.iter().filter(|voter| **voter != node);
            let (mut ready, mut unready) = (0, Vec::new());
            for voter in others {
                match self.lacks(*voter, *leader, leads, replicas.get(voter).copied()) {
                    None => ready += 1,
                    Some(what) => unready.push(format!("node {voter} {what}")),
                }
            }
            let needed = voters.len() / 2 + 1;
            if ready < needed {
                let mut why = format!(
                    "without node {node}, {ready} of its {} {name}voters can go on, and {needed} are needed",
                    voters.len()
                );
                if !unready.is_empty() {
                    why.push_str(&format!(" ({})", unready.join(", ")));
                }
                return Err(why);
            }
        }
        Ok(())
    }

    /// What a voter lacks to be counted on, by its leader's word and its own.
    fn lacks(
        &self,
        voter: u64,
        leader: u64,
        leads: &GroupStatus,
        own: Option<&GroupStatus>,
    ) -> Option<String> {
        let Some(status) = self.statuses.get(&voter) else {
            return Some("does not answer".to_owned());
        };
        if status.damaged.iter().any(|damaged| damaged.group == leads.group) {
            return Some("has lost its replica".to_owned());
        }
        let Some(own) = own else { return Some("has no replica yet".to_owned()) };
        if voter == leader {
            return None;
        }
        if !own.may_vote {
            return Some("has just started and does not vote yet".to_owned());
        }
        let Some(followed) = leads.replicas.iter().find(|replica| replica.node == voter) else {
            return Some("is not followed by its leader".to_owned());
        };
        let lag = leads.last.saturating_sub(followed.matched);
        if !followed.reachable {
            Some("is not reached by its leader".to_owned())
        } else if followed.state != "replicate" || lag > LAG_MAX {
            Some(format!("is {lag} entries behind ({})", followed.state))
        } else {
            None
        }
    }
}

/// Everybody that a leader counts on or sends its log to.
fn members(leader: &GroupStatus) -> impl Iterator<Item = u64> + '_ {
    leader.voters.iter().chain(&leader.outgoing).chain(&leader.learners).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bench::cluster_map::{DamagedStatus, NodeAddress, RangeRow, ReplicaStatus};
    use crate::cli::top::look::NodeLook;

    const GROUP: u64 = 5;

    type Change = fn(&mut Look);

    fn follower(node: u64) -> ReplicaStatus {
        ReplicaStatus { node, matched: 5000, state: "replicate".to_owned(), reachable: true }
    }

    fn replica(role: &str) -> GroupStatus {
        let role = role.to_owned();
        GroupStatus {
            group: GROUP,
            role,
            term: 4,
            last: 5100,
            may_vote: true,
            ..Default::default()
        }
    }

    fn leader() -> GroupStatus {
        let (voters, replicas) = (vec![1, 2, 3], vec![follower(2), follower(3)]);
        GroupStatus { voters, replicas, ..replica("leader") }
    }

    /// Node 1 leads the one group of three nodes, and all is well.
    fn look() -> Look {
        let names: Vec<NodeAddress> =
            (1..=3).map(|node| NodeAddress { node, ..NodeAddress::default() }).collect();
        let node = |node: u64| {
            let group = if node == 1 { leader() } else { replica("follower") };
            let (groups, nodes) = (vec![group], names.clone());
            let status = Some(NodeStatus { node, groups, nodes, ..NodeStatus::default() });
            (node, NodeLook { status, ..NodeLook::default() })
        };
        let range = RangeRow { group: GROUP, replicas: vec![1, 2, 3], ..RangeRow::default() };
        Look {
            at: Instant::now(),
            nodes: (1..=3).map(node).collect(),
            ranges: vec![range],
            duties: Some(BTreeMap::new()),
            placement: None,
        }
    }

    fn status(look: &mut Look, node: u64) -> &mut NodeStatus {
        look.nodes.get_mut(&node).unwrap().status.as_mut().unwrap()
    }

    fn group(look: &mut Look, node: u64) -> &mut GroupStatus {
        &mut status(look, node).groups[0]
    }

    /// Why a node must not be restarted, after a change to a cluster that is well.
    fn against(node: u64, change: impl FnOnce(&mut Look)) -> String {
        let mut look = look();
        change(&mut look);
        let verdict = judge(&look, node).unwrap();
        verdict.against.iter().map(Reason::text).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_cluster_that_is_well_spares_any_node() {
        for node in 1..=3 {
            let verdict = judge(&look(), node).unwrap();
            assert!(verdict.is_safe() && verdict.held == 1 && verdict.brief().is_empty());
            assert!(verdict.text().starts_with(&format!("node {node} may be restarted: each")));
            let json = verdict.json();
            assert_eq!((&json["safe"], &json["groups"]), (&json!(true), &json!(1)));
        }
        assert_eq!(judge(&look(), 4), None);
    }

    #[test]
    fn what_is_not_known_speaks_against_it() {
        let silent = |look: &mut Look| look.nodes.get_mut(&3).unwrap().status = None;
        let told = "node 3 does not answer; range 5: without node 2, 1 of its 3 voters can go on, \
                    and 2 are needed (node 3 does not answer)";
        assert_eq!(against(2, silent), told);
        let removed = |look: &mut Look| {
            silent(look);
            look.duties = Some(BTreeMap::from([(3, "removed".to_owned())]));
            look.ranges.clear();
            group(look, 1).voters = vec![1, 2, 4];
            group(look, 1).replicas.push(follower(4));
            let like_two = status(look, 2).clone();
            let status = Some(NodeStatus { node: 4, ..like_two });
            look.nodes.insert(4, NodeLook { status, ..NodeLook::default() });
        };
        assert_eq!(against(2, removed), "", "it was given up, and nothing counts on it");
        // A node that was named and can not even be asked.
        let named = |look: &mut Look| {
            status(look, 2).nodes.push(NodeAddress { node: 9, ..NodeAddress::default() });
        };
        assert_eq!(against(2, named), "node 9 does not answer");
        let leaderless = |look: &mut Look| group(look, 1).role = "follower".to_owned();
        assert_eq!(against(2, leaderless), "range 5: no node that answers leads it");
        let deposed = |look: &mut Look| group(look, 3).term = 5;
        let told = "range 5: an election is under way (node 3 is in a later term)";
        assert_eq!(against(2, deposed), told);
        let mute = |look: &mut Look| group(look, 1).voters.clear();
        assert!(against(2, mute).contains("does not tell its voters"));
    }

    #[test]
    fn a_quorum_without_the_node_must_be_able_to_go_on() {
        let ready_two = "range 5: without node 2, 1 of its 3 voters can go on, and 2 are needed ";
        let cases: [(Change, &str); 6] = [
            (
                |look| group(look, 1).replicas[1].reachable = false,
                "(node 3 is not reached by its leader)",
            ),
            (
                |look| group(look, 1).replicas[1].state = "probe".to_owned(),
                "(node 3 is 100 entries behind (probe))",
            ),
            (|look| group(look, 1).last = 6001, "(node 3 is 1001 entries behind (replicate))"),
            (
                |look| group(look, 3).may_vote = false,
                "(node 3 has just started and does not vote yet)",
            ),
            (|look| status(look, 3).groups.clear(), "(node 3 has no replica yet)"),
            (
                |look| {
                    let damaged = DamagedStatus { group: GROUP, stage: "joining".to_owned() };
                    status(look, 3).damaged.push(damaged);
                },
                "(node 3 has lost its replica)",
            ),
        ];
        for (change, told) in cases {
            assert_eq!(against(2, change), format!("{ready_two}{told}"));
            // The node that is in trouble itself can be spared: the others are a quorum.
            if !told.contains("1001") {
                assert_eq!(against(3, change), "", "{told}");
            }
        }
        // Whoever leads is spared as any other, if both of its followers can take over.
        let behind: Change = |look| group(look, 1).replicas[0].matched = 10;
        let told = "range 5: without node 1, 1 of its 3 voters can go on, and 2 are needed \
                    (node 2 is 5090 entries behind (replicate))";
        assert_eq!((against(1, behind).as_str(), against(2, behind).as_str()), (told, ""));
        // Two voters can spare neither, one not itself.
        for voters in [vec![1, 2], vec![2]] {
            let text = against(2, |look| group(look, 1).voters.clone_from(&voters));
            assert!(text.starts_with("range 5: without node 2, "), "{text}");
        }
    }

    #[test]
    fn while_members_change_both_halves_must_go_on() {
        let joint = |outgoing: &[u64], look: &mut Look| {
            group(look, 1).outgoing = outgoing.to_vec();
        };
        assert_eq!(against(2, |look| joint(&[1, 2, 3], look)), "");
        let text = against(2, |look| joint(&[1, 2, 4], look));
        let told = "range 5: without node 2, 1 of its 3 old voters can go on, and 2 are needed \
                    (node 4 does not answer)";
        assert_eq!(text, told);
        // A node that only learns is spared by whoever votes.
        let learns = |look: &mut Look| {
            let leader = group(look, 1);
            (leader.voters, leader.learners) = (vec![1, 3], vec![2]);
        };
        assert_eq!(against(2, learns), "");
    }

    #[test]
    fn many_reasons_are_told_in_short() {
        let why = "nobody leads it".to_owned();
        let reason = |range| Reason { range: Some(range), why: why.clone() };
        let verdict = Verdict { node: 7, held: 13, against: (0..13).map(reason).collect() };
        let text = verdict.text();
        assert!(text.starts_with("node 7 must not be restarted now:\n  the meta group: nobody"));
        assert!(text.ends_with("  range 9: nobody leads it\n  and 3 more\n"), "{text}");
        assert_eq!(verdict.brief(), "the meta group: nobody leads it (and 12 more)");
        assert_eq!(verdict.json()["against"].as_array().unwrap().len(), 13);
    }
}
