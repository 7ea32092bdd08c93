//! `MULTI`, `EXEC`, `WATCH`: commands that are queued and go to one range as one request.

use bytes::Bytes;
use oarlock_store::{Command, Reply, Request, Watch};

use super::backend::{Outcome, Refusal, Ticket};
use super::order::Access;
use super::slots::{Join, State};
use super::{Host, Instruction, Session};
use crate::net::commands::{CommandError, Local, Parsed, held_bytes};
use crate::net::resp::writer::{reply_bytes, write_array_header, write_nil_array};
use crate::net::resp::{Value, write_error, write_reply, write_value};

/// What `MULTI` has begun.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    queue: Vec<Queued>,
    bytes: usize,
    /// A command could not be queued, so `EXEC` does nothing.
    aborted: bool,
}

/// A command between `MULTI` and `EXEC`.
#[derive(Debug)]
enum Queued {
    Data(Command),
    Local(Local),
    /// Wrong in itself: its error is its reply, the others are carried out.
    Wrong(CommandError),
}

/// Where a reply within that of `EXEC` comes from.
#[derive(Debug)]
pub(super) enum ExecItem {
    /// The next of the range's replies.
    Range,
    /// These bytes.
    Rendered(Vec<u8>),
}

impl Transaction {
    /// What `EXEC` would do.
    pub(super) fn access(&self) -> Access {
        Access::of_all(self.queue.iter().filter_map(|queued| match queued {
            Queued::Data(command) => Some(command),
            Queued::Local(_) | Queued::Wrong(_) => None,
        }))
    }

    pub(super) fn abort(&mut self) {
        self.aborted = true;
    }
}

impl Session {
    /// Queues a command behind `MULTI`.
    pub(super) fn enqueue(&mut self, instruction: Instruction) {
        let limits = &self.limits;
        let (count_max, bytes_max) = (limits.pending_count_max, limits.parser.command_bytes_max);
        let transaction = self.transaction.as_mut().expect("invariant: MULTI was said");
        let queued = match instruction {
            Instruction::Run(Parsed::Data(command)) => Ok(Queued::Data(command)),
            Instruction::Run(Parsed::Unwatch) => Ok(Queued::Local(Local::Accept)),
            Instruction::Run(Parsed::Local(Local::Hello { .. } | Local::ClientReply(_))) => {
                Err(CommandError::NotInTransaction)
            }
            Instruction::Run(Parsed::Local(local)) => Ok(Queued::Local(local)),
            Instruction::Wrong(error) => Ok(Queued::Wrong(error)),
            Instruction::Run(_) => Err(CommandError::NotInTransaction),
            Instruction::Rejected(error) => Err(error),
        };
        let queued = queued.and_then(|queued| {
            transaction.bytes += match &queued {
                Queued::Data(command) => held_bytes(command),
                Queued::Local(_) | Queued::Wrong(_) => size_of::<Queued>(),
            };
            if transaction.bytes > bytes_max || transaction.queue.len() >= count_max {
                let (commands, bytes) = (count_max, bytes_max);
                return Err(CommandError::TransactionTooLarge { commands, bytes });
            }
            Ok(queued)
        });
        match queued {
            Ok(queued) => {
                transaction.queue.push(queued);
                self.answer(&Value::Simple("QUEUED"));
            }
            Err(error) => {
                transaction.abort();
                self.answer_error(&error);
            }
        }
    }

    pub(super) fn start_multi(&mut self) {
        if self.transaction.is_some() {
            self.answer_error(&CommandError::NestedMulti);
        } else {
            self.transaction = Some(Transaction::default());
            self.answer(&Value::Simple("OK"));
        }
    }

    pub(super) fn start_discard(&mut self) {
        if self.transaction.take().is_some() {
            self.watches.clear();
            self.answer(&Value::Simple("OK"));
        } else {
            self.answer_error(&CommandError::DiscardWithoutMulti);
        }
    }

    /// Reads the versions of keys; nothing else starts before they are known.
    pub(super) fn start_watch(&mut self, watched: Vec<Bytes>, access: Access, host: &mut Host<'_>) {
        if self.transaction.is_some() {
            return self.answer_error(&CommandError::WatchInMulti);
        }
        let before = self.watches.iter().map(|watch| &watch.key);
        if !host.in_one_range(before.chain(&watched)) {
            return self.answer_error(Refusal::CrossRange);
        }
        let commands = watched.iter().map(|key| Command::Version { key: key.clone() }).collect();
        let request = Request { transaction: true, commands, ..Request::default() };
        let key = watched[0].clone();
        let ticket = self.wait(Join::Watch(watched), access, 0);
        self.barrier = true;
        host.backend.submit(self.id, ticket, &key, request);
    }

