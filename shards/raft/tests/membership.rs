//! What a replica may say of its group's members, and when a learner keeps up.

mod cluster;

use cluster::Cluster;
use oarlock_raft::{Body, Configuration, Message, Rebuild};
use oarlock_types::{Index, Limits, NodeId, Term};

const ONE: NodeId = NodeId(1);
const VOTERS: [NodeId; 3] = [ONE, NodeId(2), NodeId(3)];
const LEARNER: NodeId = NodeId(4);
const ALL: [NodeId; 4] = [ONE, NodeId(2), NodeId(3), LEARNER];

/// Three voters, led by the first, and a learner.
fn formed() -> Cluster {
    let initial = Configuration { learners: vec![LEARNER], ..Configuration::simple(VOTERS) };
    let mut cluster = Cluster::new(&ALL, initial, Limits::default(), 1);
    cluster.now = cluster.deadline();
    cluster.fire(ONE);
    cluster.stabilize(&ALL);
    assert_eq!(cluster.group(ONE).commit(), Index(1));
    cluster
}

fn change(cluster: &mut Cluster, voters: &[NodeId], learners: &[NodeId]) {
    let (voters, learners) = (voters.to_vec(), learners.to_vec());
    let done =
        cluster.with(ONE, |group, ctx, out| group.change_configuration(ctx, voters, learners, out));
    assert!(matches!(done, Some(Ok(_))), "{done:?}");
}

#[test]
fn members_are_known_from_the_entry_on_by_which_it_left() {
    let mut cluster = formed();
    for (votes_from, knows) in [(0, true), (1, true), (2, false)] {
        let node = cluster.nodes.get_mut(&ONE).expect("known");
        let group = node.group.as_mut().expect("up");
        group.votes_from(Index(votes_from));
        assert_eq!(group.knows_members(), knows, "votes from {votes_from}");
        assert_eq!(group.is_settled_voter(), knows, "votes from {votes_from}");
    }
}

/// Who was made later than its group begins without members.
#[test]
fn who_was_told_of_nobody_knows_no_members() {
    let mut cluster = Cluster::new(&[ONE], Configuration::default(), Limits::default(), 1);
    assert!(!cluster.group(ONE).knows_members());
    cluster.crash(ONE);
    let disk = &mut cluster.nodes.get_mut(&ONE).expect("known").disk;
    disk.checkpoint.configuration = Configuration::simple(VOTERS);
    cluster.start(ONE, true);
    assert!(cluster.group(ONE).knows_members());
}

#[test]
fn a_voter_is_settled_while_no_change_is_open() {
    let mut cluster = formed();
    let settled = |cluster: &Cluster| ALL.map(|id| cluster.group(id).is_settled_voter());
    assert_eq!(settled(&cluster), [true, true, true, false]);
    change(&mut cluster, &VOTERS, &[]);
    assert_eq!(settled(&cluster), [false, true, true, false], "the others have not heard of it");
    cluster.stabilize(&ALL);
    assert!(cluster.group(ONE).is_settled_voter());
}

#[test]
fn a_learner_that_lacks_a_thousand_entries_keeps_up() {
    let mut cluster = formed();
    let join = |cluster: &mut Cluster| {
        let message = Message { term: Term(0), body: Body::Rebuild(Rebuild::Join) };
        cluster.with(ONE, |group, ctx, out| group.step(ctx, LEARNER, message, out));
        cluster.group(ONE).configuration().is_voter(LEARNER)
    };
    for _ in 0..1001 {
        assert_eq!(cluster.propose(ONE, ""), None);
        cluster.stabilize(&VOTERS);
    }
    assert!(!join(&mut cluster), "it lacks one more");
    let first = cluster.network.iter().position(|l| l.to == LEARNER).expect("it is sent entries");
    cluster.deliver(first);
    cluster.flush(LEARNER);
    let answer = cluster.network.iter().position(|l| l.from == LEARNER).expect("it answers");
    cluster.deliver(answer);
    assert!(join(&mut cluster));
}
