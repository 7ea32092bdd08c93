//! One client connection without its socket: bytes in, requests out, outcomes in, replies out.
//!
//! It starts commands in the order in which they were sent, as many at once as it may, and sends
//! their replies in that order. It must not wait, block, or know a socket. One per connection; what
//! the connections of a core share is in [`CoreState`].
//!
//! Map: [`backend`] is what it needs of the node, [`limits`] what a client may make it hold,
//! `order` which commands may be under way together, `slots` what is not answered yet, `data`,
//! `transaction`, `scan` and `local` start the commands, [`cursors`] and [`roster`] are the core's.

pub mod backend;
pub mod cursors;
mod data;
pub mod limits;
mod local;
mod order;
pub mod roster;
mod scan;
mod slots;
#[cfg(test)]
mod tests;
mod transaction;

use std::fmt::Display;
use std::rc::Rc;

use bytes::Bytes;
use oarlock_store::{Command, Reply, Request, Watch};
use oarlock_types::{GroupId, NodeId};

pub use backend::{
    Backend, ConnectionId, KeyRange, NodeInfo, Outcome, Query, RangeInfo, Refusal, Ticket, Timed,
};
pub use limits::ClientLimits;
pub use roster::{ClientRecord, CoreState};

use crate::net::commands::connection::ReplyMode;
use crate::net::commands::{self, CommandError, KeyLimits, Local, Parsed};
use crate::net::resp::writer::reply_bytes;
use crate::net::resp::{Args, Parser, Protocol, Value, write_error, write_reply, write_value};
use order::{Access, Order};
use slots::{Join, Slot, Slots, State};
use transaction::Transaction;

/// Replies of the commands under way may together have about so many bytes, judged by the largest
/// of the recent ones: what a client that reads slowly makes the node hold.
const REPLY_WINDOW_BYTES: usize = 16 << 20;
/// A reply's size below which the window is not reckoned any finer.
const REPLY_BYTES_MIN: usize = 1 << 10;

/// What a session may use while it is called.
pub struct Host<'a> {
    /// What the sessions of this core share.
    pub core: &'a mut CoreState,
    /// The way to the ranges.
    pub backend: &'a mut dyn Backend,
}

impl Host<'_> {
    fn in_one_range<'k>(&self, keys: impl IntoIterator<Item = &'k Bytes>) -> bool {
        // What is not known yet is seen to when it is.
        let mut groups = keys.into_iter().filter_map(|key| self.backend.range_of(key));
        groups.next().is_none_or(|first| groups.all(|group| group == first))
    }
}

/// What the client's next command asks for.
#[derive(Debug)]
enum Instruction {
    /// This.
    Run(Parsed),
    /// Its arguments are wrong.
    Wrong(CommandError),
    /// There is no such command, or it takes another number of arguments.
    Rejected(CommandError),
}

impl Instruction {
    fn read(args: &Args<'_>, limits: &KeyLimits) -> Self {
        match commands::lookup(args) {
            Err(error) => Self::Rejected(error),
            Ok(spec) => match commands::parse(spec, args, limits) {
                Ok(parsed) => Self::Run(parsed),
                Err(error) if error.is_of_lookup() => Self::Rejected(error),
                Err(error) => Self::Wrong(error),
            },
        }
    }

    /// Whether everything before it must be answered first.
    fn waits_for_all(&self) -> bool {
        matches!(
            self,
            Self::Run(Parsed::Local(Local::Hello { .. } | Local::Reset | Local::ClientReply(_)))
        )
    }
}

/// A client connection.
#[derive(Debug)]
pub struct Session {
    id: ConnectionId,
    limits: Rc<ClientLimits>,
    protocol: Protocol,
    parser: Parser,
    /// A command that may not start yet, with what it does to which keys.
    held: Option<(Instruction, Access)>,
    order: Order,
    slots: Slots,
    /// No command starts before the queue of slots is empty.
    barrier: bool,
    transaction: Option<Transaction>,
    watches: Vec<Watch>,
    reply_mode: ReplyMode,
    /// The command that is being started gets no reply.
    silent: bool,
    output: Vec<u8>,
    /// Bytes that were taken from the output and are not sent yet.
    in_flight_bytes: usize,
    /// The largest of the recent replies.
    reply_peak_bytes: usize,
    /// Nothing more is read from the client.
    closing: bool,
    /// The client sends no more; what it has sent is carried out.
    ended: bool,
}

