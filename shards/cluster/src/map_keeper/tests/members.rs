//! Nodes that join and that are given up, and the feature level that all others understand.

use super::*;

fn candidate(disk: u128, wanted: u64) -> Candidate {
    let line = format!(
        "{{\"node\":{{\"id\":{wanted},\"peer_address\":\"10.0.0.4:1\",\"client_address\":\"10.0.0.4:2\",\
         \"cores\":1}},\"disk\":\"{disk:032x}\"}}"
    );
    crate::members::read_candidate(line.as_bytes()).unwrap()
}

#[test]
fn nodes_that_join_get_ids_that_nobody_has_had() {
    let map = formation(3);
    let (mut one, mut two) = (keeper(&map), keeper(&map));
    let (mut meta, mut now) = (Meta::new(), Mono(0));
    settle(&mut one, &mut meta, &mut now);
    // Two nodes let newcomers in at once; one comes to both, and one wants an id of its own.
    assert_eq!(one.join(&candidate(7, 0)), Ok(None));
    assert_eq!(one.join(&candidate(8, 0)), Ok(None));
    assert_eq!(two.join(&candidate(8, 0)), Ok(None));
    assert_eq!(two.join(&candidate(9, 20)), Ok(None));
    one.propose(split(&map, b"a", 9));
    for _ in 0..3 {
        settle(&mut one, &mut meta, &mut now);
        two.heard(one.version());
        settle(&mut two, &mut meta, &mut now);
        one.heard(two.version());
    }
    let id = |keeper: &mut MapKeeper, disk| keeper.join(&candidate(disk, 0)).unwrap();
    let mut ids: Vec<NodeId> = [7, 8, 9].map(|disk| id(&mut one, disk).unwrap()).to_vec();
    assert_eq!(ids, [7, 8, 9].map(|disk| id(&mut two, disk).unwrap()));
    assert_eq!(ids[2], NodeId(20));
    ids.sort_unstable();
    assert_eq!(ids, [NodeId(3), NodeId(4), NodeId(20)]);
    assert_eq!(one.members, two.members);
    assert_eq!(one.take_members(), None, "no copy on disk has them");
    assert_eq!(one.take_copy(Mono(0), FeatureLevel::MAX).unwrap().members.len(), 3);
    one.set_durable_members(3);
    assert_eq!(one.take_members().map(<[_]>::len), Some(3));
    assert_eq!(one.take_members(), None, "they are told once");
    assert_eq!(one.version(), two.version());
    assert_eq!(all(&one.confirmed), all(&two.confirmed));
    // The next one comes behind all of them.
    assert_eq!(id(&mut one, 10), None);
    settle(&mut one, &mut meta, &mut now);
    assert_eq!(id(&mut one, 10), Some(NodeId(21)));
    let taken = |wanted| JoinRefusal::IdTaken(NodeId(wanted));
    assert_eq!(one.join(&candidate(11, 2)), Err(taken(2)));
    assert_eq!(one.join(&candidate(11, 20)), Err(taken(20)));
}

#[test]
fn who_reads_the_whole_map_reads_the_nodes_too() {
    let map = formation(3);
    let (mut one, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    settle(&mut one, &mut meta, &mut now);
    assert_eq!(one.join(&candidate(7, 0)), Ok(None));
    settle(&mut one, &mut meta, &mut now);
    // What the operator has nodes do stands between nodes and ranges.
    let (key, value) = (duties::key(NodeId(1)), Bytes::from_static(b"draining"));
    meta.carry_out(Request::one(Command::SetNx { key, value }));
    let change = Bytes::from_static(b"map/change/2");
    meta.carry_out(Request::one(Command::Del { keys: vec![change] }));
    let mut two = keeper(&map);
    two.heard(one.version());
    settle(&mut two, &mut meta, &mut now);
    assert_eq!((two.version(), &two.members), (one.version(), &one.members));
}

/// What a keeper hears of the others.
fn hear(keeper: &mut MapKeeper, heard: &[(u64, u16)]) {
    keeper.hear_levels(|| heard.iter().map(|(node, max)| (NodeId(*node), levels(*max))).collect());
}

fn set_duty(meta: &mut Meta, node: u64, value: &'static [u8]) {
    let (key, value) = (duties::key(NodeId(node)), Bytes::from_static(value));
    let pairs = vec![(key, value)];
    meta.carry_out(Request::one(Command::MSet { pairs }));
}

#[test]
fn the_level_is_raised_only_when_all_that_are_not_given_up_understand_it() {
    let map = formation(3);
    let mut keeper = keeper_of(&map, levels(2));
    let (mut meta, mut now) = (Meta::new(), Mono(0));
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.level(), FeatureLevel(1), "node 2 was never heard");
    hear(&mut keeper, &[(2, 1)]);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.level(), FeatureLevel(1), "node 2 is an older build");
    // A third one joins meanwhile. It is asked, too.
    let newcomer = Candidate { levels: levels(2), ..candidate(7, 0) };
    assert_eq!(keeper.join(&newcomer), Ok(None));
    settle(&mut keeper, &mut meta, &mut now);
    hear(&mut keeper, &[(2, 2)]);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.level(), FeatureLevel(1), "node 3 is silent");
    set_duty(&mut meta, 3, duties::DRAINING);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.level(), FeatureLevel(1), "it is to be emptied, but may come back");
    let version = keeper.version();
    set_duty(&mut meta, 3, duties::REMOVED);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!((keeper.level(), keeper.version()), (FeatureLevel(2), version + 1));
    assert_eq!(meta.get("map/level"), Reply::Bulk(r#"{"level":2}"#.into()));
    // It is all: nothing is asked for any more, and it does not fall.
    hear(&mut keeper, &[(2, 1)]);
    assert!(keeper.next_request(now + COPY_INTERVAL, true).is_none());
    assert_eq!(keeper.level(), FeatureLevel(2));
}

#[test]
fn who_does_not_lead_raises_nothing_and_who_goes_silent_at_the_last_moment_is_waited_for() {
    let map = formation(3);
    let mut keeper = keeper_of(&map, levels(2));
    let (mut meta, mut now) = (Meta::new(), Mono(0));
    settle(&mut keeper, &mut meta, &mut now);
    hear(&mut keeper, &[(2, 2)]);
    now = now + COPY_INTERVAL;
    assert_eq!(keeper.next_request(now, false), None);
    let question = keeper.next_request(now, true);
    assert_eq!(question, Some(duties::read()));
    keeper.outcome(now, Ok(meta.carry_out(question.unwrap())));
    assert!(keeper.level.is_due());
    let look = keeper.next_request(now, true).unwrap();
    keeper.outcome(now, Ok(meta.carry_out(look)));
    hear(&mut keeper, &[]);
    let writes = meta.writes;
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!((keeper.level(), meta.writes), (FeatureLevel(1), writes));
    hear(&mut keeper, &[(2, 2)]);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.level(), FeatureLevel(2));
}

