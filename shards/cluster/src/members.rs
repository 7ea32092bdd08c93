//! The nodes that have joined since the cluster was formed, as lines of JSON: in the meta group, in a node's
//! copy of the map, and in a request to join. Pure.

use oarlock_types::{DiskId, FeatureLevel, FeatureLevels, NodeId};
use serde::{Deserialize, Serialize};

use crate::NodeEntry;
use crate::hex::{decode_u128, encode_u128};
use crate::levels::NotUnderstood;

/// A node that has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who and where it is. While it only asks to join, the id may be 0: any will do.
    pub entry: NodeEntry,
    /// Its data directory, by which it is known again should it ask twice.
    pub disk: DiskId,
}

/// A node that asks to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is.
    pub member: Member,
    /// The feature levels that it understands.
    pub levels: FeatureLevels,
}

/// Why a node can not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// Another node has the id that it wants.
    #[error(
        "the cluster has a node {} already: leave node_id out, and the node gets an id of its own", .0.get()
    )]
    IdTaken(NodeId),
    /// It has too many cores, or none.
    #[error("it has {cores} cores, and a node has from 1 to {cores_max}: set `cores`")]
    Cores {
        /// How many.
        cores: u16,
        /// The bound.
        cores_max: u16,
    },
    /// It does not understand what the others say.
    #[error(transparent)]
    Level(#[from] NotUnderstood),
}

#[derive(Serialize, Deserialize)]
struct Text {
    node: NodeEntry,
    disk: String,
    /// The oldest and the newest, if it asks to join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    levels: Option<(u16, u16)>,
}

impl Text {
    fn of(member: &Member) -> Self {
        let disk = encode_u128(member.disk.get());
        Self { node: member.entry.clone(), disk, levels: None }
    }

    fn read(text: &[u8]) -> Option<(Member, Option<(u16, u16)>)> {
        let text: Self = serde_json::from_slice(text).ok()?;
        let disk = DiskId(decode_u128(&text.disk)?);
        Some((Member { entry: text.node, disk }, text.levels))
    }

    fn write(&self) -> String {
        serde_json::to_string(self).expect("invariant: numbers and texts")
    }
}

/// The text of a node.
#[must_use]
pub fn write(member: &Member) -> String {
    Text::of(member).write()
}

/// The node that a text stands for; `None` if it is none.
#[must_use]
pub fn read(text: &[u8]) -> Option<Member> {
    Text::read(text).map(|(member, _)| member)
}

/// The text of a node that asks to join.
#[must_use]
pub fn write_candidate(candidate: &Candidate) -> String {
    let FeatureLevels { min, max } = candidate.levels;
    Text { levels: Some((min.get(), max.get())), ..Text::of(&candidate.member) }.write()
}

/// The node that asks to join by this text; `None` if it is none. One that says nothing of levels understands
/// the first.
#[must_use]
pub fn read_candidate(text: &[u8]) -> Option<Candidate> {
    let (member, levels) = Text::read(text)?;
    let levels = levels.map_or(FeatureLevels::FIRST, |(min, max)| FeatureLevels {
        min: FeatureLevel(min),
        max: FeatureLevel(max),
    });
    Some(Candidate { member, levels })
}

/// All nodes, in the order of their ids: those that the cluster was formed of, and those that have joined.
#[must_use]
pub fn all_nodes<'a>(
    formed_of: &'a [NodeEntry],
    joined: impl IntoIterator<Item = &'a NodeEntry>,
) -> Vec<NodeEntry> {
    let mut nodes: Vec<NodeEntry> = formed_of.iter().chain(joined).cloned().collect();
    nodes.sort_by_key(|node| node.id);
    nodes.dedup_by_key(|node| node.id);
    nodes
}

/// Those of them that can be reached: where a lost node was, its successor may be, with a higher id.
pub fn reachable(nodes: &[NodeEntry]) -> impl Iterator<Item = &NodeEntry> {
    let is_taken = |node: &&NodeEntry| {
        !nodes.iter().any(|other| other.id > node.id && other.peer_address == node.peer_address)
    };
    nodes.iter().filter(is_taken)
}

#[cfg(test)]
mod tests {
    use oarlock_types::NodeId;

    use super::*;

    fn entry(id: u64, port: u16) -> NodeEntry {
        NodeEntry {
            id: NodeId(id),
            peer_address: ([10, 0, 0, 1], port).into(),
            client_address: ([10, 0, 0, 1], port + 1).into(),
            cores: 2,
            core_ports: Vec::new(),
            zone: String::new(),
        }
    }

    #[test]
    fn a_node_comes_back_as_it_was_written() {
        let mut member = Member { entry: entry(4, 70), disk: DiskId(0xabc) };
        let line = "{\"node\":{\"id\":4,\"peer_address\":\"10.0.0.1:70\",\"client_address\":\
             \"10.0.0.1:71\",\"cores\":2},\"disk\":\"00000000000000000000000000000abc\"}";
        assert_eq!(write(&member), line);
        assert_eq!(read(line.as_bytes()).as_ref(), Some(&member));
        (member.entry.core_ports, member.entry.zone) = (vec![7, 8], "east".to_owned());
        assert_eq!(read(write(&member).as_bytes()), Some(member));
        let range = r#"{"group":7,"epoch":3,"start":"","end":null,"replicas":[]}"#;
        assert_eq!((read(b""), read(range.as_bytes())), (None, None));
    }

    #[test]
    fn who_asks_to_join_says_what_it_understands_and_only_a_new_field_beside_the_node_is_passed_over()
     {
        let member = Member { entry: entry(0, 70), disk: DiskId(0xabc) };
        let levels = FeatureLevels { min: FeatureLevel(2), max: FeatureLevel(3) };
        let candidate = Candidate { member: member.clone(), levels };
        let line = write_candidate(&candidate);
        assert!(line.ends_with(r#""levels":[2,3]}"#), "{line}");
        assert_eq!(read_candidate(line.as_bytes()), Some(candidate));
        let old = Candidate { member: member.clone(), levels: FeatureLevels::FIRST };
        assert_eq!(read_candidate(write(&member).as_bytes()), Some(old));
        let text = write(&member);
        let more = text.replacen('{', "{\"moons\":[1],", 1);
        assert_eq!(read(more.as_bytes()).as_ref(), Some(&member));
        let odd = text.replacen("\"id\"", "\"rack\":7,\"id\"", 1);
        assert_eq!(
            read(odd.as_bytes()),
            None,
            "who it is and where may mean something else with it"
        );
    }

    #[test]
    fn a_node_that_took_the_place_of_another_is_reached_there() {
        let nodes = all_nodes(&[entry(2, 20), entry(1, 10)], &[entry(4, 20)]);
        assert_eq!(nodes.iter().map(|node| node.id.get()).collect::<Vec<_>>(), [1, 2, 4]);
        let ids: Vec<u64> = reachable(&nodes).map(|node| node.id.get()).collect();
        assert_eq!(ids, [1, 4]);
    }
}
