//! Which replicas of a core have lost a part of their log, judged by what a start finds on its
//! disk. Once per core and start, by the node and the simulator alike.
//!
//! It reads no file and serves nobody: a replica that it names must not be taken up, since it might
//! vote or acknowledge against what it has forgotten.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_raft::HardState;
use oarlock_types::{CoreAddr, CoreId, GroupId, Guard, Incarnation, Index};
use oarlock_wal::{Affected, Recovered, RecoveredGroup};

use crate::homes::{Homes, Standing};
use crate::rebuild::{Origin, SplitBase};
use crate::seed::base_of;
use crate::split::claim_cut;

/// Lost replicas, by group, and the life of the node in which each was found so.
pub type Lost = BTreeMap<GroupId, Incarnation>;

/// What is known at a start.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What the log gives back.
    pub recovered: &'a Recovered,
    /// The groups that have a replica on this node and are in no other core's log: each may have been in
    /// this one. Needed only where [`may_hide`] holds.
    pub held: &'a [GroupId],
    /// The log had begun: without a segment it is gone.
    pub had_begun: bool,
    /// What earlier starts have written down.
    pub before: &'a Lost,
    /// This life of the node.
    pub incarnation: Incarnation,
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Losses {
    /// All replicas that are lost: to be written down before the log goes on.
    pub lost: Lost,
    /// Those of them that earlier starts have found.
    pub known: Vec<GroupId>,
    /// Those that this start has found.
    pub news: Vec<GroupId>,
    /// What the log shall forget. Where any group may be concerned the log is left as it is.
    pub destroyed: Vec<GroupId>,
    /// The whole log is gone.
    pub is_log_missing: bool,
    /// Replicas may be lost of which nothing is known: no replica may be made here by another's word.
    pub has_unnamed: bool,
}

/// Says in the node's directory which replicas a core's log has, or has lost: the first step of a start.
///
/// # Errors
/// When another core has one of them as well, and neither has given it up: that one and its core.
pub fn claim_logged(
    homes: &Homes,
    core: CoreId,
    recovered: &Recovered,
    before: &Lost,
) -> Result<(), (GroupId, CoreId)> {
    let standing = |found: &RecoveredGroup| {
        let Origin { rebuilt, residence, .. } = Origin::from_details(&found.details);
        let life = rebuilt.map_or(Incarnation(0), |rebuilt| rebuilt.incarnation);
        let residence = if Guard::LaterResidenceCounts.is_on() { residence } else { 0 };
        Standing { life, residence: residence + 1, is_whole: !found.damaged }
    };
    let whole = recovered.groups.iter().filter(|(_, found)| !is_part(found));
    let has = whole.map(|(group, found)| (*group, standing(found)));
    let lost_in = |life: &Incarnation| Standing { life: *life, ..Standing::default() };
    let misses = before.iter().map(|(group, life)| (*group, lost_in(life)));
    has.chain(misses).try_for_each(|(group, since)| {
        homes.claim_logged(group, core, since).map_err(|other| (group, other))
    })
}

/// Says in the node's directory that a core's log may have lost replicas that it does not show: together with
/// [`claim_logged`].
pub fn note_hiding(homes: &Homes, core: CoreId, recovered: &Recovered, had_begun: bool) {
    if may_hide(recovered, had_begun) {
        let is_there = !is_log_missing(recovered, had_begun);
        homes.note_hiding(core, is_there.then(|| recovered.suspicion.clone()));
    }
}

/// Says in the node's directory what a core's log will make again, since its entries cut it off: when all cores have
/// said what they have and what they have lost, and before any asks for what the map has.
pub fn claim_cuts(homes: &Homes, own: CoreAddr, recovered: &Recovered, lost: &Lost) {
    if !Guard::LogsClaimFirst.is_on() {
        return;
    }
    let groups = recovered.groups.iter().filter(|(group, _)| !lost.contains_key(group));
    groups.for_each(|(_, found)| claim_cut(homes, own, &found.entries));
}

/// Adds to what is known to be lost what a log shows that has once lost replicas without showing it: it may show them
/// again because its files are back. Meanwhile another core may have found them lost and rebuilt them, and if that
/// one's log may hide this now, nobody can tell.
pub fn doubt(
    homes: &Homes,
    core: CoreId,
    recovered: &Recovered,
    before: &mut Lost,
    incarnation: Incarnation,
) {
    let shown = recovered.groups.keys();
    let doubtful = shown.filter(|group| homes.may_be_hidden_from(core, **group));
    before.extend(doubtful.map(|group| (*group, incarnation)));
}

/// Whether a replica was on its way from another core, whose log still has it: what says last how it votes is not
/// there. One that has ended, and was made again, votes as what stands beside that says.
fn is_part(found: &RecoveredGroup) -> bool {
    let Origin { residence, left, .. } = Origin::from_details(&found.details);
    let is_open = found.hard_state == HardState::default() && left.is_none();
    residence > 0 && is_open && !found.damaged && Guard::PartCountsNot.is_on()
}

