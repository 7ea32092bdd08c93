//! What a plan puts into a survivor's log, for one group. Pure.
//!
//! The chosen replica: an entry that makes it the only voter, behind all that it has, and a term far above
//! all that survivors know. Every other one: that it once had a log up to that entry, so that it neither
//! votes nor stands for election before it has come to it (guard `DepartedRemember`). Nothing that it holds
//! goes: it is needed no more than a copy, but other ranges' state may be made of it.

use bytes::Bytes;
use oarlock_cluster::map_store;
use oarlock_codec::Record;
use oarlock_raft::{Configuration, Entry, HardState, LogPosition, Payload};
use oarlock_shard::rebuild::{Origin, Rebuilt};
use oarlock_store::Batch;
use oarlock_types::{Guard, Index, NodeId, RangeEpoch, WallMs};
use oarlock_wal::Addition;

use super::plan::GroupPlan;

/// How a replica came to be, as the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its first members.
    pub configuration: Configuration,
    /// Its origin.
    pub details: Bytes,
}

/// What makes a group go on from this replica, whose log ends at `last`: at the end that the plan saw, or
/// behind it where an earlier attempt was cut short.
#[must_use]
pub fn going_on(
    plan: &GroupPlan,
    node: NodeId,
    created: &Created,
    last: LogPosition,
) -> Vec<Addition> {
    let (group, end) = (plan.group, plan.recovered_at);
    let hard_state = HardState { term: end.term, vote: Some(node) };
    let mut additions = vec![Addition::Append(Record::HardState { group, hard_state })];
    let origin = Origin::from_details(&created.details);
    if origin.left.is_some() || origin.rebuilt.is_some() {
        // What it had forgotten is given up: it must wait for it no more.
        let rebuilt = origin.rebuilt.map(|rebuilt| Rebuilt { votes_from: Index(0), ..rebuilt });
        additions.push(restated(plan, created, Origin { left: None, rebuilt, ..origin }));
    }
    let indices = last.index.next().get()..=end.index.get();
    let entry = |index| {
        let at = LogPosition { term: end.term, index: Index(index) };
        let payload = if at == end {
            Payload::Config(Configuration::simple([node]))
        } else if let Some(meta) = plan.meta.filter(|_| at.index == plan.loss.kept.index.next()) {
            let (version, groups) = (meta.map_version, meta.groups);
            let requests =
                vec![map_store::write_heights(version, groups, &plan.joined, plan.level)];
            oarlock_codec::commands::payload(&Batch { stamp: WallMs(0), requests }, plan.level)
        } else {
            // The entry must stand behind all that the map knows of the members.
            Payload::Noop
        };
        Entry { at, payload }
    };
    let entries: Vec<Entry> = indices.map(entry).collect();
    if !entries.is_empty() {
        additions.push(Addition::Append(Record::Entries { group, entries }));
    }
    additions
}

/// What keeps a replica from voting before it has come to the entry from which the group goes on.
#[must_use]
pub fn standing_back(plan: &GroupPlan, created: &Created) -> Vec<Addition> {
    if !Guard::SurvivorsStandBack.is_on() {
        return Vec::new();
    }
    let origin = Origin::from_details(&created.details);
    vec![restated(plan, created, Origin { left: Some(plan.recovered_at), ..origin })]
}

/// The same where there is no replica: one that is made there later begins with it.
#[must_use]
pub fn remembering(plan: &GroupPlan, hard_state: Option<HardState>) -> Vec<Addition> {
    let (group, end) = (plan.group, plan.recovered_at);
    let hard_state = hard_state.unwrap_or(HardState { term: end.term, vote: None });
    let details = Origin { left: Some(end), ..Origin::first(RangeEpoch(0)) }.to_details();
    let configuration = Configuration::default();
    vec![
        Addition::Append(Record::Create { group, configuration, details }),
        Addition::Append(Record::HardState { group, hard_state }),
    ]
}

fn restated(plan: &GroupPlan, created: &Created, origin: Origin) -> Addition {
    let (configuration, details) = (created.configuration.clone(), origin.to_details());
    Addition::Restate(Record::Create { group: plan.group, configuration, details })
}