impl Session {
    /// A new connection's session; `record` is what is known of the client.
    #[must_use]
    pub fn open(id: ConnectionId, record: ClientRecord, core: &mut CoreState) -> Self {
        core.roster.insert(id, record);
        let limits = Rc::clone(&core.limits);
        Self {
            id,
            protocol: Protocol::Resp2,
            parser: Parser::new(limits.parser),
            held: None,
            order: Order::default(),
            slots: Slots::default(),
            barrier: false,
            transaction: None,
            watches: Vec::new(),
            reply_mode: ReplyMode::On,
            silent: false,
            output: Vec::new(),
            in_flight_bytes: 0,
            reply_peak_bytes: limits.keys.value_bytes_max,
            closing: false,
            ended: false,
            limits,
        }
    }

    /// Takes what the client has sent and starts what may start.
    pub fn receive(&mut self, bytes: &[u8], host: &mut Host<'_>) {
        self.parser.feed(bytes);
        self.advance(host);
    }

    /// The client sends no more.
    pub fn end_of_input(&mut self) {
        self.ended = true;
    }

    /// Takes a request's outcome and starts what could not start before it.
    pub fn complete(&mut self, ticket: Ticket, outcome: Outcome, host: &mut Host<'_>) {
        match self.slots.waiting(ticket.slot) {
            None => return,
            Some(Join::One) => self.finish_outcome(ticket.slot, atomic(outcome)),
            Some(Join::Gather(_)) => self.continue_gather(ticket, outcome, host),
            Some(Join::Watch(_)) => self.finish_watch(ticket, atomic(outcome)),
            Some(Join::Exec(_)) => self.finish_exec(ticket.slot, atomic(outcome)),
            Some(Join::Keys(_)) => self.continue_scan(ticket, outcome, host),
            Some(Join::Ranges(_)) => self.continue_range_scan(ticket, outcome, host),
        }
        self.advance(host);
    }

    /// Starts what may start, and makes replies of what is done. To be called after output was sent.
    pub fn advance(&mut self, host: &mut Host<'_>) {
        loop {
            self.flush();
            let Some((instruction, access)) = self.next_instruction() else { break };
            let must_wait = self.barrier || instruction.waits_for_all();
            if (must_wait && !self.slots.is_empty()) || !self.order.admits(&access) {
                self.held = Some((instruction, access));
                break;
            }
            self.barrier = false;
            self.start(instruction, access, host);
        }
    }