/// Takes out what another core has by now, which all cores have said, and what was only on its way here: those
/// that the log shall forget.
pub fn give_up(
    homes: &Homes,
    core: CoreId,
    recovered: &mut Recovered,
    before: &mut Lost,
) -> Vec<GroupId> {
    let is_elsewhere = |group: &GroupId| homes.core_of(*group).is_some_and(|home| home != core);
    before.retain(|group, _| !is_elsewhere(group));
    recovered
        .groups
        .extract_if(.., |group, found| is_elsewhere(group) || is_part(found))
        .map(|(group, _)| group)
        .collect()
}

impl Losses {
    /// Judges the evidence.
    #[must_use]
    pub fn judge(evidence: &Evidence<'_>) -> Self {
        let Evidence { recovered, held, before, incarnation, .. } = *evidence;
        let still = |(group, lost_in): (&GroupId, &Incarnation)| {
            (!is_rebuilt(recovered, *group, *lost_in)).then_some((*group, *lost_in))
        };
        let mut lost: Lost = before.iter().filter_map(still).collect();
        let known: Vec<GroupId> = lost.keys().copied().collect();
        let damaged = damaged(recovered);
        let mut found: BTreeSet<GroupId> = damaged.iter().copied().collect();
        let is_suspect = |group: &GroupId| {
            !recovered.groups.contains_key(group) && recovered.suspicion.of_unlisted(*group)
        };
        let is_log_missing = is_log_missing(recovered, evidence.had_begun);
        let held = held.iter().copied();
        found.extend(held.filter(|group| is_log_missing || is_suspect(group)));
        // What an earlier start has written down is no news, though the log may still show it.
        add_unmade(recovered, &lost, &mut found);
        let news: Vec<GroupId> =
            found.iter().copied().filter(|group| !lost.contains_key(group)).collect();
        lost.extend(found.into_iter().map(|group| (group, incarnation)));
        let is_whole_core = recovered.damage.iter().any(|damage| damage.affected == Affected::All);
        let destroyed = if is_whole_core { Vec::new() } else { damaged };
        let has_unnamed = may_hide(recovered, evidence.had_begun);
        Self { lost, known, news, destroyed, is_log_missing, has_unnamed }
    }
}

/// Whether replicas may be lost from a log of which it shows nothing.
#[must_use]
pub fn may_hide(recovered: &Recovered, had_begun: bool) -> bool {
    is_log_missing(recovered, had_begun) || recovered.suspicion.has_unnamed()
}

/// Whether a replica of this group may be lost from a log that does not show it: not if the log says behind all
/// damage that there is none, since it was forgotten or has gone to another core.
#[must_use]
pub fn may_hide_group(recovered: &Recovered, had_begun: bool, group: GroupId) -> bool {
    is_log_missing(recovered, had_begun) || recovered.suspicion.of_unlisted(group)
}

fn is_log_missing(recovered: &Recovered, had_begun: bool) -> bool {
    recovered.segments.is_empty() && had_begun
}

/// Adds the replicas whose state a split made and the cut range's log can not make again.
fn add_unmade(recovered: &Recovered, lost: &Lost, found: &mut BTreeSet<GroupId>) {
    let groups = &recovered.groups;
    loop {
        let is_made = |base: SplitBase| {
            let is_there = !lost.contains_key(&base.parent) && !found.contains(&base.parent);
            groups.get(&base.parent).filter(|_| is_there).is_some_and(|cut| {
                let saved = cut.checkpoint.as_ref().map_or(Index(0), |meta| meta.position.index);
                let last = cut.entries.last().map_or(Index(0), |entry| entry.at.index);
                (saved.next()..=last).contains(&base.index)
            })
        };
        let is_unmade = |(group, cut): (&GroupId, &RecoveredGroup)| {
            let is_unmade = base_of(cut).is_some_and(|base| !is_made(base));
            (is_unmade && !found.contains(group)).then_some(*group)
        };
        let unmade: Vec<GroupId> = groups.iter().filter_map(is_unmade).collect();
        if unmade.is_empty() {
            return;
        }
        found.extend(unmade);
    }
}

/// Whether a replica was rebuilt after its loss was found, and is whole since.
fn is_rebuilt(recovered: &Recovered, group: GroupId, lost_in: Incarnation) -> bool {
    let Some(found) = recovered.groups.get(&group).filter(|found| !found.damaged) else {
        return false;
    };
    let rebuilt = Origin::from_details(&found.details).rebuilt;
    rebuilt.is_some_and(|rebuilt| rebuilt.is_after(lost_in))
}

/// The groups that damage concerns. One that was created afresh behind the damage is whole.
fn damaged(recovered: &Recovered) -> Vec<GroupId> {
    let is_damaged = |(group, found): (&GroupId, &RecoveredGroup)| found.damaged.then_some(*group);
    recovered.groups.iter().filter_map(is_damaged).collect()
}
