//! Which replica goes to which core when their number changes. Pure.

use std::collections::BTreeMap;

use oarlock_types::{CoreId, GroupId, Guard};
use oarlock_wal::RecoveredGroup;

use crate::losses::Lost;
use crate::moves::Departed;
use crate::seed::base_of;

/// Groups that stay together: what a split made, and no checkpoint holds yet, is in the cut range's log alone.
#[derive(Debug, Default)]
struct Family {
    groups: Vec<GroupId>,
    /// Replicas that are served.
    weight: usize,
}

/// The new core of every group that an old core has, or has lost. What can stay where it is stays. What can not
/// goes to the core with the fewest; and where there are more cores than before, the fullest give to the
/// emptiest until they differ by one at most. The meta group stays if it can, and so do families of several.
pub(super) fn plan<'a>(
    held: impl Iterator<Item = (CoreId, &'a BTreeMap<GroupId, RecoveredGroup>, &'a Lost)>,
    cores: u16,
) -> BTreeMap<GroupId, CoreId> {
    let mut homes = BTreeMap::new();
    let mut counts = vec![0; usize::from(cores)];
    // By core, those that may be given away, in order.
    let mut loose: Vec<Vec<GroupId>> = vec![Vec::new(); usize::from(cores)];
    let mut homeless: BTreeMap<GroupId, Family> = BTreeMap::new();
    let mut cores_before = 0;
    for (core, groups, lost) in held {
        cores_before = cores_before.max(core.get() + 1);
        for (first, family) in families(groups, lost) {
            if core.get() < cores || family.weight == 0 {
                let core = CoreId(core.get() % cores);
                settle(&family, core, &mut homes, &mut counts, &mut loose);
            } else {
                homeless.insert(first, family);
            }
        }
    }
    for family in homeless.into_values() {
        let emptiest = emptiest(&counts);
        settle(&family, emptiest, &mut homes, &mut counts, &mut loose);
    }
    loop {
        let can_give = |core: &usize| !loose[*core].is_empty();
        let fullest = (0..counts.len()).filter(can_give).max_by_key(|core| counts[*core]);
        let emptiest = emptiest(&counts);
        let to = usize::from(emptiest.get());
        let is_uneven = |from: &usize| cores > cores_before && counts[*from] >= counts[to] + 2;
        let Some(from) = fullest.filter(is_uneven) else { break };
        let Some(group) = loose[from].pop() else { break };
        homes.insert(group, emptiest);
        counts[from] -= 1;
        counts[to] += 1;
    }
    homes
}

fn settle(
    family: &Family,
    core: CoreId,
    homes: &mut BTreeMap<GroupId, CoreId>,
    counts: &mut [usize],
    loose: &mut [Vec<GroupId>],
) {
    homes.extend(family.groups.iter().map(|group| (*group, core)));
    counts[usize::from(core.get())] += family.weight;
    if let [group] = family.groups[..]
        && family.weight == 1
        && group != GroupId::META
    {
        loose[usize::from(core.get())].push(group);
    }
}

/// The first of the cores with the fewest.
fn emptiest(counts: &[usize]) -> CoreId {
    let least = counts.iter().enumerate().min_by_key(|(_, count)| **count);
    let core = least.and_then(|(core, _)| u16::try_from(core).ok());
    CoreId(core.expect("invariant: a node has a core at least, and a core's number is small"))
}

/// The families of a core, each by its first.
fn families(groups: &BTreeMap<GroupId, RecoveredGroup>, lost: &Lost) -> BTreeMap<GroupId, Family> {
    let parent = |group: GroupId| {
        let base = base_of(groups.get(&group)?)?;
        let stays = groups.contains_key(&base.parent) && Guard::CutStaysWithRange.is_on();
        stays.then_some(base.parent)
    };
    let mut families: BTreeMap<GroupId, Family> = BTreeMap::new();
    let only_lost = lost.keys().filter(|group| !groups.contains_key(group));
    for group in groups.keys().chain(only_lost).copied() {
        let first = std::iter::successors(Some(group), |group| parent(*group)).last();
        let family = families.entry(first.unwrap_or(group)).or_default();
        let is_served = !lost.contains_key(&group)
            && groups.get(&group).is_some_and(|found| Departed::of(found).is_none());
        family.groups.push(group);
        family.weight += usize::from(is_served);
    }
    families
}

