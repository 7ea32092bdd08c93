//! A plan as people read it before they agree to it: a table of the groups, then what is special. Pure.

use std::fmt::Write as _;

use bytes::Bytes;
use oarlock_survivors::plan::{GroupPlan, Loss, Plan, Survived};
use oarlock_survivors::state::ReplicaKind;
use oarlock_types::{GroupId, NodeId, WallMs};

use super::super::table::render;

const HEADERS: [&str; 6] = [
    "group",
    "keys",
    "voters",
    "survivors: log up to (known committed)",
    "goes on from",
    "may be lost",
];

/// What the table's cells say.
const LEGEND: &str = "\
A log's end is index@term. What is committed behind what is known to be is not on a disk: entries between the
two are kept, and the newest of them may be writes that nobody was told are done.
";

/// All that a plan says.
#[must_use]
pub(super) fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let survivors: Vec<NodeId> = plan.survivors.iter().map(|survivor| survivor.node).collect();
    line(&mut out, &format!("{}", plan.cluster));
    line(&mut out, &format!("survivors:   {}", names(&survivors)));
    line(&mut out, &format!("given up:    {}", names(&plan.given_up)));
    line(&mut out, &format!("have quorum: {} groups, left alone", plan.sound_count));
    line(&mut out, &format!("have none:   {} groups", plan.groups.len() + plan.gone.len()));
    if !plan.groups.is_empty() {
        out.push('\n');
        let rows: Vec<Vec<String>> = plan.groups.iter().map(|group| row(plan, group)).collect();
        out.push_str(&render(&HEADERS, &rows));
        out.push('\n');
        out.push_str(LEGEND);
    }
    for group in &plan.groups {
        remarks(group, &mut out);
    }
    for group in &plan.gone {
        let keys = keys(plan, *group);
        line(
            &mut out,
            &format!("\n{group} ({keys}): nothing survives, its keys stay unavailable."),
        );
    }
    out
}

fn row(plan: &Plan, group: &GroupPlan) -> Vec<String> {
    let mut voters = names(&group.members.voters);
    if group.members.is_joint() {
        write!(voters, " and of {}", names(&group.members.outgoing))
            .expect("invariant: writing to a string does not fail");
    }
    // Who was no member, and has nothing, is of no interest.
    let has_some = |there: &&Survived| {
        there.kind != ReplicaKind::Absent || group.members.is_member(there.node)
    };
    let survivors: Vec<String> = group.replicas.iter().filter(has_some).map(survived).collect();
    vec![
        group.group.to_string(),
        keys(plan, group.group),
        voters,
        survivors.join(", "),
        group.chosen.to_string(),
        loss(&group.loss),
    ]
}

fn survived(survived: &Survived) -> String {
    let Survived { node, last, committed, .. } = survived;
    match survived.kind {
        ReplicaKind::Whole => format!("{node} {last} ({committed})"),
        ReplicaKind::Ended => format!("{node} ended at {last}"),
        ReplicaKind::Lost => format!("{node} damaged"),
        ReplicaKind::Absent => format!("{node} nothing"),
    }
}

fn loss(loss: &Loss) -> String {
    if !loss.is_possible {
        return "nothing".to_owned();
    }
    let mut until = format!("writes behind {}", loss.kept);
    if loss.kept_until > WallMs(0) {
        write!(until, ", made after {}", utc(loss.kept_until))
            .expect("invariant: writing to a string does not fail");
    }
    if loss.certain_to > loss.kept.index {
        format!("{until}; entries {} to {} for certain", loss.kept.index.next(), loss.certain_to)
    } else {
        until
    }
}

