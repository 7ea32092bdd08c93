//! Messages, faults, operations and replies in words that a person reads without knowing the code.
//! Made for traces only: nothing here may be asked while a run is not traced.

use bytes::Bytes;
use oarlock_codec::{MergeEntry, SplitEntry, commands};
use oarlock_raft::{AppendOutcome, Body, Entry, Payload, Rebuild};
use oarlock_store::{Batch, Command, Reply};
use oarlock_types::{NodeId, Pulse};

use crate::faults::Trouble;
use crate::linearizability::Action;

/// Entries and commands that are told one by one; of more, how many more.
const TOLD_MAX: usize = 4;
/// Letters of a key or a value.
const LETTERS_MAX: usize = 40;

pub(crate) fn kind_of(body: &Body) -> &'static str {
    match body {
        Body::PreVote(_) => "PreVote",
        Body::PreVoteReply(_) => "PreVoteReply",
        Body::Vote(_) => "Vote",
        Body::VoteReply(_) => "VoteReply",
        Body::Append(_) => "Append",
        Body::AppendReply(_) => "AppendReply",
        Body::Snapshot(_) => "Snapshot",
        Body::SnapshotReply { .. } => "SnapshotReply",
        Body::TimeoutNow(_) => "TimeoutNow",
        Body::Release(_) => "Release",
        Body::ReleaseReply(_) => "ReleaseReply",
        Body::ReadIndex { .. } => "ReadIndex",
        Body::ReadIndexReply { .. } => "ReadIndexReply",
        Body::Rebuild(_) => "Rebuild",
        Body::Absent => "Absent",
        Body::Create => "Create",
        Body::Residence { .. } => "Residence",
    }
}

/// What a message says.
pub(crate) fn text_of(body: &Body) -> String {
    match body {
        Body::PreVote(request) | Body::Vote(request) => {
            let handed =
                if request.release.is_some() { "; the leader hands over to me" } else { "" };
            format!("my log ends at {}{handed}", request.last)
        }
        Body::PreVoteReply(reply) | Body::VoteReply(reply) => {
            if reply.granted { "yes" } else { "no" }.to_owned()
        }
        Body::Append(append) => {
            let (prev, commit) = (append.prev, append.commit);
            let read = if append.read_sequence > 0 { "; asks for a read" } else { "" };
            let what = list(&append.entries, entry);
            let count = append.entries.len();
            match (count, append.wants_reply) {
                (0, true) => format!("no entries after {prev}, committed {commit}{read}"),
                (0, false) => format!("committed {commit}, no answer wanted"),
                _ => format!("{count} after {prev}: {what}; committed {commit}{read}"),
            }
        }
        Body::AppendReply(reply) => {
            let bound =
                reply.bound.map_or("not bound to you".to_owned(), |(epoch, incarnation)| {
                    format!("bound to you ({incarnation}) in support epoch {epoch:?}")
                });
            match reply.outcome {
                AppendOutcome::Matched(index) => format!("on my disk up to {index}; {bound}"),
                AppendOutcome::Rejected { prev, hint } => {
                    format!("no: {prev} does not match, try from {hint}; {bound}")
                }
            }
        }
        Body::Snapshot(chunk) => {
            let (from, count) = (chunk.offset_bytes, chunk.data.len());
            let (position, size) = (chunk.meta.position, chunk.meta.size_bytes);
            format!("checkpoint at {position}: {count} bytes from {from}, of {size}")
        }
        Body::SnapshotReply { position, received_bytes, installed } => {
            let state = if *installed { "installed" } else { "not yet installed" };
            format!("checkpoint at {position}: I have {received_bytes} bytes, {state}")
        }
        Body::TimeoutNow(release) => {
            format!("stand for election now; {} leads no more ({})", release.leader, release.term)
        }
        Body::Release(release) | Body::ReleaseReply(release) => {
            format!("nobody is bound to {} for {} or older", release.leader, release.term)
        }
        Body::ReadIndex { sequence } => format!("up to where must I apply? (question {sequence})"),
        Body::ReadIndexReply { sequence, index: Some(index) } => {
            format!("apply up to {index} (question {sequence})")
        }
        Body::ReadIndexReply { sequence, index: None } => {
            format!("not to be had here now (question {sequence})")
        }
        Body::Absent => "I have no replica of this group".to_owned(),
        Body::Create => "make a replica, and follow me".to_owned(),
        Body::Residence { core, is_answer: false } => format!("be on {core}"),
        Body::Residence { core, is_answer: true } => format!("I am on {core}"),
        Body::Rebuild(Rebuild::Leave { attempt }) => {
            format!("I have lost my log: take me out (attempt {attempt})")
        }
        Body::Rebuild(Rebuild::Left { attempt, index, .. }) => {
            format!("you are out by entry {index} (attempt {attempt})")
        }
        Body::Rebuild(Rebuild::Join) => "take me in again".to_owned(),
        Body::Rebuild(Rebuild::Members(known)) => {
            let known: Vec<NodeId> = known.members().collect();
            format!("I do not lead; I know of {}", list(&known, NodeId::to_string))
        }
    }
}

