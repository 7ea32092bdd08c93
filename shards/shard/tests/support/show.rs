//! Words for what happens in a cluster under test: one line an event. One per test.

#![allow(clippy::wildcard_enum_match_arm, reason = "what has no words here is shown as it is")]

use std::collections::BTreeSet;

use oarlock_codec::{GroupMessage, MergeEntry, Record, SplitEntry, commands};
use oarlock_raft::{AppendOutcome, Body, Entry, Payload, Rebuild};
use oarlock_shard::{CheckpointFile, FileJob, Outcome, Split};
use oarlock_store::{Command, Reply};
use oarlock_types::{CoreAddr, GroupId, NodeId, RangeBounds};

/// What is told, and what was.
#[derive(Debug, Default)]
pub struct Trace {
    /// Of `frames`, `messages`, `files`, `leaders`, `splits`, `ids`.
    pub wanted: BTreeSet<String>,
    pub lines: Vec<String>,
}

impl Trace {
    pub fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    fn wants(&self, what: &str) -> bool {
        self.wanted.contains(what)
    }

    pub fn frame(&mut self, at: CoreAddr, records: &[(Record, bool)]) {
        if self.wants("frames") {
            let records: Vec<String> = records.iter().map(record).collect();
            self.line(format!("{at} writes a frame: {}", records.join(", ")));
        }
    }

    pub fn message(&mut self, from: NodeId, to: NodeId, message: &GroupMessage, lost: bool) {
        if self.wants("messages") {
            let GroupMessage { group, message } = message;
            let lost = if lost { " (lost)" } else { "" };
            let words = body(&message.body);
            self.line(format!("{from} → {to} {group} term {}: {words}{lost}", message.term.get()));
        }
    }

    pub fn job(&mut self, at: CoreAddr, job: &FileJob, fails: bool) {
        if self.wants("files") {
            let fails = if fails { " (fails)" } else { "" };
            self.line(format!("{at} {}{fails}", self::job(job)));
        }
    }

    pub fn outcome(&mut self, token: u64, outcome: &Outcome) {
        if !self.wants("no-outcomes") {
            let words = match outcome {
                Ok(reply) => self::reply(reply),
                Err(refusal) => format!("{refusal:?}"),
            };
            self.line(format!("#{token}: {words}"));
        }
    }

    pub fn split(&mut self, at: CoreAddr, split: &Split) {
        if self.wants("splits") {
            let ((parent, left), (child, right)) = (&split.parent, &split.child);
            let (left, right) = (bounds(left), bounds(right));
            let led = if split.leads { ", led here" } else { "" };
            self.line(format!("{at} {parent} {left} and {child} {right}{led}"));
        }
    }

    pub fn wants_ids(&mut self, at: CoreAddr) {
        if self.wants("ids") {
            self.line(format!("{at} wants ids for new groups"));
        }
    }

    pub fn leader(&mut self, at: CoreAddr, group: GroupId, leader: Option<NodeId>) {
        if self.wants("leaders") {
            let leader = leader.map_or("nobody".to_owned(), |leader| leader.to_string());
            self.line(format!("{at} {group} knows {leader} as leader"));
        }
    }
}

fn bounds(bounds: &RangeBounds) -> String {
    let end = bounds.end.as_deref().map_or("…".into(), String::from_utf8_lossy);
    format!("{}..{end} {}", String::from_utf8_lossy(&bounds.start), bounds.epoch)
}

pub fn file(file: &CheckpointFile) -> String {
    format!("checkpoint {}-{}", file.group, file.position)
}

fn job(job: &FileJob) -> String {
    match job {
        FileJob::Append { file, offset_bytes, data } => {
            format!("appends {} bytes at {offset_bytes} to {}", data.len(), self::file(file))
        }
        FileJob::Finish { file } => format!("finishes {}", self::file(file)),
        FileJob::Read { file, offset_bytes, len_bytes } => {
            format!("reads {len_bytes} bytes at {offset_bytes} of {}", self::file(file))
        }
        FileJob::Adopt { file, from } => format!("adopts {} of {from}", self::file(file)),
        FileJob::Delete { file } => format!("deletes {}", self::file(file)),
        FileJob::ReadFrames(span) => format!("reads back frames of segment {}", span.segment),
    }
}

fn entry(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Noop => format!("{} noop", entry.at),
        Payload::Config(_) => format!("{} config", entry.at),
        Payload::Merge(bytes) => format!("{:?}", MergeEntry::decode(bytes)),
        Payload::Split(bytes) => {
            let split = SplitEntry::decode(bytes).expect("a split");
            format!("{} split at {:?} for {}", entry.at, split.at, split.child)
        }
        Payload::Commands(_) | Payload::Packed(_) => {
            let batch = commands::batch(&entry.payload).expect("a batch");
            let all = batch.requests.iter().flat_map(|request| &request.commands);
            let words: Vec<String> = all.map(command).collect();
            let words =
                if words.len() > 6 { format!("{} commands", words.len()) } else { words.join(" ") };
            format!("{} {words}", entry.at)
        }
    }
}

