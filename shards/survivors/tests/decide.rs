//! Decisions on made-up survivors.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use oarlock_cluster::members;
use oarlock_raft::LogPosition;
use oarlock_survivors::decide::{DecideError, TERM_LEAP, decide};
use oarlock_survivors::plan::{GroupPlan, Loss};
use oarlock_survivors::state::{Cut, KnownPeer, MetaState, NodeState, ReplicaKind, ReplicaState};
use oarlock_types::{ClusterId, DiskId, FeatureLevel, GroupId, Index, NodeId, RangeEpoch, Term};
use support::{range, replica, survivor};

fn nodes(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { term: Term(term), index: Index(index) }
}

/// The plan of the only group of these survivors.
#[track_caller]
fn only(states: &[NodeState]) -> GroupPlan {
    let plan = decide(states).unwrap();
    assert_eq!(plan.groups.len(), 1, "{plan:#?}");
    plan.groups[0].clone()
}

#[test]
fn a_group_with_a_quorum_is_left_alone() {
    let group = |last| replica(7, &[1, 2, 3], last);
    let states = [survivor(1, vec![group((9, 4))]), survivor(2, vec![group((8, 4))])];
    let plan = decide(&states).unwrap();
    assert_eq!((plan.sound_count, plan.groups, plan.gone), (1, vec![], vec![]));
    assert_eq!(plan.given_up, nodes(&[3]));
}

#[test]
fn the_only_survivor_goes_on_and_what_the_others_had_alone_may_be_lost() {
    let plan = decide(&[survivor(1, vec![replica(7, &[1, 2, 3], (9, 4))])]).unwrap();
    assert_eq!((plan.given_up.clone(), plan.sound_count), (nodes(&[2, 3]), 0));
    let group = &plan.groups[0];
    assert_eq!((group.chosen, group.recovered_at), (NodeId(1), at(10, 4 + TERM_LEAP)));
    let Loss { kept, committed, is_possible, certain_to, .. } = group.loss;
    assert_eq!((kept, committed, is_possible, certain_to), (at(9, 4), Index(4), true, Index(0)));
}

/// A later term wins over a longer log, as in an election.
#[test]
fn the_newest_log_is_chosen_as_voters_would() {
    let group = |last| replica(7, &[1, 2, 3, 4, 5], last);
    let states = [survivor(1, vec![group((90, 3))]), survivor(2, vec![group((8, 4))])];
    assert_eq!(only(&states).chosen, NodeId(2));
    let states = [survivor(1, vec![group((90, 4))]), survivor(2, vec![group((8, 4))])];
    assert_eq!(only(&states).chosen, NodeId(1));
    let states = [survivor(2, vec![group((8, 4))]), survivor(1, vec![group((8, 4))])];
    assert_eq!(only(&states).chosen, NodeId(1), "the lower id of equals");
}

#[test]
fn a_learner_that_has_more_than_the_last_voter_is_chosen() {
    let mut learner = replica(7, &[1, 2, 3], (9, 4));
    learner.members.learners = nodes(&[4]);
    learner.is_electable = false;
    let mut voter = replica(7, &[1, 2, 3], (8, 4));
    voter.members.learners = nodes(&[4]);
    let states = [survivor(1, vec![voter.clone()]), survivor(4, vec![learner.clone()])];
    assert_eq!(only(&states).chosen, NodeId(4));
    learner.last = voter.last;
    let states = [survivor(1, vec![voter]), survivor(4, vec![learner])];
    assert_eq!(only(&states).chosen, NodeId(1), "of equals the voter");
}

/// Of four voters every quorum had one of these two, so whatever was acknowledged is in the newer log.
#[test]
fn nothing_is_lost_where_every_quorum_had_a_survivor() {
    let group = |last| replica(7, &[1, 2, 3, 4], last);
    let states = [survivor(1, vec![group((9, 4))]), survivor(2, vec![group((7, 4))])];
    let group = only(&states);
    assert_eq!((group.loss.is_possible, group.loss.certain_to), (false, Index(0)));
}

/// A joint configuration needs both majorities.
#[test]
fn a_joint_configuration_loses_its_quorum_with_either_half() {
    let mut joint = replica(7, &[1, 2, 4], (9, 4));
    joint.members.outgoing = nodes(&[3, 5, 6]);
    let states = [survivor(1, vec![joint.clone()]), survivor(2, vec![joint.clone()])];
    let group = only(&states);
    assert!(!group.loss.is_possible, "the old half alone decides nothing");
    joint.members.outgoing = nodes(&[1, 2, 3]);
    let states = [survivor(1, vec![joint.clone()]), survivor(2, vec![joint])];
    assert_eq!(decide(&states).unwrap().sound_count, 1);
}

