//! What a start of a node with another number of cores makes of what its cores have: which group goes to which
//! core, and what of each log is carried into the new ones. Once per such start, by the node and the simulator
//! alike.
//!
//! It reads and writes no file, and judges no damage: a log that is not whole is left to a start with the old number
//! of cores. Which of the old and the new logs count is not for it to say either.
//! `docs/decisions/0015-between-cores.md` argues why so.

mod plan;

use std::collections::BTreeMap;

use oarlock_codec::Record;
use oarlock_types::{CoreId, GroupId, Guard, Incarnation};
use oarlock_wal::{Affected, Damage, Recovered, RecoveredGroup};

use crate::homes::Homes;
use crate::losses::{Evidence, Losses, Lost, claim_logged, give_up, may_hide};
use crate::output::CheckpointFile;
use plan::plan;

/// What a core has, as it was read.
#[derive(Debug)]
pub struct OldCore {
    /// Its log.
    pub log: Recovered,
    /// The log had begun: without a segment it is gone.
    pub had_begun: bool,
    /// The replicas that are known to be lost here.
    pub lost: Lost,
    /// Replicas may be lost here of which nothing is known, as this life was the last to find.
    pub unnamed: Option<Incarnation>,
    /// Its checkpoints.
    pub files: Vec<CheckpointFile>,
}

/// What a core is to have.
#[derive(Debug, Default)]
pub struct NewCore {
    /// What its log says.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// The replicas that are known to be lost here.
    pub lost: Lost,
    /// Replicas may be lost of which nothing is known, as this life was the last to find.
    pub unnamed: Option<Incarnation>,
    /// Its checkpoints, each with the core that has it now. Those that nobody names come along: the start sweeps them.
    pub files: BTreeMap<CheckpointFile, CoreId>,
}

/// Why replicas stay where they are: a start with the old number of cores has to come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A core's log is not whole. Written anew it would show that no more.
    Damaged(CoreId, Damage),
    /// A core's log is gone, or has lost replicas of which it shows nothing.
    Missing(CoreId),
    /// A core has lost a replica, and nothing is written down of that yet.
    LostAnew(CoreId, GroupId),
    /// Two cores have a replica of one group, and neither has given it up.
    TwoReplicas(GroupId, [CoreId; 2]),
}

/// What each of `cores` cores is to have, of what the cores from the first on have; `incarnation` is the node's last.
///
/// # Errors
/// When that is not for certain all that the node has.
pub fn relocate(
    old: Vec<OldCore>,
    incarnation: Incarnation,
    cores: u16,
) -> Result<Vec<NewCore>, Obstacle> {
    let old = judge(old, incarnation)?;
    let numbered = || (0..).map(CoreId).zip(&old);
    let homes = plan(numbered().map(|(core, old)| (core, &old.log.groups, &old.lost)), cores);
    let mut new: Vec<NewCore> = (0..cores).map(|_| NewCore::default()).collect();
    let place = |group: GroupId| homes.get(&group).map(|core| usize::from(core.get()));
    for (from, old) in (0..).map(CoreId).zip(old) {
        // Of groups that nobody has two cores may both have kept a file.
        for file in old.files {
            let to = place(file.group).unwrap_or_else(|| usize::from(from.get() % cores));
            new[to].files.entry(file).or_insert(from);
        }
        let homeless = "invariant: all that a core has, or has lost, has its place in the plan";
        for (group, found) in old.log.groups {
            new[place(group).expect(homeless)].groups.insert(group, found);
        }
        for (group, life) in old.lost {
            new[place(group).expect(homeless)].lost.insert(group, life);
        }
        // It concerns all cores, whichever knows of it.
        new[0].unnamed = new[0].unnamed.max(old.unnamed);
    }
    Ok(new)
}

/// Takes out what cores have given up; what is left is all that the node has.
fn judge(mut old: Vec<OldCore>, incarnation: Incarnation) -> Result<Vec<OldCore>, Obstacle> {
    let homes = Homes::new(u16::try_from(old.len()).expect("invariant: few cores"));
    for (core, old) in (0..).map(CoreId).zip(&old) {
        check_whole(core, old)?;
        let claimed = claim_logged(&homes, core, &old.log, &old.lost);
        claimed.map_err(|(group, other)| Obstacle::TwoReplicas(group, [other, core]))?;
    }
    for (core, old) in (0..).map(CoreId).zip(&mut old) {
        let OldCore { log, had_begun, lost, files, .. } = old;
        give_up(&homes, core, log, lost);
        let losses = Losses::judge(&Evidence {
            recovered: log,
            held: &[],
            had_begun: *had_begun,
            before: lost,
            incarnation,
        });
        if let Some(group) = losses.news.first() {
            return Err(Obstacle::LostAnew(core, *group));
        }
        *lost = losses.lost;
        files.retain(|file| homes.core_of(file.group).is_none_or(|at| at == core));
    }
    Ok(old)
}

fn check_whole(core: CoreId, old: &OldCore) -> Result<(), Obstacle> {
    let is_harm = |damage: &&Damage| damage.affected != Affected::Groups(Vec::new());
    let is_judged = Guard::WholeLogsAreCarried.is_on();
    if let Some(damage) = old.log.damage.iter().find(is_harm).filter(|_| is_judged) {
        return Err(Obstacle::Damaged(core, damage.clone()));
    }
    if may_hide(&old.log, old.had_begun) && is_judged {
        return Err(Obstacle::Missing(core));
    }
    Ok(())
}

/// All that a log has to say of a group, in records of which none has entries of much more than so many bytes.
#[must_use]
pub fn records(group: GroupId, found: RecoveredGroup, piece_bytes: usize) -> Vec<Record> {
    let RecoveredGroup {
        configuration, details, hard_state, checkpoint, log_start, entries, ..
    } = found;
    let mut records = vec![
        Record::Create { group, configuration, details },
        Record::HardState { group, hard_state },
    ];
    let keep_from = log_start;
    records.extend(checkpoint.map(|meta| Record::Checkpoint { group, meta, keep_from }));
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        bytes += entry.size_bytes();
        piece.push(entry);
        if bytes >= piece_bytes {
            records.push(Record::Entries { group, entries: std::mem::take(&mut piece) });
            bytes = 0;
        }
    }
    if !piece.is_empty() {
        records.push(Record::Entries { group, entries: piece });
    }
    records
}
