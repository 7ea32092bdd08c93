//! What is left to be written on a survivor until a plan is carried out there. Pure.

use oarlock_types::CoreAddr;
use oarlock_wal::{Addition, RecoveredGroup};

use crate::collect;
use crate::plan::{GroupPlan, Survived};
use crate::records::{Created, going_on, remembering, standing_back};
use crate::state::ReplicaKind;

/// What is left to be written for a group, of which the survivor's log has `found`.
///
/// # Errors
/// What is there instead of what the plan saw.
pub fn wanted(
    plan: &GroupPlan,
    survived: &Survived,
    addr: CoreAddr,
    found: Option<RecoveredGroup>,
) -> Result<Vec<Addition>, String> {
    if survived.kind == ReplicaKind::Lost {
        // It says nothing before it is rebuilt by whoever leads then.
        return Ok(Vec::new());
    }
    let Some(found) = found else {
        let is_absent = survived.kind == ReplicaKind::Absent;
        return if is_absent { Ok(remembering(plan, None)) } else { Err("gone".to_owned()) };
    };
    let end = plan.recovered_at;
    let hard_state = found.hard_state;
    let created =
        Created { configuration: found.configuration.clone(), details: found.details.clone() };
    let now = collect::bare(plan.group, addr, found);
    let is_as_seen = now.last == survived.last && now.term == survived.term;
    let differs = || format!("{} in term {}", now.last, now.term);
    match (survived.kind, now.kind) {
        (ReplicaKind::Whole, ReplicaKind::Whole) if plan.is_chosen(survived) => {
            let is_begun = now.term == end.term
                && (now.last == survived.last || now.last.term == end.term)
                && now.last.index <= end.index;
            if now.last == end && now.term >= end.term {
                Ok(Vec::new())
            } else if is_as_seen || is_begun {
                Ok(going_on(plan, addr.node, &created, now.last))
            } else {
                Err(differs())
            }
        }
        // One that holds nothing looks as if it had ended once it stands back.
        (ReplicaKind::Whole, ReplicaKind::Whole | ReplicaKind::Ended) if now.reached == end => {
            Ok(Vec::new())
        }
        (ReplicaKind::Whole, ReplicaKind::Whole) if is_as_seen => Ok(standing_back(plan, &created)),
        (ReplicaKind::Ended | ReplicaKind::Absent, ReplicaKind::Ended) if now.last == end => {
            Ok(Vec::new())
        }
        (ReplicaKind::Ended, ReplicaKind::Ended) if is_as_seen => {
            Ok(remembering(plan, Some(hard_state)))
        }
        _ => Err(differs()),
    }
}
