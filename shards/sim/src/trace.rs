//! What happened in a run, as a list of events with their virtual time: for people, for a
//! space-time page, and for the comparison of two runs. It must not change a run: a run that is not
//! traced goes the same way.

use std::{fmt, io};

use oarlock_types::{CoreAddr, GroupId, Index, NodeId, Term};

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
        text: String,
        /// It begins; else it ends.
        begins: bool,
    },
    /// A process starts or ends, a link comes or goes.
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
        /// What.
        text: String,
    },
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
            What::Fault { number, text, begins: true } => write!(f, "fault {number}: {text}"),
            What::Fault { number, text, begins: false } => {
                write!(f, "fault {number} ends: {text}")
            }
            What::Node { node, text } => write!(f, "{node} {text}"),
            What::Client { client, group, text } => write!(f, "client {client} {group} {text}"),
        }
    }
}

/// The events of a run.
#[derive(Default)]
pub struct Trace {
    is_on: bool,
    events: Vec<Event>,
    /// Where each line goes at once: a run that ends its process is told up to its end.
    lines: Option<Box<dyn io::Write>>,
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
        Self { is_on, events: Vec::new(), lines: None }
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
