//! What operators and placement ask of a range. It comes the way of clients' requests, to whoever leads or to the
//! one replica that it is for, but goes into no batch.

use std::collections::VecDeque;

use bytes::Bytes;
use oarlock_codec::Refusal;
use oarlock_raft::{ChangeError, TransferError};
use oarlock_store::{ErrorReply, Order, Reply};
use oarlock_types::{CoreAddr, CoreId, FeatureLevel, GroupId, Mono, NodeId};

use crate::Outcome;
use crate::moves::MoveStep;
use crate::shard::Shard;
use crate::split::SplitError;

/// Most ranges that wait for a new group's id.
const CUTS_MAX: usize = 1024;
/// How long one waits.
const CUT_WAIT_MS: u64 = 5_000;

/// A range that is to be cut.
#[derive(Debug)]
struct Cut {
    group: GroupId,
    at: Bytes,
    /// Who hears of it.
    token: Option<u64>,
    since: Mono,
}

/// A cut that is proposed.
#[derive(Debug)]
struct Proposed {
    parent: GroupId,
    child: GroupId,
    token: u64,
}

/// Orders that wait.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Ids that no group has yet.
    ids: VecDeque<GroupId>,
    cuts: VecDeque<Cut>,
    proposed: Vec<Proposed>,
}

impl Shard {
    /// Cuts a range in two at a key as soon as there is an id for the new group; one that does not lead, or
    /// can not be cut then, is left as it is.
    pub fn cut_soon(&mut self, group: GroupId, at: Bytes) {
        let is_known = self.orders.cuts.iter().any(|cut| cut.group == group);
        if !is_known && self.orders.cuts.len() < CUTS_MAX {
            self.orders.cuts.push_back(Cut { group, at, token: None, since: self.now });
            self.go_on_cutting();
        }
    }

    /// Takes ids that no other group has or will have.
    pub fn give_ids(&mut self, ids: impl IntoIterator<Item = GroupId>) {
        self.orders.ids.extend(ids);
        self.go_on_cutting();
    }

    /// Takes an order for a range that is led here, or for the replica here.
    pub(crate) fn order(
        &mut self,
        token: u64,
        group: GroupId,
        order: &Order,
    ) -> Result<(), Refusal> {
        let reply = match order {
            Order::Report { .. } | Order::Explain { .. } => {
                self.out.placement.push((token, order.clone()));
                return Ok(());
            }
            Order::Split { at } => {
                if self.orders.cuts.len() >= CUTS_MAX {
                    return Err(Refusal::Busy);
                }
                let (at, since) = (at.clone(), self.now);
                self.orders.cuts.push_back(Cut { group, at, token: Some(token), since });
                self.go_on_cutting();
                return Ok(());
            }
            Order::Merge { start, into_start, into_epoch } => {
                return self.merge_order(token, group, start, (into_start, *into_epoch));
            }
            Order::Place { voters } => self.place_order(group, voters)?,
            Order::Transfer { to } => self.transfer_order(group, NodeId(*to))?,
            Order::MoveCore { node, core } => {
                self.core_order(group, CoreAddr::new(NodeId(*node), CoreId(*core)))?
            }
        };
        self.out.replies.push((token, Ok(reply)));
        Ok(())
    }

    fn place_order(&mut self, group: GroupId, voters: &[u64]) -> Result<Reply, Refusal> {
        let voters: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
        if voters.iter().any(|node| !self.is_node(*node)) {
            return Ok(Reply::Error(ErrorReply::NoSuchNode));
        }
        match self.place_voters(group, &voters) {
            Ok(MoveStep::Done) => Ok(Reply::Ok),
            Ok(step) => Ok(Reply::Simple(step.to_string())),
            Err(ChangeError::NotLeader { leader }) => Err(Refusal::NotLeader { leader }),
            Err(error) => Ok(Reply::Simple(error.to_string())),
        }
    }

    fn transfer_order(&mut self, group: GroupId, to: NodeId) -> Result<Reply, Refusal> {
        if to == self.addr.node {
            return Ok(Reply::Ok);
        }
        match self.transfer(group, Some(to)) {
            Ok(to) => Ok(Reply::Simple(MoveStep::HandingOver(to).to_string())),
            Err(TransferError::NotLeader { leader }) => Err(Refusal::NotLeader { leader }),
            Err(error) => Ok(Reply::Simple(error.to_string())),
        }
    }

