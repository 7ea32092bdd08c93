//! What happened in a run, as a list of events with their virtual time: for people, for a
//! space-time page, and for the comparison of two runs. It must not change a run: a run that is not
//! traced goes the same way.

use std::collections::BTreeMap;
use std::{fmt, io};

use oarlock_raft::{Group, Role};
use oarlock_types::{CoreAddr, GroupId, Incarnation, Index, NodeId, Term};

use crate::faults::Trouble;
use crate::words;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Virtual microseconds since the beginning.
    pub at_us: u64,
    /// What happened.
    pub what: What,
}

/// The kinds of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A replica's message left its node.
    Sent {
        /// Names the message; its arrivals bear the same.
        message: u64,
        /// From which core.
        from: CoreAddr,
        /// To which node.
        to: NodeId,
        /// The group.
        group: GroupId,
        /// The sender's term.
        term: Term,
        /// The kind of message.
        kind: &'static str,
        /// What it says, for people.
        text: String,
    },
    /// A message arrived. More than once where the network doubled it, never where it was lost.
    Received {
        /// The message.
        message: u64,
        /// At which core.
        at: CoreAddr,
    },
    /// A message will not arrive, or not once more.
    Lost {
        /// The message.
        message: u64,
        /// Why.
        why: &'static str,
    },
    /// A node's word of life to another arrived, or will not. One that waits in the socket of a
    /// process when it ends is not told of.
    Pulse {
        /// From which node.
        from: NodeId,
        /// To which node.
        to: NodeId,
        /// When it was sent, in virtual microseconds.
        sent_us: u64,
        /// What it says, for people.
        text: String,
        /// Why it does not arrive, if it does not.
        lost: Option<&'static str>,
    },
    /// A replica's role, term or leader is another.
    Role {
        /// Where.
        at: CoreAddr,
        /// The group.
        group: GroupId,
        /// Its role.
        role: &'static str,
        /// Its term.
        term: Term,
        /// Whom it takes for the leader.
        leader: Option<NodeId>,
    },
    /// A replica's log has grown, shrunk, or has more of it committed or durable.
    Log {
        /// Where.
        at: CoreAddr,
        /// The group.
        group: GroupId,
        /// The end of its log.
        last: Index,
        /// On its disk up to here.
        durable: Index,
        /// Committed up to here.
        commit: Index,
    },
    /// A fault of the schedule begins or ends.
    Fault {
        /// Its place in the schedule.
        number: usize,
        /// What it does.
        trouble: Trouble,
        /// It begins; else it ends.
        begins: bool,
    },
    /// All faults end.
    Calm,
    /// A process starts.
    Started {
        /// Whose.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A process ends.
    Ended {
        /// Whose.
        node: NodeId,
        /// Why.
        why: String,
        /// With its machine; else alone.
        by_power_loss: bool,
    },
    /// A link comes or goes, and what else a node tells.
    Node {
        /// Whose.
        node: NodeId,
        /// What.
        text: String,
    },
    /// A client asks or is answered.
    Client {
        /// Who.
        client: u64,
        /// Which group it asks.
        group: GroupId,
        /// Where its operation stands.
        phase: Phase,
        /// What.
        text: String,
    },
    /// A client's attempt goes to a node.
    Asked {
        /// Who.
        client: u64,
        /// Which group it asks.
        group: GroupId,
        /// Where.
        to: NodeId,
    },
}

/// Where a client's operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It begins.
    Asks,
    /// The answer of this node is there.
    Answered(NodeId),
    /// The client waits no longer.
    GivesUp,
}

impl Phase {
    /// After an act that tells something: one that sends begins, another gives up.
    pub(crate) fn of_act(sends: bool) -> Self {
        if sends { Self::Asks } else { Self::GivesUp }
    }