fn list<T>(all: &[T], tell: impl Fn(&T) -> String) -> String {
    let mut told: Vec<String> = all.iter().take(TOLD_MAX).map(tell).collect();
    if all.len() > TOLD_MAX {
        told.push(format!("and {} more", all.len() - TOLD_MAX));
    }
    told.join(", ")
}

fn entry(entry: &Entry) -> String {
    let what = match &entry.payload {
        Payload::Noop => "opens the term".to_owned(),
        Payload::Config(config) => {
            let names = |nodes: &[NodeId]| {
                nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            };
            let mut text = format!("members {}", names(&config.voters));
            if config.is_joint() {
                text += &format!(" jointly with {}", names(&config.outgoing));
            }
            if !config.learners.is_empty() {
                text += &format!(", learners {}", names(&config.learners));
            }
            text
        }
        Payload::Merge(bytes) => match MergeEntry::decode(bytes) {
            Some(MergeEntry::Freeze { into_epoch, .. }) => {
                format!("freeze for the neighbour in {into_epoch}")
            }
            Some(MergeEntry::Thaw { .. }) => "thaw".to_owned(),
            None => "an unreadable step of a merge".to_owned(),
        },
        Payload::Split(bytes) => match SplitEntry::decode(bytes) {
            Some(split) => format!("cut at {}: {}", short(&split.at), split.child),
            None => "no split".to_owned(),
        },
        Payload::Commands(_) | Payload::Packed(_) => match commands::batch(&entry.payload) {
            Ok(Batch { requests, .. }) => {
                list(&requests, |request| list(&request.commands, command))
            }
            Err(error) => error.to_string(),
        },
    };
    format!("[{} {what}]", entry.at)
}

/// Bytes as a person reads them, shortened.
fn short(bytes: &Bytes) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut told: String = text.chars().take(LETTERS_MAX).collect();
    if text.chars().nth(LETTERS_MAX).is_some() {
        told.push('…');
    }
    told
}

fn pairs(all: &[(Bytes, Bytes)]) -> String {
    list(all, |(key, value)| format!("{}={}", short(key), short(value)))
}

fn command(command: &Command) -> String {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "what clients of a run do; the rest as it is"
    )]
    match command {
        Command::Set { key, value, .. } => format!("SET {}={}", short(key), short(value)),
        Command::MSet { pairs: all } => format!("MSET {}", pairs(all)),
        Command::Del { keys } => format!("DEL {}", list(keys, short)),
        Command::Cas { key, expected, new } => {
            let expected = expected.as_ref().map_or("nothing".to_owned(), short);
            format!("CAS {} from {expected} to {}", short(key), short(new))
        }
        Command::IncrBy { key, delta } => format!("INCRBY {} {delta}", short(key)),
        Command::Append { key, value } => format!("APPEND {} {}", short(key), short(value)),
        other => format!("{other:?}").chars().take(2 * LETTERS_MAX).collect(),
    }
}

/// What a pulse says: which of its sender's it is, what it promises, and what of its sender is stuck.
pub(crate) fn pulse(pulse: &Pulse) -> String {
    let mut text = format!("number {} of {}", pulse.sequence, pulse.incarnation);
    for support in &pulse.support {
        let (core, epoch, sequence) = (support.core, support.epoch, support.sequence);
        text += &format!(", supports {core} in {epoch} for its pulse {sequence}");
    }
    if pulse.support.is_empty() {
        text += ", supports nobody";
    }
    for (core, _) in pulse.alive.iter().enumerate().filter(|(_, is_alive)| !**is_alive) {
        text += &format!(", its core {core} is stuck");
    }
    text
}

/// What a client asks for.
pub(crate) fn action(action: &Action) -> String {
    match action {
        Action::Read(keys) => format!("read {}", list(keys, short)),
        Action::Scan(start, end) => {
            let end = end.as_ref().map_or("the end".to_owned(), short);
            format!("scan from {:?} to {end}", short(start))
        }
        Action::Write(all) => format!("write {}", pairs(all)),
        Action::Delete(key) => format!("delete {}", short(key)),
        Action::Swap { key, expected, new } => {
            let expected = expected.as_ref().map_or("nothing".to_owned(), short);
            format!("swap {} from {expected} to {}", short(key), short(new))
        }
        Action::Add(key, delta) => format!("add {delta} to {}", short(key)),
        Action::Append(key, value) => format!("append {} to {}", short(value), short(key)),
    }
}