fn remarks(group: &GroupPlan, out: &mut String) {
    let name = group.group;
    if !group.cuts.is_empty() {
        let children: Vec<String> = group.cuts.iter().map(ToString::to_string).collect();
        let children = children.join(" ");
        line(
            out,
            &format!(
                "\n{name} is about to be cut: {children} will have no quorum. Start the survivors after this \
                 plan, stop them\nagain, and make another plan."
            ),
        );
    }
    if group.is_cut_since {
        line(
            out,
            &format!(
                "\n{name} was cut after what survives of it: the map knows newer bounds, and what it says \
                 does not\nfit. Its keys may stay unavailable."
            ),
        );
    }
}

fn keys(plan: &Plan, group: GroupId) -> String {
    if group == GroupId::META {
        return "the map".to_owned();
    }
    let Some(range) = plan.ranges.iter().find(|range| range.group == group) else {
        return "not known".to_owned();
    };
    let key = |key: &Bytes| format!("\"{}\"", key.escape_ascii());
    let end = range.end.as_ref().map_or_else(|| "end".to_owned(), key);
    format!("{} to {end}", key(&range.start))
}

/// Nodes by their numbers, as they are asked for.
#[must_use]
pub(super) fn numbers(nodes: &[NodeId]) -> String {
    let numbers: Vec<String> = nodes.iter().map(|node| node.get().to_string()).collect();
    numbers.join(" ")
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// A time of the day as ISO 8601 has it.
fn utc(time: WallMs) -> String {
    let (days, ms) = (time.0 / 86_400_000, time.0 % 86_400_000);
    // Years begin in March, so that a leap day is the last one; 400 of them have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let (seconds, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use oarlock_raft::LogPosition;
    use oarlock_survivors::decide::decide;
    use oarlock_survivors::state::{Cut, MetaState, ReplicaState};
    use oarlock_types::{Index, Term};

    use super::*;
    use crate::quorum_loss::file::made_up::{range, replica, survivor};

    /// Every kind of group that a plan can have.
    fn plan() -> Plan {
        let five = [1, 2, 3, 4, 5];
        let ended = ReplicaState { kind: ReplicaKind::Ended, ..replica(8, &[], (30, 4)) };
        let lost = ReplicaState {
            kind: ReplicaKind::Lost,
            committed: Index(25),
            ..replica(9, &five, (0, 0))
        };
        let mut even = replica(11, &[1, 2, 3, 4], (70, 6));
        even.cuts = vec![Cut { child: GroupId(19), index: Index(70) }];
        let behind = ReplicaState {
            reached: LogPosition { term: Term(4), index: Index(30) },
            stamp: WallMs(0),
            ..replica(9, &five, (21, 4))
        };
        let replicas = vec![
            replica(0, &five, (210, 4)),
            replica(7, &[1, 2, 3], (8, 4)),
            ended,
            behind,
            even,
            replica(12, &[1, 2], (4, 1)),
        ];
        let mut first = survivor(1, replicas);
        first.meta = Some(MetaState { map_version: 20, groups: GroupId(16) });
        first.ranges = vec![
            range(7, (1, 0), &[1, 2, 3]),
            range(8, (2, 0), &[3, 4]),
            range(9, (2, 0), &five),
            range(10, (1, 0), &[3, 4]),
        ];
        first.ranges[1].end = None;
        let replicas = vec![
            replica(0, &five, (205, 4)),
            replica(8, &[2, 3, 4], (33, 4)),
            lost,
            replica(11, &[1, 2, 3, 4], (68, 6)),
            replica(12, &[1, 2], (4, 1)),
        ];
        decide(&[first, survivor(2, replicas)]).unwrap()
    }

    #[test]
    fn a_plan_says_what_may_be_lost() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/recover/testdata/plan.txt");
        let told = text(&plan());
        if std::env::var_os("UPDATE_GOLDENFILES").is_some_and(|value| value == "1") {
            std::fs::write(path, &told).unwrap();
        }
        assert_eq!(told, std::fs::read_to_string(path).unwrap_or_default());
    }

    #[test]
    fn times_are_told_in_utc() {
        for (ms, told) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(WallMs(ms)), told);
        }
    }
}