    /// After an outcome that ends the operation.
    pub(crate) fn of_hearing(is_ok: bool, from: NodeId) -> Self {
        if is_ok { Self::Answered(from) } else { Self::GivesUp }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6}.{:06} ", self.at_us / 1_000_000, self.at_us % 1_000_000)?;
        match &self.what {
            What::Sent { message, from, to, group, term, kind, text } => {
                write!(f, "{from} -> {to} {group} t{term} {kind} {text} #{message}")
            }
            What::Received { message, at } => write!(f, "{at} <- #{message}"),
            What::Role { at, group, role, term, leader } => match leader {
                Some(leader) => write!(f, "{at} {group} is {role} in t{term}, leader {leader}"),
                None => write!(f, "{at} {group} is {role} in t{term}, no leader"),
            },
            What::Log { at, group, last, durable, commit } => {
                write!(f, "{at} {group} log {last}, durable {durable}, committed {commit}")
            }
            What::Lost { message, why } => write!(f, "#{message} is lost: {why}"),
            What::Pulse { from, to, sent_us, text, lost } => {
                let (us, lost) = (
                    self.at_us - sent_us,
                    lost.map_or(String::new(), |why| format!(", lost: {why}")),
                );
                write!(f, "{from} -> {to} pulse {text}, {us} us on its way{lost}")
            }
            What::Fault { number, trouble, begins } => {
                let ends = if *begins { "" } else { " ends" };
                write!(f, "fault {number}{ends}: {}", words::trouble(trouble))
            }
            What::Calm => f.write_str("all faults end"),
            What::Started { node, incarnation } => write!(f, "{node} starts as {incarnation}"),
            What::Ended { node, why, by_power_loss } => {
                let how = if *by_power_loss { "power loss" } else { "kill" };
                write!(f, "{node} {why} ({how})")
            }
            What::Node { node, text } => write!(f, "{node} {text}"),
            What::Client { client, group, text, .. } => {
                write!(f, "client {client} {group} {text}")
            }
            What::Asked { client, group, to } => write!(f, "client {client} {group} asks {to}"),
        }
    }
}

/// The events of a run.
#[derive(Default)]
pub struct Trace {
    is_on: bool,
    events: Vec<Event>,
    /// What each replica was when it was last looked at.
    replicas: BTreeMap<(NodeId, GroupId), Seen>,
    /// Where each line goes at once: a run that ends its process is told up to its end.
    lines: Option<Box<dyn io::Write>>,
}

/// What is told of a replica.
#[derive(PartialEq, Eq)]
struct Seen {
    standing: (&'static str, Term, Option<NodeId>),
    log: (Index, Index, Index),
}

/// The role of a replica for people: a follower that does not vote has other names.
fn role_of(node: NodeId, raft: &Group) -> &'static str {
    let config = raft.configuration();
    match raft.role() {
        Role::Follower(_) if config.is_voter(node) => "follower",
        Role::Follower(_) if config.learners.contains(&node) => "learner",
        Role::Follower(_) => "outsider",
        Role::PreCandidate(_) | Role::Candidate(_) | Role::Leader(_) => raft.role().name(),
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace of {} events", self.events.len())
    }
}

impl Trace {
    /// A trace that keeps what it is told, or does not.
    #[must_use]
    pub fn new(is_on: bool) -> Self {
        Self { is_on, events: Vec::new(), replicas: BTreeMap::new(), lines: None }
    }

    /// From now on writes a line for each event, too.
    pub fn write_lines(&mut self, lines: Box<dyn io::Write>) {
        self.is_on = true;
        self.lines = Some(lines);
    }

    /// Whether it keeps anything: what is only for it need not be made otherwise.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Keeps an event.
    pub fn push(&mut self, at_us: u64, what: impl FnOnce() -> What) {
        if self.is_on {
            let event = Event { at_us, what: what() };
            if let Some(lines) = &mut self.lines {
                // A trace that can not be written must not change the run.
                let _ = writeln!(lines, "{event}");
            }
            self.events.push(event);
        }
    }

    /// Looks at a replica: tells what is another than before.
    pub(crate) fn replica(&mut self, at_us: u64, at: CoreAddr, group: GroupId, raft: &Group) {
        if !self.is_on {
            return;
        }
        let standing = (role_of(at.node, raft), raft.term(), raft.leader());
        let log = (raft.last().index, raft.durable_index(), raft.commit());
        let was = self.replicas.insert((at.node, group), Seen { standing, log });
        if was.as_ref().is_none_or(|was| was.standing != standing) {
            let (role, term, leader) = standing;
            self.push(at_us, || What::Role { at, group, role, term, leader });
        }
        if was.is_none_or(|was| was.log != log) {
            let (last, durable, commit) = log;
            self.push(at_us, || What::Log { at, group, last, durable, commit });
        }
    }

    /// A process is gone, and what its replicas were with it.
    pub(crate) fn ended(&mut self, at_us: u64, node: NodeId, why: &str, by_power_loss: bool) {
        self.replicas.retain(|(at, _), _| *at != node);
        self.push(at_us, || What::Ended { node, why: why.to_owned(), by_power_loss });
    }

    /// These messages do not arrive.
    pub(crate) fn lost(&mut self, at_us: u64, first: u64, count: u64, why: &'static str) {
        if self.is_on {
            for message in first..first + count {
                self.push(at_us, || What::Lost { message, why });
            }
        }
    }

    /// All events in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// All events, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        use fmt::Write;
        let mut text = String::new();
        for event in &self.events {
            let _ = writeln!(text, "{event}");
        }
        text
    }
}