/// The replica that forgot a part of its log neither votes nor goes on while another one can.
#[test]
fn a_damaged_or_unfinished_replica_makes_no_quorum() {
    let group = |last| replica(7, &[1, 2, 3], last);
    let lost = ReplicaState { kind: ReplicaKind::Lost, committed: Index(20), ..group((0, 0)) };
    let states = [survivor(1, vec![group((9, 4))]), survivor(2, vec![lost])];
    let plan = only(&states);
    assert_eq!((plan.chosen, plan.loss.certain_to), (NodeId(1), Index(20)));
    let behind = ReplicaState { reached: at(30, 4), ..group((9, 4)) };
    let states = [survivor(1, vec![behind.clone()]), survivor(2, vec![group((9, 4))])];
    let plan = only(&states);
    assert_eq!((plan.loss.is_possible, plan.loss.certain_to), (true, Index(30)));
    assert_eq!(decide(&[survivor(1, vec![behind])]).unwrap().groups.len(), 1);
    let rebuilt = ReplicaState { votes_from: Index(10), ..group((9, 4)) };
    let states = [survivor(1, vec![rebuilt]), survivor(2, vec![group((9, 4))])];
    assert!(only(&states).loss.is_possible);
}

/// A member that has no replica yet makes one and votes; one that may have lost it does not.
#[test]
fn a_member_without_a_replica_votes_unless_it_may_have_had_one() {
    let mut states = [survivor(1, vec![replica(7, &[1, 2, 3], (9, 4))]), survivor(2, vec![])];
    assert_eq!(decide(&states).unwrap().sound_count, 1);
    states[1].has_unnamed_losses = true;
    let group = only(&states);
    assert_eq!(group.replicas[1].kind, ReplicaKind::Absent);
    // One that has ended here would vote for nobody before it has the log again.
    let ended = ReplicaState { kind: ReplicaKind::Ended, ..replica(7, &[], (5, 4)) };
    let states = [survivor(1, vec![replica(7, &[1, 2, 3], (9, 4))]), survivor(2, vec![ended])];
    assert_eq!(only(&states).replicas.len(), 2);
}

/// The lost may have a log by which such a survivor is a member.
#[test]
fn a_survivor_that_is_no_member_by_the_chosen_log_stands_back_too() {
    let states = [survivor(1, vec![replica(7, &[1, 2, 3], (9, 4))]), survivor(4, vec![])];
    let group = only(&states);
    let there: Vec<(NodeId, ReplicaKind)> =
        group.replicas.iter().map(|there| (there.node, there.kind)).collect();
    assert_eq!(there, [(NodeId(1), ReplicaKind::Whole), (NodeId(4), ReplicaKind::Absent)]);
}

#[test]
fn a_range_of_which_nothing_survives_is_told() {
    let mut state = survivor(1, vec![replica(7, &[1], (9, 4))]);
    state.ranges = vec![range(7, (1, 0), &[1]), range(8, (1, 0), &[2, 3])];
    let blank = replica(9, &[], (0, 0));
    state.ranges.push(range(9, (1, 0), &[1, 2, 3]));
    state.replicas.push(blank);
    let plan = decide(&[state]).unwrap();
    assert_eq!((plan.sound_count, plan.gone), (1, vec![GroupId(8), GroupId(9)]));
    assert_eq!(plan.ranges.len(), 2);
}

/// A survivor that has not heard of a merge has a replica of the range that was taken: it must not go on from that,
/// unless the merge itself is lost.
#[test]
fn a_range_that_another_has_taken_does_not_go_on() {
    let mut behind = survivor(1, vec![replica(8, &[1, 2, 3], (9, 4))]);
    behind.ranges = vec![range(8, (2, 0), &[1, 2, 3])];
    let taker = |epoch| ReplicaState { epoch: RangeEpoch(epoch), ..replica(7, &[4], (30, 4)) };
    let mut knows = survivor(4, vec![taker(3)]);
    knows.ranges = vec![range(7, (3, 0), &[4])];
    let plan = decide(&[behind.clone(), knows.clone()]).unwrap();
    assert_eq!((plan.sound_count, plan.groups, plan.gone), (1, vec![], vec![]));
    // Of one who lost its quorum, too, and goes on from a log with the merge, or from one without.
    knows.replicas[0].members = replica(7, &[4, 5, 6], (0, 0)).members;
    assert_eq!(only(&[behind.clone(), knows.clone()]).group, GroupId(7));
    knows.replicas[0].epoch = RangeEpoch(2);
    assert_eq!(decide(&[behind.clone(), knows.clone()]).unwrap().groups.len(), 2);
    // What has bounds as new was not taken.
    knows.replicas[0].epoch = RangeEpoch(3);
    behind.replicas[0].epoch = RangeEpoch(3);
    assert_eq!(decide(&[behind, knows]).unwrap().groups.len(), 2);
}

