//! Five nodes in two zones, and one range, of which a rule wants something.

use std::time::Instant;

use oarlock_types::NodeId;

use super::*;
use crate::bench::cluster_map::{GroupStatus, NodeAddress, NodeStatus};
use crate::cli::top::look::NodeLook;

/// Nodes 1, 3 and 5 are in zone a, 2 and 4 in b; node 2 leads the range of all keys.
fn look() -> Look {
    let node = |node: u64| {
        let zone = if node.is_multiple_of(2) { "b" } else { "a" }.to_owned();
        let leads = GroupStatus { group: 7, role: "leader".into(), term: 3, ..Default::default() };
        let groups = if node == 2 { vec![leads] } else { Vec::new() };
        let status = NodeStatus { node, groups, replication_factor: 3, ..Default::default() };
        let address = NodeAddress { node, zone, ..NodeAddress::default() };
        (node, NodeLook { address, status: Some(status), writes: None })
    };
    Look {
        at: Instant::now(),
        nodes: (1..=5).map(node).collect(),
        ranges: vec![RangeRow { group: 7, replicas: vec![1, 2, 3], ..RangeRow::default() }],
        duties: Some([(4, "draining".to_owned()), (5, "removed".to_owned())].into()),
        placement: None,
    }
}

fn rule(replicas: u8, zone: &str, pinned: &[u64]) -> Rule {
    Rule {
        replicas: Some(replicas),
        leader_zone: (!zone.is_empty()).then(|| zone.to_owned()),
        pinned: pinned.iter().copied().map(NodeId).collect(),
        ..Rule::default()
    }
}

#[test]
fn only_nodes_that_serve_can_keep_a_rule() {
    let look = look();
    let refused = |rule: &Rule| Nodes::of(&look).refuse(rule).err().unwrap_or_default();
    assert_eq!(refused(&rule(3, "b", &[])), "");
    assert_eq!(refused(&rule(1, "", &[1, 2])), "");
    assert!(
        refused(&rule(5, "", &[])).contains("as many nodes that serve, and there are 3: 1, 2, 3")
    );
    let as_others = Rule { replicas: None, ..rule(3, "", &[1, 2, 4]) };
    assert!(refused(&as_others).starts_with("3 replicas need as many nodes of these that serve"));
    assert!(refused(&rule(1, "", &[4])).ends_with("and there are 0: none does"));
    assert!(refused(&rule(1, "", &[1, 5])).contains("node 5 was given up"));
    assert_eq!(
        refused(&rule(1, "b", &[1, 4])),
        "none of the nodes that may hold it is in zone b: 1 in a",
        "node 4 is in that zone, and leaves"
    );
}

#[test]
fn a_cluster_whose_nodes_say_nothing_of_zones_is_told_how_they_would() {
    let mut look = look();
    look.nodes.values_mut().for_each(|node| node.address.zone.clear());
    let refused = Nodes::of(&look).refuse(&rule(1, "a", &[])).unwrap_err();
    assert!(refused.contains("no node says where it stands (`zone` in the configuration)"));
}

/// What is still to be done for a rule, if it is the only one.
fn lacks(look: &Look, rule: &Rule) -> Option<String> {
    let rules = RuleSet::new([rule.clone()]);
    let order = Nodes::of(look).order(rule, &rules, &look.ranges);
    assert_eq!(order.in_order == order.ranges, order.why.is_none());
    order.why
}

#[test]
fn a_range_is_in_order_once_all_is_as_the_rule_wants() {
    let mut look = look();
    let lacks = |look: &Look, rule: &Rule| lacks(look, rule).unwrap_or_default();
    assert_eq!(lacks(&look, &rule(3, "b", &[1, 2, 3])), "");
    assert_eq!(lacks(&look, &rule(5, "", &[])), "range 7 has 3 of 5 replicas");
    assert_eq!(lacks(&look, &rule(3, "", &[2, 3, 4])), "range 7 has a replica on node 1");
    let home = rule(3, "a", &[]);
    assert_eq!(lacks(&look, &home), "range 7 is led by node 2, not in zone a");
    // Another leads by now, and node 2 has not heard of it.
    let newer = GroupStatus { group: 7, role: "leader".into(), term: 4, ..Default::default() };
    look.nodes.get_mut(&3).unwrap().status.as_mut().unwrap().groups = vec![newer];
    assert_eq!(lacks(&look, &home), "");
    look.nodes.values_mut().for_each(|node| node.status.as_mut().unwrap().groups.clear());
    assert_eq!(lacks(&look, &home), "nobody says that he leads range 7");
}

#[test]
fn the_ranges_of_a_rule_are_those_that_it_counts_for_and_those_still_to_be_cut() {
    let mut look = look();
    let span = |start: &'static str, end: &'static str, replicas: u8| Rule {
        start: start.into(),
        end: Some(end.into()),
        ..rule(replicas, "", &[])
    };
    let (outer, inner) = (span("b", "p", 1), span("f", "h", 5));
    let rules = RuleSet::new([outer.clone(), inner.clone()]);
    let order = |look: &Look, rule| Nodes::of(look).order(rule, &rules, &look.ranges);
    let uncut = order(&look, &outer);
    assert_eq!((uncut.ranges, uncut.in_order), (1, 0));
    assert_eq!(uncut.why.as_deref(), Some("range 7 is to be cut at \"b\""));
    let range = |group: u64, start: &str, end: &str, replicas: &[u64]| RangeRow {
        group,
        start: start.into(),
        end: end.into(),
        replicas: replicas.to_vec(),
        ..RangeRow::default()
    };
    look.ranges = vec![
        range(7, "", "b", &[1, 2, 3]),
        range(8, "b", "f", &[1]),
        range(9, "f", "h", &[1, 2, 3]),
        range(10, "h", "p", &[2]),
        range(11, "p", "", &[1, 2, 3]),
    ];
    assert_eq!(order(&look, &outer), Order { ranges: 2, in_order: 2, why: None });
    let why = Some("range 9 has 3 of 5 replicas".to_owned());
    assert_eq!(order(&look, &inner), Order { ranges: 1, in_order: 0, why });
}
