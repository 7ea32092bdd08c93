//! What a step may know of the world: the time, and what the pulses promise.
//!
//! The rules stand in the module that keeps them (`oarlock_shard::pulse`); here is only what one
//! group asks. Per step, never stored.

use oarlock_types::{CoreAddr, Incarnation, Mono, NodeId, SupportEpoch};

/// Support that this node grants to a leader's core at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Counts lapses: a binding under an older epoch is void.
    pub epoch: SupportEpoch,
    /// The leader's node's incarnation that the promise was made to.
    pub incarnation: Incarnation,
}

/// Support that another node grants to this core at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its epoch. A follower counts towards the lease only if it is bound under this one.
    pub epoch: SupportEpoch,
    /// The lease runs until here at most: the send time of the supported pulse plus the support's
    /// duration less drift.
    pub until: Mono,
}

/// The answers of the pulses.
pub trait Support {
    /// The support that this node grants to `leader` now; `None` once it has lapsed. While it is
    /// `Some` with a binding's epoch and incarnation, that replica is bound.
    fn granted(&self, leader: CoreAddr) -> Option<Grant>;

    /// The support that `node` grants to this core now; `None` once `until` has passed.
    /// Never asked for this node itself, which always supports its own core.
    fn received(&self, node: NodeId) -> Option<Received>;

    /// This node's own incarnation, which a binding to this core must name to count.
    fn incarnation(&self) -> Incarnation;
}

/// What is handed into every step.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The monotonic time of the turn.
    pub now: Mono,
    /// The pulses' answers.
    pub support: &'a dyn Support,
    /// False for one support duration after a start that was not the first: the node has forgotten
    /// the promises that it made, so its replicas neither vote nor campaign.
    pub may_vote: bool,
}
