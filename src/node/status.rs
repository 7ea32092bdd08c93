//! `OARLOCK STATUS`: what a node knows of itself, as one JSON document for people's tools.

use std::time::Duration;

use oarlock_cluster::NodeEntry;
use oarlock_cluster::hex::encode_u128;
use oarlock_raft::ProgressState;
use oarlock_shard::rebuild::RebuildStage;
use oarlock_shard::status::ReplicaStatus;
use oarlock_types::{CoreId, FeatureLevels, GroupId, NodeId};
use serde_json::{Map, Value, json};

use super::front::NodeFacts;

/// What one core says: its replicas, and those that are lost or being rebuilt.
pub type CoreStatus = (CoreId, Vec<ReplicaStatus>, Vec<(GroupId, RebuildStage)>);

/// The document, from what each core says of its replicas.
#[must_use]
pub fn document(
    facts: &NodeFacts,
    known: &[NodeEntry],
    uptime: Duration,
    answers: &[CoreStatus],
) -> Value {
    let cores = facts.counters.iter().enumerate().map(|(core, counters)| {
        let mut fields = Map::new();
        fields.insert("core".to_owned(), json!(core));
        for (name, count) in counters.read() {
            fields.insert(name.to_owned(), json!(count));
        }
        Value::Object(fields)
    });
    let groups = answers
        .iter()
        .flat_map(|(core, replicas, _)| replicas.iter().map(move |replica| group(*core, replica)));
    let damaged = answers.iter().flat_map(|(core, _, damaged)| {
        damaged.iter().map(|(group, stage)| {
            json!({ "group": group.get(), "core": core.get(), "stage": stage.name() })
        })
    });
    let nodes = known.iter().map(|entry| {
        json!({
            "node": entry.id.get(),
            "client_address": entry.client_address.to_string(),
            "cores": entry.cores,
            "zone": entry.zone,
            "levels": levels_of(facts, entry.id).map(pair),
        })
    });
    json!({
        "node": facts.node.get(),
        "cluster": encode_u128(facts.cluster.get()),
        "incarnation": facts.incarnation.get(),
        "level": facts.table.level().get(),
        "levels": pair(facts.levels),
        "replication_factor": facts.replication_factor,
        "uptime_ms": u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        "cores": cores.collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

/// What a node understands, as far as it is known here.
fn levels_of(facts: &NodeFacts, node: NodeId) -> Option<FeatureLevels> {
    if node == facts.node { Some(facts.levels) } else { facts.table.peer_levels(node) }
}

fn pair(levels: FeatureLevels) -> [u16; 2] {
    [levels.min.get(), levels.max.get()]
}

fn group(core: CoreId, replica: &ReplicaStatus) -> Value {
    let followers = replica.followers.iter().map(|follower| {
        json!({
            "node": follower.node.get(),
            "matched": follower.matched.get(),
            "state": state_name(&follower.state),
            "reachable": follower.reachable,
        })
    });
    json!({
        "group": replica.group.get(),
        "core": core.get(),
        "epoch": replica.epoch.get(),
        "role": replica.role,
        "term": replica.term.get(),
        "leader": replica.leader.map_or(0, |leader| leader.get()),
        "commit": replica.commit.get(),
        "applied": replica.applied.get(),
        "last": replica.last.index.get(),
        "log_bytes": replica.log_bytes,
        "keys": replica.keys,
        "state_bytes": replica.state_bytes,
        "reads_per_s": replica.rates.reads_per_s,
        "writes_per_s": replica.rates.writes_per_s,
        "lease": replica.lease,
        "may_vote": replica.may_vote,
        "voters": numbers(&replica.members.voters),
        "outgoing": numbers(&replica.members.outgoing),
        "learners": numbers(&replica.members.learners),
        "replicas": followers.collect::<Vec<_>>(),
    })
}

fn numbers(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.get()).collect()
}

fn state_name(state: &ProgressState) -> &'static str {
    match state {
        ProgressState::Probe { .. } => "probe",
        ProgressState::Replicate => "replicate",
        ProgressState::Snapshot(_) => "snapshot",
    }
}
