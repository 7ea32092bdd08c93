//! What a failure looks like: the program is given a wish that cannot hold, and must name the seed,
//! shrink the schedule, and print a command that replays what is left.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test that starts the program"
)]

use std::process::Command;

use oarlock_sim::{Config, Overrides, World, finish};

const SEED: u64 = 3;

/// Runs the program; what it printed, and whether it ended with 0.
fn oarlock_sim(arguments: &[&str]) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock-sim")).args(arguments).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

/// The arguments of the command behind `what`.
fn command<'a>(told: &'a str, what: &str) -> Vec<&'a str> {
    let line = told.lines().find_map(|line| line.strip_prefix(what)).expect("it is printed");
    line.split_once(" -- ").unwrap().1.split_whitespace().collect()
}

#[test]
fn a_failure_is_shrunk_and_what_is_left_is_replayed_by_the_printed_command() {
    // Without any fault the wish would hold: it is faults that break it.
    let overrides = Overrides { seconds: Some(6), ..Overrides::default() };
    let drawn = Config::swarm(SEED, &overrides).faults.len();
    let none = Overrides { only: Some(Vec::new()), ..overrides };
    let quiet = finish(&mut World::new(SEED, Config::swarm(SEED, &none))).elections;
    let most = quiet.to_string();
    let wish = ["--seed", "3", "--seconds", "6", "--elections-max", &most];
    let (told, ok) = oarlock_sim(&[&wish[..], &["--faults", "none"]].concat());
    assert!(ok, "{told}");

    let (told, ok) = oarlock_sim(&wish);
    assert!(!ok && told.contains("seed 3 fails:"), "{told}");
    assert!(told.contains("no more elections than wished"), "{told}");
    assert_eq!(command(&told, "replay it: "), wish);

    let small = command(&told, "replay that: ");
    let at =
        small.iter().position(|argument| *argument == "--faults").expect("faults are left out");
    let left: Vec<&str> = small[at + 1].split(',').collect();
    assert!(left.len() < drawn && left[0] != "none", "{} of {drawn} faults are left", left.len());
    let listed = told.lines().filter(|line| line.starts_with("  #")).count();
    assert_eq!(listed, left.len(), "{told}");
    let (again, ok) = oarlock_sim(&[&small[..], &["--no-shrink"]].concat());
    assert!(!ok && again.contains("no more elections than wished"), "{again}");

    // And each of the faults that are left is needed.
    for without in &left {
        let mut fewer = left.clone();
        fewer.retain(|fault| fault != without);
        let fewer = if fewer.is_empty() { "none".to_owned() } else { fewer.join(",") };
        let mut arguments = small.clone();
        arguments[at + 1] = &fewer;
        let (told, ok) = oarlock_sim(&arguments);
        assert!(ok, "{without} is not needed: {told}");
    }
}