    /// Whether the client should be read from: nothing that it has sent waits for something else.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.closing && !self.ended && self.held.is_none() && !self.is_full()
    }

    /// Takes no more commands; ends once what was asked is answered.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether the connection is to be closed: all is answered and sent.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let no_more = self.closing || (self.ended && self.held.is_none());
        no_more && self.slots.is_empty() && self.unsent_bytes() == 0
    }

    /// Whether the client leaves so many replies unread that the connection must end.
    #[must_use]
    pub fn is_overflowing(&self) -> bool {
        self.unsent_bytes() + self.slots.reply_bytes() > self.limits.output_bytes_max
    }

    /// Takes all replies that are ready, in exchange for an empty buffer.
    pub fn take_output(&mut self, empty: Vec<u8>) -> Vec<u8> {
        let taken = std::mem::replace(&mut self.output, empty);
        self.in_flight_bytes += taken.len();
        taken
    }

    /// Notes that bytes of the output were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
    }

    /// Whether there are replies to take.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes that the client has sent and that are not yet a command. For tests of the bounds.
    #[must_use]
    pub fn parser(&self) -> &Parser {
        &self.parser
    }

    fn unsent_bytes(&self) -> usize {
        self.output.len() + self.in_flight_bytes
    }

    /// Whether no further command may start.
    fn is_full(&self) -> bool {
        let window = REPLY_WINDOW_BYTES / self.reply_peak_bytes.max(REPLY_BYTES_MIN);
        self.slots.len() >= window.clamp(1, self.limits.pending_count_max)
            || self.slots.bytes() >= self.limits.pending_bytes_max
            || self.unsent_bytes() >= self.limits.output_pause_bytes
    }

    fn next_instruction(&mut self) -> Option<(Instruction, Access)> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        if self.closing || self.is_full() {
            return None;
        }
        match self.parser.next_command() {
            Ok(args) => {
                let instruction = Instruction::read(&args?, &self.limits.keys);
                let access = self.access_of(&instruction);
                Some((instruction, access))
            }
            Err(error) => {
                self.silent = false;
                self.answer_error(error);
                self.closing = true;
                None
            }
        }
    }

    fn access_of(&self, instruction: &Instruction) -> Access {
        let Instruction::Run(parsed) = instruction else { return Access::None };
        match (parsed, &self.transaction) {
            (Parsed::Data(command) | Parsed::Once { command, .. }, None) => Access::of(command),
            (Parsed::Watch(keys), None) => Access::reads(keys.iter().map(|key| &key[..])),
            (Parsed::Scan(_) | Parsed::RangeScan(_) | Parsed::DbSize, None) => Access::Everything,
            (Parsed::Exec, Some(transaction)) => {
                transaction.access().and_reads(self.watches.iter().map(|watch| &watch.key[..]))
            }
            (_, _) => Access::None,
        }
    }

    fn start(&mut self, instruction: Instruction, access: Access, host: &mut Host<'_>) {
        self.silent = self.reply_mode != ReplyMode::On;
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
        let queueing = self.transaction.is_some();
        match instruction {
            Instruction::Run(Parsed::Multi) => self.start_multi(),
            Instruction::Run(Parsed::Exec) => self.start_exec(access, host),
            Instruction::Run(Parsed::Discard) => self.start_discard(),
            Instruction::Run(Parsed::Watch(keys)) => self.start_watch(keys, access, host),
            Instruction::Run(Parsed::Local(local @ (Local::Quit | Local::Reset))) => {
                self.start_local(local, host);
            }
            other if queueing => self.enqueue(other),
            Instruction::Rejected(error) | Instruction::Wrong(error) => self.answer_error(error),
            Instruction::Run(parsed) => self.start_parsed(parsed, access, host),
        }
    }

    fn start_parsed(&mut self, parsed: Parsed, access: Access, host: &mut Host<'_>) {
        match parsed {
            Parsed::Data(command) => self.start_data(command, access, host),
            Parsed::Once { id, command } => self.start_once(id, command, access, host),
            Parsed::Order(order) => self.start_data(Command::Order(order), access, host),
            Parsed::Group { group, command } => {
                let ticket = self.wait(Join::One, access, 0);
                host.backend.submit_to(self.id, ticket, group, Request::one(command));
            }
            Parsed::Query(query) => self.start_query(query, access, host),
            Parsed::ClientList(filter) => {
                let asker = self.id;
                self.start_query(Query::ClientList { filter, asker }, access, host);
            }
            Parsed::ClientKill(filter, reply) => {
                let asker = self.id;
                self.start_query(Query::ClientKill { filter, asker, reply }, access, host);
            }
            Parsed::Local(local) => self.start_local(local, host),
            Parsed::Rebuild { group, node } => self.start_rebuild((group, node), host),
            Parsed::Scan(args) => self.start_scan(args, access, host),
            Parsed::RangeScan(args) => self.start_range_scan(args, access, host),
            Parsed::DbSize => self.start_db_size(access, host),
            Parsed::Unwatch => {
                self.watches.clear();
                self.answer(&Value::Simple("OK"));
            }
            Parsed::Multi | Parsed::Exec | Parsed::Discard | Parsed::Watch(_) => {
                unreachable!("started with the transactions' commands")
            }
        }
    }

    fn start_local(&mut self, local: Local, host: &mut Host<'_>) {
        let turned_on = matches!(local, Local::ClientReply(ReplyMode::On));
        let value = self.run_local(local, host);
        self.silent &= !turned_on;
        if let Some(value) = value {
            self.answer(&value);
        }
    }

    fn start_query(&mut self, query: Query, access: Access, host: &mut Host<'_>) {
        let ticket = self.wait(Join::One, access, 0);
        host.backend.ask(self.id, ticket, query);
    }

    fn start_rebuild(&mut self, (group, node): (GroupId, NodeId), host: &mut Host<'_>) {
        let own = host.backend.info().node;
        if node == own {
            self.start_query(Query::Rebuild(group), Access::None, host);
        } else {
            self.answer_error(format!("ERR this is {own}: send it to {node}, whose replica it is"));
        }
    }

    /// Puts a command that has been handed to the backend into the queue.
    fn wait(&mut self, join: Join, access: Access, bytes: usize) -> Ticket {
        let ticket = Ticket { slot: self.slots.next(), part: 0 };
        self.order.enter(&access);
        let silent = self.silent;
        self.slots.push(Slot { state: State::Waiting(join), access, silent, bytes });
        ticket
    }

    /// Gives a command that waits its reply.
    fn finish(&mut self, number: u64, state: State) {
        let access = self.slots.finish(number, state);
        self.order.leave(&access);
    }

    fn finish_outcome(&mut self, number: u64, outcome: Outcome) {
        let state = match outcome {
            Ok(reply) => {
                let bytes = reply_bytes(&reply);
                self.note_reply(bytes);
                if self.reply_too_large(bytes) { self.too_large() } else { State::Done(reply) }
            }
            Err(refusal) => rendered_error(refusal),
        };
        self.finish(number, state);
    }

    /// Lets the window follow the replies' sizes: at once when they grow, slowly when they shrink.
    fn note_reply(&mut self, bytes: usize) {
        self.reply_peak_bytes = bytes.max(self.reply_peak_bytes - self.reply_peak_bytes / 8);
    }

    /// Whether a reply is so large that sending it would end the connection.
    fn reply_too_large(&self, bytes: usize) -> bool {
        bytes > self.limits.output_bytes_max / 2
    }

    fn too_large(&self) -> State {
        let bytes = self.limits.output_bytes_max / 2;
        rendered_error(format!(
            "ERR the reply is larger than {bytes} bytes (half of client_output_bytes_max); the \
             command was carried out; ask for less at once"
        ))
    }

    fn answer(&mut self, value: &Value) {
        self.answer_with(|out, protocol| write_value(out, value, protocol));
    }

    fn answer_reply(&mut self, reply: Reply) {
        self.answer_with(|out, protocol| write_reply(out, &reply, protocol));
    }

    fn answer_error(&mut self, error: impl Display) {
        self.answer_with(|out, _| write_error(out, &error.to_string()));
    }

    fn answer_rendered(&mut self, bytes: Vec<u8>) {
        self.answer_with(|out, _| out.extend_from_slice(&bytes));
    }

    /// Answers at once, or behind the commands that are not answered yet.
    fn answer_with(&mut self, write: impl FnOnce(&mut Vec<u8>, Protocol)) {
        if self.silent {
            return;
        }
        if self.slots.is_empty() {
            return write(&mut self.output, self.protocol);
        }
        let mut bytes = Vec::new();
        write(&mut bytes, self.protocol);
        let state = State::Rendered(bytes);
        self.slots.push(Slot { state, access: Access::None, silent: false, bytes: 0 });
    }

    /// Makes bytes of the replies that are next, as long as the client keeps up.
    fn flush(&mut self) {
        while self.unsent_bytes() < self.limits.output_pause_bytes
            && let Some(slot) = self.slots.pop_ready()
        {
            match slot.state {
                _ if slot.silent => {}
                State::Done(reply) => write_reply(&mut self.output, &reply, self.protocol),
                State::Rendered(bytes) => self.output.extend_from_slice(&bytes),
                State::Waiting(_) => unreachable!("only commands with a reply are ready"),
            }
        }
    }
}

/// The outcome of what one range must carry out as a whole: its keys are in one range, or it is refused.
fn atomic(outcome: Outcome) -> Outcome {
    if outcome == Err(Refusal::Moved) { Err(Refusal::CrossRange) } else { outcome }
}

fn rendered_error(error: impl Display) -> State {
    let mut out = Vec::new();
    write_error(&mut out, &error.to_string());
    State::Rendered(out)
}