#[cfg(test)]
mod tests {
    use oarlock_raft::LogPosition;
    use oarlock_types::{Incarnation, Index, RangeEpoch, Term};

    use super::*;
    use crate::rebuild::{Origin, SplitBase};

    type Log = BTreeMap<GroupId, RecoveredGroup>;

    fn group(origin: Origin) -> RecoveredGroup {
        RecoveredGroup { details: origin.to_details(), ..RecoveredGroup::default() }
    }

    fn log(groups: impl IntoIterator<Item = u64>) -> Log {
        let first = || group(Origin::first(RangeEpoch(1)));
        groups.into_iter().map(|id| (GroupId(id), first())).collect()
    }

    fn planned(logs: &[Log], lost: &[Lost], cores: u16) -> BTreeMap<u64, u16> {
        let held =
            (0..).map(CoreId).zip(logs).zip(lost).map(|((core, log), lost)| (core, log, lost));
        plan(held, cores).into_iter().map(|(group, core)| (group.get(), core.get())).collect()
    }

    fn counts(homes: &BTreeMap<u64, u16>, cores: u16) -> Vec<usize> {
        (0..cores).map(|core| homes.values().filter(|home| **home == core).count()).collect()
    }

    #[test]
    fn new_cores_get_their_share_and_the_meta_group_stays() {
        let logs = [log(0..10), log(10..13)];
        let none = [Lost::new(), Lost::new()];
        let homes = planned(&logs, &none, 5);
        assert_eq!(counts(&homes, 5), [3, 3, 3, 2, 2]);
        assert_eq!(homes[&0], 0);
        assert!((10..13).all(|group| homes[&group] == 1), "what is not too much stays");
        assert_eq!(planned(&[log(0..1)], &none, 3), BTreeMap::from([(0, 0)]));
    }

    #[test]
    fn the_cores_with_the_fewest_take_what_has_no_core_any_more() {
        let logs = [log(1..7), log([20]), log([0, 30, 31]), log([40, 41])];
        let homes = planned(&logs, &[const { Lost::new() }; 4], 2);
        assert_eq!(counts(&homes, 2), [6, 6]);
        assert!((1..7).all(|group| homes[&group] == 0), "what has its core stays");
        assert!(planned(&logs, &[const { Lost::new() }; 4], 1).values().all(|core| *core == 0));
    }

    #[test]
    fn what_a_split_made_stays_with_the_cut_range_and_what_has_ended_weighs_nothing() {
        let base =
            |parent| group(Origin::split(SplitBase { parent: GroupId(parent), index: Index(9) }));
        let last = LogPosition { term: Term(2), index: Index(7) };
        let ended = group(Origin { left: Some(last), ..Origin::first(RangeEpoch(0)) });
        let mut first = log([1, 2, 3, 4]);
        first.insert(GroupId(50), base(4));
        first.insert(GroupId(60), base(50));
        let mut second = log([10]);
        second.extend((70..80).map(|id| (GroupId(id), ended.clone())));
        let lost = [Lost::new(), Lost::from([(GroupId(90), Incarnation(3))])];
        for cores in [1, 2, 3, 4] {
            let homes = planned(&[first.clone(), second.clone()], &lost, cores);
            assert!(homes[&4] == homes[&50] && homes[&50] == homes[&60], "{homes:?}");
            assert!((70..80).chain([90]).all(|group| homes[&group] == 1 % cores), "{homes:?}");
            let served: BTreeMap<u64, u16> =
                homes.into_iter().filter(|(group, _)| *group < 70).collect();
            let counts = counts(&served, cores);
            assert_eq!(counts.iter().sum::<usize>(), 7);
            let most = [7, 6, 3, 3][usize::from(cores) - 1];
            assert_eq!(counts.iter().max(), Some(&most), "{counts:?}");
        }
    }
}
