//! Random views: every plan keeps the rules that the cluster of the tests checks, whatever the view,
//! and plans that are carried out come to rest. `PROPTEST_CASES=5000` tries more of them.

#![allow(clippy::disallowed_types, reason = "a macro of proptest uses Arc")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod cluster;

use cluster::{Cluster, MIB, check_plan};
use oarlock_placement::{
    Duty, LoadSample, Node, Range, Replica, ReplicaRole, Rules, View, explain, plan,
};
use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId, Random, RangeEpoch, WallMs};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const NOW: u64 = 10_000_000;

fn a_node() -> impl Strategy<Value = (u16, u64, u8, Option<u64>, u8)> {
    // Few are down or drained, so that most views have something to plan with.
    let down = prop_oneof![4 => Just(None), 1 => (0..600_000_u64).prop_map(Some)];
    let duty = prop_oneof![6 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    (1..5_u16, 1..4_u64, 0..4_u8, down, duty)
}

fn make_node(at: usize, (cores, size, zone, down, duty): (u16, u64, u8, Option<u64>, u8)) -> Node {
    Node {
        id: NodeId(at as u64 + 1),
        cores,
        capacity_bytes: size * 20_000 * MIB,
        zone: format!("z{zone}"),
        down_since: down.map(|ms| WallMs(NOW - ms)),
        duty: [Duty::Serving, Duty::Draining, Duty::Removed][usize::from(duty)],
    }
}

#[derive(Clone, Debug)]
struct Shape {
    places: Vec<(u8, u16, bool, bool)>,
    leader: u8,
    mib: u64,
    keys: u64,
    writes: u64,
    reads: u64,
    sample: u8,
    split_ms_ago: Option<u64>,
    replicas: u8,
    leader_zone: Option<u8>,
    pinned: Vec<u8>,
    has_border: bool,
}

fn a_range(nodes: u8) -> impl Strategy<Value = Shape> {
    let learner = prop_oneof![9 => Just(false), 1 => Just(true)];
    let behind = prop_oneof![9 => Just(false), 1 => Just(true)];
    let places = vec((0..nodes, 0..5_u16, learner, behind), 1..6);
    let mib = prop_oneof![1 => 0..10_u64, 3 => 10..60_u64, 1 => 60..300_u64];
    let has_border = prop_oneof![6 => Just(false), 1 => Just(true)];
    let load = (0..30_000_u64, 0..30_000_u64, 0..3_u8);
    let replicas = prop_oneof![Just(1_u8), Just(3), Just(5)];
    let pinned = prop_oneof![4 => Just(Vec::new()), 1 => vec(0..nodes, 1..6)];
    let leader_zone = prop_oneof![3 => Just(None), 1 => (0..4_u8).prop_map(Some)];
    let size = (mib, 0..200_000_u64, option::of(0..1_000_000_u64));
    (places, 0..6_u8, size, load, replicas, (leader_zone, has_border), pinned).prop_map(
        |(places, leader, size, load, replicas, (leader_zone, has_border), pinned)| Shape {
            places,
            leader,
            mib: size.0,
            keys: size.1,
            split_ms_ago: size.2,
            writes: load.0,
            reads: load.1,
            sample: load.2,
            replicas,
            leader_zone,
            pinned,
            has_border,
        },
    )
}

fn make_range(at: usize, shape: &Shape, nodes: &[Node]) -> Range {
    let mut replicas: Vec<Replica> = Vec::new();
    for (node, core, learner, behind) in &shape.places {
        let node = &nodes[usize::from(*node)];
        if replicas.iter().any(|replica| replica.at.node == node.id) {
            continue;
        }
        let role = if *learner { ReplicaRole::Learner } else { ReplicaRole::Voter };
        let core = CoreId(core % node.cores);
        replicas.push(Replica { at: CoreAddr::new(node.id, core), role, caught_up: !behind });
    }
    let leader = replicas.get(usize::from(shape.leader));
    let leader = leader.filter(|replica| replica.role == ReplicaRole::Voter && replica.caught_up);
    let pinned: Vec<NodeId> =
        shape.pinned.iter().map(|node| NodeId(u64::from(*node) + 1)).collect();
    Range {
        group: GroupId(at as u64),
        epoch: RangeEpoch(1),
        leader: leader.map(|replica| replica.at.node),
        replicas,
        bytes: shape.mib * MIB,
        keys: shape.keys,
        writes_per_s: shape.writes,
        reads_per_s: shape.reads,
        sample: [LoadSample::Unknown, LoadSample::SplitPoint, LoadSample::HotKey]
            [usize::from(shape.sample)],
        last_split: shape.split_ms_ago.map(|ms| WallMs(NOW - ms)),
        rules: Rules {
            replicas: shape.replicas,
            leader_zone: shape.leader_zone.map(|zone| format!("z{zone}")),
            pinned,
        },
        rules_of: None,
        border: shape.has_border.then(|| b"m".to_vec()),
    }
}

prop_compose! {
    fn a_cluster()(nodes in 1..9_usize, ranges in 0..30_usize)(
        nodes in vec(a_node(), nodes),
        shapes in vec(a_range(u8::try_from(nodes).unwrap()), ranges),
        moves in 1..9_usize,
        per_node in 1..4_usize,
        few in 0..3_usize,
    ) -> Cluster {
        let nodes: Vec<Node> =
            nodes.into_iter().enumerate().map(|(at, node)| make_node(at, node)).collect();
        let mut cluster = Cluster::new(nodes);
        cluster.view.now = WallMs(NOW);
        cluster.view.settings.moves_max = moves;
        cluster.view.settings.moves_per_node_max = per_node;
        cluster.view.settings.ranges_per_core_min = few;
        for (at, shape) in shapes.iter().enumerate() {
            let range = make_range(at, shape, &cluster.view.nodes);
            cluster.push(range);
        }
        cluster
    }
}

/// Leaders that are down are replaced by their groups, and who is behind catches up.
fn heal(view: &mut View) {
    let up: Vec<NodeId> = view
        .nodes
        .iter()
        .filter(|node| node.down_since.is_none() && node.duty != Duty::Removed)
        .map(|node| node.id)
        .collect();
    for range in &mut view.ranges {
        for replica in &mut range.replicas {
            replica.caught_up |= up.contains(&replica.at.node);
        }
        let voters: Vec<NodeId> = range.voters().map(|replica| replica.at.node).collect();
        let alive: Vec<NodeId> = voters.iter().copied().filter(|id| up.contains(id)).collect();
        if !range.leader.is_some_and(|leader| alive.contains(&leader)) {
            range.leader = alive.first().copied().filter(|_| alive.len() > voters.len() / 2);
        }
    }
}

proptest! {
    #[test]
    fn every_plan_is_safe_and_the_same_again(cluster in a_cluster()) {
        let planned = plan(&cluster.view);
        check_plan(&cluster.view, &planned);
        prop_assert_eq!(&planned, &plan(&cluster.view));
        for range in &cluster.view.ranges {
            let text = explain(&cluster.view, range.group).unwrap().to_string();
            for task in planned.tasks.iter().filter(|task| task.group == range.group) {
                let line = format!("planned: {}: {}\n", task.action, task.reason);
                prop_assert!(text.contains(&line), "{text}");
            }
        }
    }

    /// Tasks end in any order and after any time, and nodes come back; every plan on the way is safe.
    #[test]
    fn plans_under_way_stay_safe(cluster in a_cluster(), seed in any::<u64>()) {
        let mut cluster = cluster;
        let mut random = Random::new(seed);
        for _ in 0..30 {
            heal(&mut cluster.view);
            cluster.begin();
            cluster.finish(|_| random.below(3) == 0);
            cluster.advance(random.below(60_000));
            let nodes = cluster.view.nodes.len() as u64;
            let now = cluster.view.now;
            let node = &mut cluster.view.nodes[usize::try_from(random.below(nodes)).unwrap()];
            match random.below(20) {
                0 => node.down_since = Some(now),
                1..4 => node.down_since = None,
                4 if node.duty == Duty::Serving => node.duty = Duty::Draining,
                5 if node.duty == Duty::Draining => node.duty = Duty::Serving,
                _ => {}
            }
        }
    }

    /// With a world that stands still, plans end; and then everything stays as it is.
    #[test]
    fn everything_comes_to_rest(cluster in a_cluster()) {
        let mut cluster = cluster;
        heal(&mut cluster.view);
        cluster.rest(3_000);
        // What is young or down for a short time is so no more.
        cluster.advance(2_000_000);
        heal(&mut cluster.view);
        cluster.rest(3_000);
        let at_rest = cluster.view.clone();
        for _ in 0..3 {
            cluster.advance(1_000_000);
            prop_assert!(plan(&cluster.view).tasks.is_empty());
        }
        prop_assert_eq!(at_rest.ranges, cluster.view.ranges);
    }

    /// A view that contradicts itself gives a plan, maybe an empty one, and no panic.
    #[test]
    fn nonsense_does_no_harm(cluster in a_cluster(), seed in any::<u64>()) {
        let mut view = cluster.view;
        let mut random = Random::new(seed);
        for node in &mut view.nodes {
            match random.below(6) {
                0 => node.id = NodeId(1),
                1 => node.cores = 0,
                2 => node.capacity_bytes = [0, u64::MAX][usize::try_from(random.below(2)).unwrap()],
                3 => node.down_since = Some(WallMs(u64::MAX)),
                _ => {}
            }
        }
        for range in &mut view.ranges {
            match random.below(8) {
                0 => range.replicas.clear(),
                1 => range.replicas[0].at = CoreAddr::new(NodeId(99), CoreId(9_999)),
                2 => range.leader = Some(NodeId(98)),
                3 => (range.bytes, range.keys) = (u64::MAX, u64::MAX),
                4 => (range.writes_per_s, range.reads_per_s) = (u64::MAX, u64::MAX),
                5 => range.rules.replicas = 0,
                6 => range.group = GroupId(1),
                _ => {
                    let first = range.replicas[0];
                    range.replicas.push(first);
                }
            }
        }
        view.under_way = plan(&view).tasks;
        let planned = plan(&view);
        for range in &view.ranges {
            let explanation = explain(&view, range.group).unwrap().to_string();
            prop_assert!(explanation.contains("rules"));
        }
        prop_assert_eq!(planned, plan(&view));
    }
}
