//! The histories by which ranges are judged, each with the order in which the entries of the logs would have its
//! operations take effect. The checker goes through that order as through any other: it explains what a search would
//! take long to explain, where many operations are of unknown outcome.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oarlock_codec::commands;
use oarlock_raft::Payload;
use oarlock_store::{Batch, Command, Request};
use oarlock_types::GroupId;

use super::lost::{has_id, numbers};
use super::{Clients, Entry};
use crate::linearizability::{Action, Operation};

/// What an entry of a log says of operations.
enum Logged {
    /// It has the one with this number.
    Number(u64),
    /// It removes a key, for whomever.
    Delete(Bytes),
}

impl Clients {
    /// The histories by which each group is judged, each with places in it in the order of the entries that were
    /// committed, of which is known when.
    pub(crate) fn histories(
        &self,
        committed: &[(u64, Payload)],
    ) -> Vec<(GroupId, Vec<Operation>, Vec<usize>)> {
        let logged: Vec<(u64, Logged)> =
            committed.iter().flat_map(|(at, payload)| logged(payload).map(|l| (*at, l))).collect();
        let history = |(group, entries): (&GroupId, &Vec<Entry>)| {
            let kept = self.kept(entries);
            let order = self.order(&kept, &logged);
            (*group, kept.into_iter().map(|entry| entry.operation).collect(), order)
        };
        self.histories.iter().map(history).collect()
    }

    fn order(&self, kept: &[Entry], logged: &[(u64, Logged)]) -> Vec<usize> {
        let places = kept.iter().enumerate().filter(|(_, entry)| entry.number > 0);
        let places: BTreeMap<u64, usize> =
            places.map(|(place, entry)| (entry.number, place)).collect();
        let mut deletes = Vec::new();
        for (place, Entry { operation, .. }) in kept.iter().enumerate() {
            if let Action::Delete(key) = &operation.action {
                deletes.push((key, place));
            }
        }
        let mut order = Vec::new();
        for (at, logged) in logged {
            match logged {
                Logged::Number(number) => {
                    let is_lost = self.lost.get(number).is_some_and(|until| at <= until);
                    order.extend(places.get(number).filter(|_| !is_lost));
                }
                Logged::Delete(key) => {
                    // Nothing tells one from another; that which is answered first most likely comes first.
                    let called = |place: usize| kept[place].operation.called_at <= *at;
                    let answered = |place: usize| {
                        kept[place].operation.answer.as_ref().map_or(u64::MAX, |(at, _)| *at)
                    };
                    let may = |(of, place): &(&Bytes, usize)| {
                        *of == key && called(*place) && *at <= answered(*place)
                    };
                    let all = (0..deletes.len()).filter(|delete| may(&deletes[*delete]));
                    if let Some(first) = all.min_by_key(|delete| answered(deletes[*delete].1)) {
                        order.push(deletes.swap_remove(first).1);
                    }
                }
            }
        }
        last_attempts(kept, &order)
    }
}

/// Without the entries of what was asked again because it was refused: without an id that is sent again only then.
fn last_attempts(kept: &[Entry], order: &[usize]) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let stays = |place: &&usize| has_id(&kept[**place].operation.action) || seen.insert(**place);
    let mut order: Vec<usize> = order.iter().rev().filter(stays).copied().collect();
    order.reverse();
    order
}

/// The operations of an entry, in order.
fn logged(payload: &Payload) -> impl Iterator<Item = Logged> + use<> {
    let requests = match payload {
        Payload::Commands(_) | Payload::Packed(_) => {
            let Batch { requests, .. } = commands::batch(payload).expect("an entry of ours");
            requests
        }
        Payload::Noop | Payload::Config(_) | Payload::Split(_) | Payload::Merge(_) => Vec::new(),
    };
    requests.into_iter().flat_map(of_request)
}

fn of_request(request: Request) -> Vec<Logged> {
    let mut numbers = numbers(&request);
    numbers.dedup();
    let mut all: Vec<Logged> = numbers.into_iter().map(Logged::Number).collect();
    if all.is_empty() {
        for command in request.commands {
            if let Command::Del { keys } = command {
                all.extend(keys.into_iter().map(Logged::Delete));
            }
        }
    }
    all
}