/// What a client is answered.
pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Ok => "done".to_owned(),
        Reply::Nil => "nothing there".to_owned(),
        Reply::Simple(text) => format!("{text:?}"),
        Reply::Int(number) => number.to_string(),
        Reply::Bulk(bytes) => short(bytes),
        Reply::Array(all) => format!("[{}]", list(all, self::reply)),
        Reply::Error(error) => format!("error {error:?}"),
    }
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a fault does.
pub(crate) fn trouble(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Split(side) => format!("network split: {} cut off from the others", names(side)),
        Trouble::OneWay(a, b) => format!("one-way cut: nothing gets from {a} to {b}"),
        Trouble::Pair(a, b) => format!("cut: {a} and {b} do not hear each other"),
        Trouble::DataOnly(a, b) => format!("data cut from {a} to {b}; pulses get through"),
        Trouble::PulsesOnly(a, b) => format!("pulses cut from {a} to {b}; data gets through"),
        Trouble::SlowLink(a, b, us) => format!("slow link: {a} to {b} takes {us} µs more"),
        Trouble::BreakLinks(a, b) => format!("connections from {a} to {b} break"),
        Trouble::HalfOpen(a, b) => {
            format!("connections from {a} to {b} break, {b} does not notice")
        }
        Trouble::Kill(node) => format!("{node} is killed"),
        Trouble::PowerLoss(node) => format!("power fails at {node}"),
        Trouble::PowerLossAll => "power fails everywhere".to_owned(),
        Trouble::CrashAtEffect(node, effects, by_power_loss) => {
            let how = if *by_power_loss { "loses power" } else { "is killed" };
            format!("{node} {how} after {effects} more effects")
        }
        Trouble::Pause(node) => format!("{node} is paused"),
        Trouble::StuckCore(at) => format!("core {at} is stuck"),
        Trouble::WalStall(at) => format!("log writes of {at} do not end"),
        Trouble::WalSlow(at, times) => format!("log writes of {at} take {times} times as long"),
        Trouble::WalFail(at) => format!("the next log write of {at} fails"),
        Trouble::FilesStall(at) => format!("file jobs of {at} do not end"),
        Trouble::FilesFail(at) => format!("file jobs of {at} fail"),
        Trouble::DiskFull(node) => format!("the disk of {node} is full"),
        Trouble::ClockRate(node, rate) => format!("the clock of {node} runs at {rate} ‰"),
        Trouble::WallJump(node, ms) => format!("the wall clock of {node} jumps by {ms} ms"),
        Trouble::Blank(node) => format!("{node} loses its disks"),
        Trouble::FlipBit(at) => format!("a bit flips on the disk of {at}"),
        Trouble::DropFile(at) => format!("a file of {at} is gone"),
        Trouble::SwapFiles(at) => format!("two log files of {at} are exchanged"),
        Trouble::OldCheckpoint(at) => format!("a checkpoint of {at} holds an older state"),
        Trouble::LoseFiles(at) => format!("all files of {at} are gone"),
        Trouble::Transfer(group) => format!("{group} is asked to change its leader"),
        Trouble::Members(group) => format!("{group} is asked to change its members"),
        Trouble::Cut(group) => format!("{group} is asked to cut its range in two"),
        Trouble::Merge(group) => format!("a range of {group} is asked to go into its neighbour"),
        Trouble::Node(trouble) => format!("of nodes: {trouble:?}"),
        Trouble::LoseQuorum(_) => "a quorum is lost for good".to_owned(),
        Trouble::Move(group) => format!("a replica of {group} is asked to move to another node"),
        Trouble::ChangeCores(node, cores, _) => format!("{node} is started with {cores} cores"),
        Trouble::MoveCore(group) => format!("a replica of {group} is asked to go to another core"),
    }
}

/// The kind of a fault and the nodes that it touches; none for all.
pub(crate) fn place(trouble: &Trouble) -> (&'static str, Vec<NodeId>) {
    match trouble {
        Trouble::Split(side) => ("network", side.clone()),
        Trouble::OneWay(a, b)
        | Trouble::Pair(a, b)
        | Trouble::DataOnly(a, b)
        | Trouble::PulsesOnly(a, b)
        | Trouble::SlowLink(a, b, _)
        | Trouble::BreakLinks(a, b)
        | Trouble::HalfOpen(a, b) => ("network", vec![*a, *b]),
        Trouble::Kill(node)
        | Trouble::PowerLoss(node)
        | Trouble::CrashAtEffect(node, ..)
        | Trouble::ChangeCores(node, ..)
        | Trouble::Blank(node) => ("crash", vec![*node]),
        Trouble::PowerLossAll => ("crash", Vec::new()),
        Trouble::Pause(node) => ("pause", vec![*node]),
        Trouble::StuckCore(at) => ("pause", vec![at.node]),
        Trouble::WalStall(at)
        | Trouble::WalSlow(at, _)
        | Trouble::WalFail(at)
        | Trouble::FilesStall(at)
        | Trouble::FilesFail(at)
        | Trouble::FlipBit(at)
        | Trouble::DropFile(at)
        | Trouble::SwapFiles(at)
        | Trouble::OldCheckpoint(at)
        | Trouble::LoseFiles(at) => ("disk", vec![at.node]),
        Trouble::DiskFull(node) => ("disk", vec![*node]),
        Trouble::ClockRate(node, _) | Trouble::WallJump(node, _) => ("clock", vec![*node]),
        Trouble::Transfer(_)
        | Trouble::Members(_)
        | Trouble::Cut(_)
        | Trouble::Merge(_)
        | Trouble::Node(_)
        | Trouble::LoseQuorum(_)
        | Trouble::Move(_)
        | Trouble::MoveCore(_) => ("order", Vec::new()),
    }
}