fn entries(list: &[Entry]) -> String {
    match list {
        [first, _, _, _, .., last] => format!("{} to {}", first.at, last.at),
        list => list.iter().map(entry).collect::<Vec<_>>().join("; "),
    }
}

fn command(command: &Command) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match command {
        Command::Set { key, value, .. } if value.len() <= 16 => {
            format!("{}={}", text(key), text(value))
        }
        Command::Set { key, value, .. } => format!("{}=({} bytes)", text(key), value.len()),
        Command::IncrBy { key, delta } => format!("{}+{delta}", text(key)),
        other => format!("{other:?}"),
    }
}

fn record((record, moved): &(Record, bool)) -> String {
    let words = match record {
        Record::Entries { group, entries } => format!("{group} [{}]", self::entries(entries)),
        Record::HardState { group, hard_state } => {
            let vote = hard_state.vote.map_or("nobody".to_owned(), |vote| vote.to_string());
            format!("{group} term {} vote {vote}", hard_state.term.get())
        }
        Record::Checkpoint { group, meta, keep_from } => {
            let keeps = match keep_from.get() {
                u64::MAX => "nothing".to_owned(),
                from => format!("from {from}"),
            };
            format!("{group} checkpoint {} keeps {keeps}", meta.position)
        }
        Record::Create { group, .. } => format!("{group} created"),
        Record::Destroy { group } => format!("{group} destroyed"),
    };
    if *moved { format!("{words} (moved)") } else { words }
}

fn body(body: &Body) -> String {
    match body {
        Body::PreVote(request) => format!("PreVote last={}", request.last),
        Body::PreVoteReply(reply) => format!("PreVoteReply granted={}", reply.granted),
        Body::Vote(request) => format!("Vote last={}", request.last),
        Body::VoteReply(reply) => format!("VoteReply granted={}", reply.granted),
        Body::Append(append) => {
            let notice = if append.wants_reply { "" } else { " (notice)" };
            let list = entries(&append.entries);
            let commit = append.commit.get();
            format!("Append after {} [{list}] commit={commit}{notice}", append.prev)
        }
        Body::AppendReply(reply) => {
            let bound = if reply.bound.is_some() { "bound" } else { "unbound" };
            match reply.outcome {
                AppendOutcome::Matched(index) => {
                    format!("AppendReply matched={} {bound}", index.get())
                }
                AppendOutcome::Rejected { prev, hint } => {
                    format!("AppendReply rejected={} hint={hint} {bound}", prev.get())
                }
            }
        }
        Body::Snapshot(chunk) if chunk.data.is_empty() => {
            format!("Snapshot {} offer of {} bytes", chunk.meta.position, chunk.meta.size_bytes)
        }
        Body::Snapshot(chunk) => {
            let (position, length) = (chunk.meta.position, chunk.data.len());
            format!("Snapshot {position} {length} bytes at {}", chunk.offset_bytes)
        }
        Body::SnapshotReply { position, received_bytes, installed } => {
            let installed = if *installed { " installed" } else { "" };
            format!("SnapshotReply {position} has {received_bytes} bytes{installed}")
        }
        Body::TimeoutNow(_) => "TimeoutNow".to_owned(),
        Body::Release(release) => format!("Release of {}@{}", release.leader, release.term),
        Body::ReleaseReply(release) => {
            format!("ReleaseReply of {}@{}", release.leader, release.term)
        }
        Body::ReadIndex { .. } => "ReadIndex".to_owned(),
        Body::Rebuild(Rebuild::Leave { .. }) => "Leave".to_owned(),
        Body::Rebuild(Rebuild::Left { index, .. }) => format!("Left at {index}"),
        Body::Rebuild(Rebuild::Join) => "Join".to_owned(),
        Body::Rebuild(Rebuild::Members(_)) => "Members".to_owned(),
        Body::Absent => "Absent".to_owned(),
        Body::Create => "Create".to_owned(),
        Body::Residence { core, is_answer } => format!("Residence {core} {is_answer}"),
        Body::ReadIndexReply { index, .. } => {
            format!("ReadIndexReply {:?}", index.map(|index| index.get()))
        }
    }
}

pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Ok => "OK".to_owned(),
        Reply::Nil => "nil".to_owned(),
        Reply::Simple(text) => text.clone(),
        Reply::Int(number) => number.to_string(),
        Reply::Bulk(bytes) if bytes.len() <= 32 => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Bulk(bytes) => format!("({} bytes)", bytes.len()),
        other => format!("{other:?}"),
    }
}
