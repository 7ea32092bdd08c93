//! Data commands: to the one range of their keys, or split by range and joined.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_store::{Command, Request};
use oarlock_types::GroupId;

use super::backend::{Outcome, Refusal, Ticket};
use super::order::Access;
use super::slots::{Gather, Gathered, Join, Part, Progress};
use super::{Host, Session};
use crate::net::commands::held_bytes;

/// How often a command that is split by range may find ranges changed before the client hears of it.
const MOVES_MAX: u32 = 64;

/// What the parts of a command ask for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Split {
    MGet,
    Exists,
    Del,
    /// The keys of a whole range.
    Count,
}

impl Split {
    fn command(self, keys: Vec<Bytes>) -> Command {
        match self {
            Self::MGet => Command::MGet { keys },
            Self::Exists => Command::Exists { keys },
            Self::Del => Command::Del { keys },
            Self::Count => Command::Count,
        }
    }
}

impl Part {
    /// The parts of this one, by the ranges in which its keys are now.
    fn split(self, host: &Host<'_>) -> impl Iterator<Item = Self> {
        // A key whose range is not known goes by itself.
        let mut shares: BTreeMap<(Option<GroupId>, usize), Self> = BTreeMap::new();
        for (key, place) in self.keys.into_iter().zip(self.places) {
            let group = host.backend.range_of(&key);
            let share = shares.entry((group, if group.is_some() { 0 } else { place })).or_default();
            share.keys.push(key);
            share.places.push(place);
        }
        shares.into_values()
    }
}

impl Session {
    pub(super) fn start_data(&mut self, command: Command, access: Access, host: &mut Host<'_>) {
        if command.keys().len() == 1 {
            return self.submit(command, None, access, host);
        }
        let (split, keys) = if let Command::MGet { keys } = command {
            (Split::MGet, keys)
        } else if let Command::Exists { keys } = command {
            (Split::Exists, keys)
        } else if let Command::Del { keys } = command {
            (Split::Del, keys)
        } else {
            return if host.in_one_range(command.keys().iter()) {
                self.submit(command, None, access, host)
            } else {
                self.answer_error(Refusal::CrossRange)
            };
        };
        let bytes = keys.iter().map(|key| key.len() + size_of::<Bytes>()).sum();
        let places = (0..keys.len()).collect();
        let parts: Vec<Part> = Part { keys, places }.split(host).collect();
        self.start_gather(split, parts, access, bytes, host);
    }

    pub(super) fn start_once(
        &mut self,
        id: Bytes,
        command: Command,
        access: Access,
        host: &mut Host<'_>,
    ) {
        if host.in_one_range(command.keys().iter()) {
            self.submit(command, Some(id), access, host);
        } else {
            self.answer_error(Refusal::CrossRange);
        }
    }

    fn submit(
        &mut self,
        command: Command,
        once: Option<Bytes>,
        access: Access,
        host: &mut Host<'_>,
    ) {
        let key = command.keys().get(0).expect("invariant: a data command has a key").clone();
        let ticket = self.wait(Join::One, access, held_bytes(&command));
        let request = Request { once, ..Request::one(command) };
        host.backend.submit(self.id, ticket, &key, request);
    }

    pub(super) fn start_db_size(&mut self, access: Access, host: &mut Host<'_>) {
        self.start_gather(Split::Count, Vec::new(), access, 0, host);
    }

    fn start_gather(
        &mut self,
        split: Split,
        parts: Vec<Part>,
        access: Access,
        bytes: usize,
        host: &mut Host<'_>,
    ) {
        let gather = Gather::new(split, Gathered::of(split, &parts));
        let ticket = self.wait(Join::Gather(gather), access, bytes);
        match split {
            Split::Count => self.count_all(ticket, host),
            Split::MGet | Split::Exists | Split::Del => self.ask_for_parts(ticket, parts, host),
        }
    }

    fn ask_for_parts(&mut self, ticket: Ticket, parts: Vec<Part>, host: &mut Host<'_>) {
        let Some(Join::Gather(gather)) = self.slots.waiting(ticket.slot) else { return };
        let split = gather.split;
        let first = gather.parts.len();
        gather.missing += parts.len();
        gather.parts.extend(parts);
        for (part, share) in (0_u32..).zip(&gather.parts).skip(first) {
            let ticket = Ticket { part, ..ticket };
            let request = Request::one(split.command(share.keys.clone()));
            host.backend.submit(self.id, ticket, &share.keys[0], request);
        }
    }

    /// Asks every range how many keys it has.
    fn count_all(&mut self, ticket: Ticket, host: &mut Host<'_>) {
        let Some(Join::Gather(gather)) = self.slots.waiting(ticket.slot) else { return };
        let groups = host.backend.groups();
        gather.missing = groups.len();
        gather.result = Gathered::Sum(0);
        for (part, group) in (0_u32..).zip(groups) {
            let request = Request::one(Split::Count.command(Vec::new()));
            host.backend.submit_to(self.id, Ticket { part, ..ticket }, group, request);
        }
    }

    pub(super) fn continue_gather(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        host: &mut Host<'_>,
    ) {
        let Some(Join::Gather(gather)) = self.slots.waiting(ticket.slot) else { return };
        let part = usize::try_from(ticket.part).expect("invariant: usize has 32 bits");
        if outcome == Err(Refusal::Moved) && gather.moves < MOVES_MAX {
            gather.moves += 1;
            gather.missing -= 1;
            if let Split::Count = gather.split {
                gather.must_count_anew = true;
            } else {
                // Nothing of this part was applied: its keys are asked for where they are by now.
                let parts = std::mem::take(&mut gather.parts[part]).split(host).collect();
                return self.ask_for_parts(ticket, parts, host);
            }
        } else {
            gather.take(part, outcome);
        }
        match gather.progress() {
            Progress::Missing => {}
            Progress::Again => self.count_all(ticket, host),
            Progress::Whole(outcome) => self.finish_outcome(ticket.slot, outcome),
        }
    }
}