    /// The replica itself says why it can not go. That it is there says whoever leads, who has the map say so, too.
    fn core_order(&mut self, group: GroupId, to: CoreAddr) -> Result<Reply, Refusal> {
        let replica = self.replicas.get(&group).ok_or(Refusal::NoSuchGroup)?;
        let is_own = to.node == self.addr.node;
        let (leads, leader) = (replica.raft.is_leader(), replica.raft.leader());
        debug_assert!(is_own || leads, "invariant: who follows takes orders for itself alone");
        let is_member = is_own || replica.raft.configuration().is_member(to.node);
        let cores = if is_own { self.support.cores() } else { self.support.peer_cores(to.node) };
        if self.feature_level() < FeatureLevel::CORE_MOVES {
            return Ok(Reply::Error(ErrorReply::LevelTooLow));
        } else if !is_member {
            return Ok(Reply::Error(ErrorReply::NoSuchNode));
        } else if to.core.get() >= cores {
            return Ok(Reply::Error(ErrorReply::NoSuchCore));
        }
        if to == self.addr || (!is_own && self.core_of_member(group, to.node) == Some(to.core)) {
            // Who orders it goes by a map that had it elsewhere, since its place was guessed when it was made.
            self.hand_overs.untold.insert(group);
            return if leads { Ok(Reply::Ok) } else { Err(Refusal::NotLeader { leader }) };
        }
        if !is_own {
            self.tell_residence(group, to.node, to.core, false);
        } else if let Err(error) = self.move_to_core(group, to.core) {
            return Ok(Reply::Simple(error.to_string()));
        }
        Ok(Reply::Simple(format!("{to} is to have it")))
    }

    /// Whether the cluster has such a node.
    fn is_node(&self, node: NodeId) -> bool {
        node == self.addr.node || self.support.has_peer(node)
    }

    fn go_on_cutting(&mut self) {
        while !self.orders.cuts.is_empty() {
            let Some(child) = self.orders.ids.pop_front() else {
                self.out.wants_ids = true;
                return;
            };
            let Some(Cut { group, at, token, .. }) = self.orders.cuts.pop_front() else { return };
            match self.split(group, at, child) {
                Ok(_) => {
                    let proposed = token.map(|token| Proposed { parent: group, child, token });
                    self.orders.proposed.extend(proposed);
                }
                Err(error) => {
                    self.orders.ids.push_front(child);
                    let refused = token.map(|token| (token, refused(&error)));
                    self.out.replies.extend(refused);
                }
            }
        }
    }

    /// A range was cut here.
    pub(crate) fn cut_done(&mut self, child: GroupId) {
        let reply = Reply::Int(i64::try_from(child.get()).unwrap_or(i64::MAX));
        let done = self.orders.proposed.extract_if(.., |proposed| proposed.child == child);
        self.out.replies.extend(done.map(|proposed| (proposed.token, Ok(reply.clone()))));
    }

    /// Gives up what has waited too long for an id (the meta group does not answer), and what this
    /// replica can not see to its end since it does not lead any more.
    pub(crate) fn expire_orders(&mut self) {
        let mut proposed = std::mem::take(&mut self.orders.proposed);
        let lost = proposed.extract_if(.., |proposed| !self.leads(proposed.parent));
        let lost: Vec<u64> = lost.map(|proposed| proposed.token).collect();
        self.orders.proposed = proposed;
        self.out.replies.extend(lost.into_iter().map(|token| (token, Err(Refusal::Unknown))));
        let now = self.now;
        let is_over = |cut: &Cut| now.since(cut.since).as_millis() >= u128::from(CUT_WAIT_MS);
        while self.orders.cuts.front().is_some_and(is_over) {
            let token = self.orders.cuts.pop_front().and_then(|cut| cut.token);
            self.out.replies.extend(token.map(|token| (token, Err(Refusal::Busy))));
        }
    }
}

fn refused(error: &SplitError) -> Outcome {
    match error {
        SplitError::NoSuchGroup => Err(Refusal::NoSuchGroup),
        SplitError::Change(ChangeError::NotLeader { leader }) => {
            Err(Refusal::NotLeader { leader: *leader })
        }
        SplitError::OutOfRange(_) => Ok(Reply::Error(ErrorReply::NothingToSplit)),
        SplitError::Change(_) | SplitError::Taken | SplitError::Frozen => {
            Ok(Reply::Error(ErrorReply::RangeIsChanging))
        }
    }
}
