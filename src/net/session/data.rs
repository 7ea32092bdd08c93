//! Data commands: to the one range of their keys, or split by range and joined.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_store::{Command, Reply, Request};
use oarlock_types::GroupId;

use super::backend::Ticket;
use super::order::Access;
use super::slots::{Gather, Gathered, Join};
use super::{CROSS_RANGE, Host, Session};
use crate::net::commands::keys;

/// The keys of one range and where they stood in the command.
#[derive(Default)]
struct Share {
    keys: Vec<Bytes>,
    places: Vec<usize>,
}

/// How the shares of a command are asked for.
#[derive(Clone, Copy)]
enum Split {
    MGet,
    Exists,
    Del,
}

impl Split {
    fn command(self, keys: Vec<Bytes>) -> Command {
        match self {
            Self::MGet => Command::MGet { keys },
            Self::Exists => Command::Exists { keys },
            Self::Del => Command::Del { keys },
        }
    }
}

impl Session {
    pub(super) fn start_data(&mut self, command: Command, access: Access, host: &mut Host<'_>) {
        let mut used = Vec::new();
        if keys::several(&command) {
            keys::for_each(&command, |key| used.push(key));
        }
        if host.in_one_range(used) {
            return self.submit(command, None, access, host);
        }
        let (split, keys) = if let Command::MGet { keys } = command {
            (Split::MGet, keys)
        } else if let Command::Exists { keys } = command {
            (Split::Exists, keys)
        } else if let Command::Del { keys } = command {
            (Split::Del, keys)
        } else {
            return self.answer_error(CROSS_RANGE);
        };
        self.start_split(split, keys, access, host);
    }

    pub(super) fn start_once(
        &mut self,
        id: Bytes,
        command: Command,
        access: Access,
        host: &mut Host<'_>,
    ) {
        let mut used = Vec::new();
        keys::for_each(&command, |key| used.push(key));
        if host.in_one_range(used) {
            self.submit(command, Some(id), access, host);
        } else {
            self.answer_error(CROSS_RANGE);
        }
    }

    fn submit(
        &mut self,
        command: Command,
        once: Option<Bytes>,
        access: Access,
        host: &mut Host<'_>,
    ) {
        let key = keys::first(&command).expect("invariant: a data command has a key").clone();
        let ticket = self.wait(Join::One, access, keys::held_bytes(&command));
        let request = Request { once, ..Request::one(command) };
        host.backend.submit(self.id, ticket, &key, request);
    }

    fn start_split(&mut self, split: Split, keys: Vec<Bytes>, access: Access, host: &mut Host<'_>) {
        let count = keys.len();
        let bytes = keys.iter().map(|key| key.len() + size_of::<Bytes>()).sum();
        let mut shares: BTreeMap<GroupId, Share> = BTreeMap::new();
        for (place, key) in keys.into_iter().enumerate() {
            let share = shares.entry(host.backend.range_of(&key)).or_default();
            share.keys.push(key);
            share.places.push(place);
        }
        let places = shares.values_mut().map(|share| std::mem::take(&mut share.places)).collect();
        let (result, writes) = match split {
            Split::MGet => (Gathered::Places { replies: vec![Reply::Nil; count], places }, false),
            Split::Exists => (Gathered::Sum(0), false),
            Split::Del => (Gathered::Sum(0), true),
        };
        let parts = shares.into_iter().map(|(group, share)| (group, split.command(share.keys)));
        self.start_gather(parts.collect(), result, (access, writes, bytes), host);
    }

    pub(super) fn start_db_size(&mut self, access: Access, host: &mut Host<'_>) {
        let ranges = host.backend.ranges();
        let parts = ranges.iter().map(|range| (range.group, Command::Count)).collect();
        self.start_gather(parts, Gathered::Sum(0), (access, false, 0), host);
    }

    fn start_gather(
        &mut self,
        parts: Vec<(GroupId, Command)>,
        result: Gathered,
        (access, writes, bytes): (Access, bool, usize),
        host: &mut Host<'_>,
    ) {
        let gather = Gather {
            missing: parts.len(),
            result,
            writes,
            any_applied: false,
            refusal: None,
            error: None,
        };
        let ticket = self.wait(Join::Gather(gather), access, bytes);
        for (part, (group, command)) in (0_u32..).zip(parts) {
            let ticket = Ticket { part, ..ticket };
            host.backend.submit_to(self.id, ticket, group, Request::one(command));
        }
    }
}
