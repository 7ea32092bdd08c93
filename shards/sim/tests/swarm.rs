//! Seeds of the swarm, each with its own cluster, weather and faults. A failure names its seed;
//! `cargo run --release -p oarlock-sim -- --seed N --seconds 6` replays it.

use oarlock_sim::{Config, Fault, Figures, Overrides, Trouble, World, finish};

/// Says how to run a seed again that failed.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("cargo run --release -p oarlock-sim -- --seed {seed} --seconds 6");
        }
    }
}

fn overrides() -> Overrides {
    Overrides { seconds: Some(6), ..Overrides::default() }
}

fn swarm(seeds: std::ops::RangeInclusive<u64>) {
    let mut sum = Figures::default();
    for seed in seeds {
        let _replay = Replay(seed);
        let mut world = World::new(seed, Config::swarm(seed, &overrides()));
        let figures = finish(&mut world);
        sum.answered += figures.answered;
        sum.faults += figures.faults;
        sum.elections += figures.elections;
    }
    assert!(sum.answered > 1000 && sum.faults > 50 && sum.elections > 20, "idle: {sum:?}");
}

#[test]
fn seeds_of_the_swarm_are_safe_and_live() {
    swarm(1..=10);
}

#[test]
fn more_seeds_of_the_swarm_are_safe_and_live() {
    swarm(11..=20);
}

#[test]
fn clusters_that_keep_their_own_map_come_to_stand_as_they_are_to() {
    let mut sum = Figures::default();
    for seed in 1..=8 {
        let overrides = Overrides { placement: Some(true), ..overrides() };
        let figures = oarlock_sim::run(seed, &overrides);
        sum.answered += figures.answered;
        sum.faults += figures.faults;
    }
    assert!(sum.answered > 300 && sum.faults > 30, "idle: {sum:?}");
}

#[test]
fn survivors_of_a_lost_quorum_go_on() {
    let (mut gone_on, mut ended) = (0, 0);
    for seed in 1..=16 {
        let placement = Some(seed % 2 == 0);
        let overrides = Overrides { placement, recovery: Some(true), ..overrides() };
        let mut world = World::new(seed, Config::swarm(seed, &overrides));
        finish(&mut world);
        gone_on += usize::from(world.has_gone_on());
        ended += usize::from(world.ended().is_some());
    }
    assert!(gone_on >= 12 && ended <= gone_on / 3, "{gone_on} runs went on, {ended} ended by it");
}

#[test]
fn disks_are_spoiled_while_members_change_and_ranges_merge() {
    let (mut both, mut sum) = (0, Figures::default());
    for seed in 1..=16 {
        let (placement, recovery) = (Some(false), Some(false));
        let overrides = Overrides { placement, recovery, spoiled: Some(true), ..overrides() };
        let config = Config::swarm(seed, &overrides);
        let merges = |fault: &Fault| matches!(fault.trouble, Trouble::Merge(_));
        let spoils = config.faults.iter().any(|fault| fault.trouble.spoils().is_some());
        both += u64::from(spoils && (config.has_moves() || config.faults.iter().any(merges)));
        let figures = finish(&mut World::new(seed, config));
        sum.answered += figures.answered;
        sum.faults += figures.faults;
    }
    assert!(both >= 4 && sum.answered > 1000 && sum.faults > 100, "{both} with both: {sum:?}");
}

#[test]
fn nodes_are_started_with_other_numbers_of_cores() {
    let (mut done, mut cut_short, mut refused) = (0, 0, 0);
    for seed in 1..=12 {
        let overrides = Overrides { core_changes: Some(true), ..overrides() };
        let mut world = World::new(seed, Config::swarm(seed, &overrides));
        finish(&mut world);
        let changes = world.core_changes();
        done += changes.done;
        cut_short += changes.cut_short;
        refused += changes.refused;
    }
    assert!(done > 40 && cut_short > 10, "{done} done, {cut_short} cut short, {refused} refused");
}

/// A swarm that never draws a kind of fault would not be one.
#[test]
fn every_kind_of_fault_is_drawn_by_some_seed() {
    let name = |trouble: &Trouble| {
        let text = format!("{trouble:?}");
        text.split('(').next().unwrap_or_default().to_owned()
    };
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 1..=300 {
        let faults = Config::swarm(seed, &Overrides::default()).faults;
        kinds.extend(faults.iter().map(|fault| name(&fault.trouble)));
    }
    assert_eq!(kinds.len(), 37, "{kinds:?}");
}
