//! The arithmetic of quorums: any two meet, in simple and in joint configurations, and the index
//! that a quorum has reached is what a count by hand gives.

use std::collections::BTreeSet;

use oarlock_raft::Configuration;
use oarlock_types::{Index, NodeId};
use proptest::prelude::*;

fn set() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(1..8_u64, 1..6)
}

fn configuration(voters: &BTreeSet<u64>, outgoing: &BTreeSet<u64>) -> Configuration {
    let nodes = |set: &BTreeSet<u64>| set.iter().map(|n| NodeId(*n)).collect();
    Configuration { voters: nodes(voters), outgoing: nodes(outgoing), learners: Vec::new() }
}

fn is_quorum(configuration: &Configuration, of: &BTreeSet<u64>) -> bool {
    configuration.quorum(|n| of.contains(&n.get()))
}

proptest! {
    #[test]
    fn two_quorums_meet(
        voters in set(),
        outgoing in prop_oneof![Just(BTreeSet::new()), set()],
        a in set(),
        b in set(),
    ) {
        let configuration = configuration(&voters, &outgoing);
        if is_quorum(&configuration, &a) && is_quorum(&configuration, &b) {
            let meets = |side: &BTreeSet<u64>| {
                side.is_empty() || side.iter().any(|n| a.contains(n) && b.contains(n))
            };
            prop_assert!(meets(&voters) && meets(&outgoing));
        }
    }

    #[test]
    fn joint_quorums_meet_those_of_both_sides(old in set(), new in set(), a in set(), b in set()) {
        let joint = configuration(&new, &old);
        for side in [&old, &new] {
            let simple = configuration(side, &BTreeSet::new());
            if is_quorum(&joint, &a) && is_quorum(&simple, &b) {
                prop_assert!(a.intersection(&b).next().is_some());
            }
        }
    }

    #[test]
    fn everyone_is_a_quorum_and_nobody_is_none(voters in set(), outgoing in set()) {
        let configuration = configuration(&voters, &outgoing);
        let all: BTreeSet<u64> = voters.union(&outgoing).copied().collect();
        prop_assert!(is_quorum(&configuration, &all));
        prop_assert!(!is_quorum(&configuration, &BTreeSet::new()));
    }

    #[test]
    fn the_index_of_a_quorum_is_the_largest_that_one_has_reached(
        voters in set(),
        outgoing in prop_oneof![Just(BTreeSet::new()), set()],
        reached in proptest::array::uniform8(0..20_u64),
    ) {
        let configuration = configuration(&voters, &outgoing);
        let of = |n: NodeId| Index(reached[usize::try_from(n.get()).expect("small") % 8]);
        let by_hand = (0..20).rev().map(Index).find(|i| configuration.quorum(|n| of(n) >= *i));
        prop_assert_eq!(configuration.quorum_index(of), by_hand.expect("zero is reached"));
    }
}
