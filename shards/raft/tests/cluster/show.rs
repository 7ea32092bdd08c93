//! Words for what happens in a cluster under test, one line an effect. One per test.

use oarlock_raft::{
    Append, AppendOutcome, AppendReply, Body, Configuration, Durable, Effects, Entry, Message,
    ReadOutcome, Rebuild, Release, Role, VoteRequest,
};
use oarlock_types::NodeId;

use super::{Cluster, payload_text};

fn nodes(list: &[NodeId]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub fn configuration(c: &Configuration) -> String {
    let mut text = format!("voters={}", nodes(&c.voters));
    if c.is_joint() {
        text += &format!(" outgoing={}", nodes(&c.outgoing));
    }
    if !c.learners.is_empty() {
        text += &format!(" learners={}", nodes(&c.learners));
    }
    text
}

fn positions(entries: &[Entry]) -> String {
    entries.iter().map(|e| e.at.to_string()).collect::<Vec<_>>().join(" ")
}

fn release(r: Release) -> String {
    format!("of {}@{}", r.leader, r.term)
}

fn request(r: &VoteRequest) -> String {
    let carried = r.release.map_or(String::new(), |r| format!(" release {}", release(r)));
    format!("last={}{carried}", r.last)
}

fn append(a: &Append) -> String {
    let mut text =
        format!("Append base={} [{}] commit={}", a.prev, positions(&a.entries), a.commit.0);
    if a.read_sequence > 0 {
        text += &format!(" barrier={}", a.read_sequence);
    }
    if !a.wants_reply {
        text += " (notice)";
    }
    text
}

fn reply(r: &AppendReply) -> String {
    let mut text = match r.outcome {
        AppendOutcome::Matched(index) => format!("AppendReply matched={}", index.0),
        AppendOutcome::Rejected { prev, hint } => {
            format!("AppendReply rejected={} hint={hint}", prev.0)
        }
    };
    match r.bound {
        Some((epoch, incarnation)) => text += &format!(" bound={epoch}/{incarnation}"),
        None => text += " unbound",
    }
    if r.read_sequence > 0 {
        text += &format!(" barrier={}", r.read_sequence);
    }
    text
}

pub fn body(body: &Body) -> String {
    let vote = |granted| if granted { "yes" } else { "no" };
    match body {
        Body::PreVote(r) => format!("PreVote {}", request(r)),
        Body::PreVoteReply(r) => format!("PreVoteReply {}", vote(r.granted)),
        Body::Vote(r) => format!("Vote {}", request(r)),
        Body::VoteReply(r) => format!("VoteReply {}", vote(r.granted)),
        Body::Append(a) => append(a),
        Body::AppendReply(r) => reply(r),
        Body::Snapshot(c) if c.data.is_empty() => format!("Snapshot {} offer", c.meta.position),
        Body::Snapshot(c) => {
            let end = c.offset_bytes + c.data.len() as u64;
            format!("Snapshot {} bytes {}..{end}", c.meta.position, c.offset_bytes)
        }
        Body::SnapshotReply { position, installed: true, .. } => {
            format!("SnapshotReply {position} installed")
        }
        Body::SnapshotReply { position, received_bytes, .. } => {
            format!("SnapshotReply {position} has {received_bytes}")
        }
        Body::TimeoutNow(r) => format!("TimeoutNow release {}", release(*r)),
        Body::Release(r) => format!("Release {}", release(*r)),
        Body::ReleaseReply(r) => format!("ReleaseReply {}", release(*r)),
        Body::ReadIndex { sequence } => format!("ReadIndex attempt={}", sequence & 0xff),
        Body::ReadIndexReply { sequence, index } => match index {
            Some(index) => format!("ReadIndexReply attempt={} index={}", sequence & 0xff, index.0),
            None => format!("ReadIndexReply attempt={} refused", sequence & 0xff),
        },
        Body::Rebuild(Rebuild::Leave { attempt }) => format!("Leave attempt={attempt}"),
        Body::Rebuild(Rebuild::Left { attempt, index, configuration: c }) => {
            format!("Left attempt={attempt} at {} {}", index.0, configuration(c))
        }
        Body::Rebuild(Rebuild::Join) => "Join".into(),
        Body::Rebuild(Rebuild::Members(c)) => format!("Members {}", configuration(c)),
        Body::Absent => "Absent".into(),
        Body::Create => "Create".into(),
        Body::Residence { core, is_answer } => format!("Residence {core} {is_answer}"),
    }
}

impl Cluster {
    pub fn show_sent(&mut self, from: NodeId, to: NodeId, message: &Message) {
        self.trace.push(format!("{from}@{} → {to} {}", message.term, body(&message.body)));
    }

    pub fn show_durable(&mut self, id: NodeId, durable: Durable) {
        let mut text = format!("{id} disk has");
        if let Some(hard) = durable.hard_state {
            text += &format!(" term={}", hard.term);
            text += &hard.vote.map_or(String::new(), |v| format!(" vote={v}"));
        }
        if let Some(last) = durable.last {
            text += &format!(" log to {last}");
        }
        self.trace.push(text);
    }

    pub fn show_effects(&mut self, id: NodeId, out: &Effects) {
        if let Some(hard) = out.hard_state {
            let vote = hard.vote.map_or(String::new(), |v| format!(" vote={v}"));
            self.trace.push(format!("{id} term={}{vote}", hard.term));
        }
        for entry in &out.append {
            let text = payload_text(&entry.payload);
            self.trace.push(format!("{id} append {} {text}", entry.at));
        }
        for (to, message) in &out.send_now {
            self.show_sent(id, *to, message);
        }
        for (to, message) in &out.send_after_durable {
            let text = body(&message.body);
            self.trace.push(format!("{id}@{} holds for {to} {text}", message.term));
        }
        for entry in &out.apply {
            self.trace.push(format!("{id} apply {} {}", entry.at, payload_text(&entry.payload)));
        }
        for read in &out.reads {
            self.trace.push(match read {
                ReadOutcome::Ready { token, index } => format!("{id} read {token} at {}", index.0),
                ReadOutcome::Refused { token } => format!("{id} read {token} refused"),
            });
        }
        for r in &out.log_reads {
            self.trace.push(format!("{id} wants log {}..={} for {}", r.from.0, r.to.0, r.to_node));
        }
        for r in &out.snapshot_reads {
            let what = r.offset_bytes.map_or("offer".into(), |o| format!("bytes from {o}"));
            self.trace.push(format!("{id} wants snapshot {} {what} for {}", r.position, r.to_node));
        }
        for w in &out.snapshot_writes {
            let end = w.offset_bytes + w.data.len() as u64;
            let position = w.meta.position;
            self.trace.push(format!("{id} keeps snapshot {position} {}..{end}", w.offset_bytes));
        }
    }

    /// One line on a replica.
    pub fn status(&self, id: NodeId) -> String {
        let node = self.node(id);
        let Some(group) = &node.group else { return format!("{id} down") };
        let leader = match (group.role(), group.leader()) {
            (Role::Leader(_), _) => String::new(),
            (_, Some(leader)) => format!(" of {leader}"),
            (_, None) => String::new(),
        };
        let ctx = oarlock_raft::Context {
            now: self.now,
            support: &node.promises,
            may_vote: node.may_vote,
        };
        let lease = if group.lease_valid(&ctx) { " lease" } else { "" };
        let bound = if group.is_bound(&ctx) { " bound" } else { "" };
        let timer = if group.deadline() == oarlock_types::Mono::NEVER { "" } else { " timer" };
        format!(
            "{id} {}{leader} term={} last={} durable={} commit={} first={}{lease}{bound}{timer}",
            group.role().name(),
            group.term(),
            group.last(),
            group.durable_index().0,
            group.commit().0,
            group.first_index().0,
        )
    }
}