/// No map of a survivor may know of either range: then what the one that has taken the other remembers says so.
#[test]
fn a_range_that_no_map_knows_and_another_has_taken_does_not_go_on() {
    let behind = survivor(1, vec![replica(8, &[1, 2, 3], (9, 4))]);
    let taker = ReplicaState { taken: vec![GroupId(8)], ..replica(7, &[4, 5, 6], (30, 4)) };
    let plan = decide(&[behind.clone(), survivor(4, vec![taker])]).unwrap();
    let goes_on: Vec<GroupId> = plan.groups.iter().map(|plan| plan.group).collect();
    assert_eq!((goes_on, plan.gone), (vec![GroupId(7)], vec![]));
    let other = survivor(4, vec![replica(7, &[4, 5, 6], (30, 4))]);
    assert_eq!(decide(&[behind, other]).unwrap().groups.len(), 2);
}

/// What the map says of the members must be older than what the group says from now on: else it would
/// count as moved away, and end.
#[test]
fn the_new_members_are_newer_than_all_that_the_map_knows() {
    let mut state = survivor(1, vec![replica(7, &[1, 2, 3], (9, 4))]);
    state.ranges = vec![range(7, (1, 50), &[2, 3, 4])];
    let mut other = survivor(5, vec![]);
    other.ranges = vec![range(7, (1, 60), &[2, 3, 4])];
    let plan = decide(&[state.clone(), other]).unwrap();
    assert_eq!(plan.groups[0].recovered_at.index, Index(61));
    assert_eq!(plan.given_up, nodes(&[2, 3, 4]));
    assert!(!plan.groups[0].is_cut_since);
    state.ranges = vec![range(7, (2, 50), &[2, 3, 4])];
    assert!(only(&[state]).is_cut_since);
}

#[test]
fn the_term_is_far_above_all_that_survivors_know() {
    let group = |last| replica(7, &[1, 2, 3, 4, 5], last);
    let voted = ReplicaState { term: Term(44), ..group((2, 3)) };
    let states = [survivor(1, vec![group((9, 4))]), survivor(2, vec![voted])];
    assert_eq!(only(&states).recovered_at.term, Term(44 + TERM_LEAP));
}

#[test]
fn a_cut_that_nobody_has_applied_needs_a_second_plan() {
    let mut cut = replica(7, &[1, 2, 3], (9, 4));
    cut.cuts = [8, 9].map(|child| Cut { child: GroupId(child), index: Index(child) }).into();
    let states = [survivor(1, vec![cut, replica(8, &[1, 2, 3], (3, 1))])];
    let plan = decide(&states).unwrap();
    assert_eq!(plan.groups[0].cuts, [GroupId(9)]);
    assert!(plan.groups[1].cuts.is_empty());
}

#[test]
fn a_meta_group_gets_a_newer_version_and_ids_that_nobody_has() {
    let meta = MetaState { map_version: 20, groups: GroupId(16) };
    let mut first = survivor(1, vec![replica(0, &[1, 2, 3], (9, 4))]);
    first.meta = Some(meta);
    let group = only(&[first.clone()]);
    assert_eq!(group.recovered_at.index, Index(11), "an entry for the keys comes before");
    assert_eq!(group.meta, Some(MetaState { map_version: 21, groups: GroupId(16) }));
    first.map_version = 33;
    first.replicas.push(replica(40, &[1], (9, 4)));
    let line = r#"{"node":{"id":4,"peer_address":"10.0.0.4:1","client_address":"10.0.0.4:2","cores":2},
        "disk":"0000000000000000000000000000000c"}"#;
    let member = members::read(line.as_bytes()).unwrap();
    first.joined.push(member.clone());
    first.level = FeatureLevel(2);
    let plan = decide(&[first]).unwrap();
    assert_eq!(plan.given_up, nodes(&[2, 3, 4]));
    let group = &plan.groups[0];
    assert_eq!(group.meta, Some(MetaState { map_version: 34, groups: GroupId(40) }));
    assert_eq!((&group.joined[..], group.level), (&[member][..], FeatureLevel(2)));
}

#[test]
fn states_that_do_not_belong_together_make_no_plan() {
    let state = |node| survivor(node, vec![]);
    assert_eq!(decide(&[]), Err(DecideError::NoSurvivor));
    assert_eq!(decide(&[state(1), state(1)]), Err(DecideError::Twice(NodeId(1))));
    let other = NodeState { cluster: ClusterId(8), ..state(2) };
    assert!(matches!(decide(&[state(1), other]), Err(DecideError::OtherCluster { .. })));
    let mut knows = state(1);
    knows.peers.push(KnownPeer { node: NodeId(2), disk: DiskId(5) });
    let error = decide(&[knows, state(2)]).unwrap_err();
    assert_eq!(error, DecideError::OtherDisk { node: NodeId(2), knows: NodeId(1) });
}