#[test]
fn a_higher_level_comes_by_the_change_or_with_the_whole_map_and_is_copied_at_once() {
    let map = formation(3);
    let mut one = keeper_of(&map, levels(2));
    let (mut meta, mut now) = (Meta::new(), Mono::from_ms(60_000));
    settle(&mut one, &mut meta, &mut now);
    hear(&mut one, &[(2, 2)]);
    one.propose(split(&map, b"a", 9));
    settle(&mut one, &mut meta, &mut now);
    assert_eq!(one.level(), FeatureLevel(2));
    let (mut by_change, mut whole) = (keeper_of(&map, levels(2)), keeper_of(&map, levels(2)));
    settle(&mut by_change, &mut meta, &mut now);
    let change = Bytes::from_static(b"map/change/2");
    meta.carry_out(Request::one(Command::Del { keys: vec![change] }));
    settle(&mut whole, &mut meta, &mut now);
    for keeper in [&mut by_change, &mut whole] {
        assert_eq!((keeper.level(), keeper.version()), (FeatureLevel(2), one.version()));
        assert_eq!(keeper.take_copy(now, FeatureLevel(1)).unwrap().level, FeatureLevel(2));
        assert!(keeper.take_copy(now, FeatureLevel(1)).is_none(), "it is being written");
        let again = now + LEVEL_COPY_INTERVAL;
        assert!(keeper.take_copy(again, FeatureLevel(1)).is_some(), "it could not be written");
        assert!(keeper.take_copy(again + COPY_INTERVAL, FeatureLevel(2)).is_none());
    }
}

#[test]
fn who_does_not_understand_the_level_is_not_let_in_and_takes_in_nothing_more() {
    let map = formation(3);
    let mut one = keeper_of(&map, levels(2));
    let (mut meta, mut now) = (Meta::new(), Mono(0));
    settle(&mut one, &mut meta, &mut now);
    let old = candidate(8, 0);
    hear(&mut one, &[(2, 2)]);
    settle(&mut one, &mut meta, &mut now);
    let refused = one.join(&old).unwrap_err().to_string();
    assert!(refused.starts_with("the cluster is at feature level 2, and this node"), "{refused}");
    assert!(one.candidates.is_empty());
    let mut old = keeper_of(&map, levels(1));
    one.propose(split(&map, b"a", 9));
    settle(&mut one, &mut meta, &mut now);
    settle(&mut old, &mut meta, &mut now);
    let beyond = old.beyond().unwrap();
    assert_eq!((beyond.cluster, beyond.understood), (FeatureLevel(2), levels(1)));
    assert_eq!((old.level(), old.version(), old.confirmed.len()), (FeatureLevel(1), 1, 3));
}

#[test]
fn it_is_asked_now_and_then_who_was_given_up_while_somebody_is_silent() {
    let map = formation(3);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    set_duty(&mut meta, 2, duties::REMOVED);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.take_removed(), None, "all are heard");
    keeper.hear_silence(true);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.take_removed(), Some([NodeId(2)].as_slice()));
    assert_eq!(keeper.take_removed(), None, "it is told once");
    set_duty(&mut meta, 2, duties::DRAINING);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.take_removed(), None, "it was asked a moment ago");
    now = now + Duration::from_secs(10);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.take_removed(), Some([].as_slice()), "it may come back");
}