    pub(super) fn start_exec(&mut self, access: Access, host: &mut Host<'_>) {
        let Some(transaction) = self.transaction.take() else {
            return self.answer_error(&CommandError::ExecWithoutMulti);
        };
        let watches = std::mem::take(&mut self.watches);
        if transaction.aborted {
            return self.answer_error(&CommandError::ExecAbort);
        }
        let touched = transaction.queue.iter().filter_map(|queued| match queued {
            Queued::Data(command) => Some(command),
            Queued::Local(_) | Queued::Wrong(_) => None,
        });
        let mut used: Vec<Bytes> =
            touched.flat_map(|command| command.keys().iter()).cloned().collect();
        used.extend(watches.iter().map(|watch| watch.key.clone()));
        if !host.in_one_range(&used) {
            return self.answer_error(Refusal::CrossRange);
        }
        let bytes = transaction.bytes;
        let (items, commands) = self.prepare(transaction.queue, host);
        let Some(key) = used.first() else {
            let out = self.render_exec(&items, Vec::new());
            return self.answer_rendered(out);
        };
        let ticket = self.wait(Join::Exec(items), access, bytes);
        let request = Request { once: None, watches, transaction: true, commands };
        host.backend.submit(self.id, ticket, key, request);
    }

    /// Answers what the connection answers itself, and collects what the range shall do.
    fn prepare(
        &mut self,
        queue: Vec<Queued>,
        host: &mut Host<'_>,
    ) -> (Vec<ExecItem>, Vec<Command>) {
        let mut items = Vec::new();
        let mut commands = Vec::new();
        for queued in queue {
            items.push(match queued {
                Queued::Data(command) => {
                    commands.push(command);
                    ExecItem::Range
                }
                Queued::Local(local) => {
                    let mut out = Vec::new();
                    let value = self.run_local(local, host).unwrap_or(Value::Simple("OK"));
                    write_value(&mut out, &value, self.protocol);
                    ExecItem::Rendered(out)
                }
                Queued::Wrong(error) => {
                    let mut out = Vec::new();
                    write_error(&mut out, &error.to_string());
                    ExecItem::Rendered(out)
                }
            });
        }
        (items, commands)
    }

    fn render_exec(&self, items: &[ExecItem], replies: Vec<Reply>) -> Vec<u8> {
        let mut out = Vec::new();
        write_array_header(&mut out, items.len());
        let mut replies = replies.into_iter();
        for item in items {
            match item {
                ExecItem::Range => {
                    let reply = replies.next().expect("invariant: a reply for each command");
                    write_reply(&mut out, &reply, self.protocol);
                }
                ExecItem::Rendered(bytes) => out.extend_from_slice(bytes),
            }
        }
        out
    }

    pub(super) fn finish_exec(&mut self, number: u64, outcome: Outcome) {
        let Some(Join::Exec(items)) = self.slots.waiting(number) else { return };
        let items = std::mem::take(items);
        match outcome {
            Ok(reply @ Reply::Array(_)) if self.reply_too_large(reply_bytes(&reply)) => {
                self.finish_outcome(number, Ok(reply));
            }
            Ok(Reply::Array(replies)) => {
                let out = self.render_exec(&items, replies);
                self.finish(number, State::Rendered(out));
            }
            Ok(Reply::Nil) => {
                let mut out = Vec::new();
                write_nil_array(&mut out, self.protocol);
                self.finish(number, State::Rendered(out));
            }
            other => self.finish_outcome(number, other),
        }
    }

    pub(super) fn finish_watch(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(Join::Watch(keys)) = self.slots.waiting(ticket.slot) else { return };
        let keys = std::mem::take(keys);
        let outcome = outcome.map(|reply| match reply {
            Reply::Array(versions) => {
                for (key, version) in keys.into_iter().zip(versions) {
                    let Reply::Int(version) = version else { continue };
                    let version = u64::try_from(version).unwrap_or(0);
                    // The first version that was seen counts, as in Redis.
                    if self.watches.iter().all(|watch| watch.key != key) {
                        self.watches.push(Watch { key, version });
                    }
                }
                Reply::Ok
            }
            Reply::Ok
            | Reply::Simple(_)
            | Reply::Nil
            | Reply::Int(_)
            | Reply::Bulk(_)
            | Reply::Error(_) => reply,
        });
        self.finish_outcome(ticket.slot, outcome);
    }
}
