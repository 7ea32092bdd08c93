//! The pulse: what two nodes tell each other, some twenty times a second, for all of their groups
//! at once. Plain data. The rules that give it meaning stand in `oarlock_shard::pulse`; the codec
//! gives it bytes.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{ClusterId, CoreId, Incarnation, NodeId, SupportEpoch};

/// One node's word to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Pulse {
    /// The cluster that both belong to.
    pub cluster: ClusterId,
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// The receiver's incarnation as the sender knows it; zero while it is unknown.
    pub to_incarnation: Incarnation,
    /// Counts the pulses from this incarnation of the sender to this receiver, from 1.
    pub sequence: u64,
    /// For each of the sender's cores, whether its loop and its log have moved of late.
    pub alive: Vec<bool>,
    /// What the sender grants to the receiver's cores; a core that has nothing is left out.
    pub support: Vec<PulseSupport>,
    /// The version of the cluster's map that the sender holds.
    pub map_version: u64,
}

/// The sender's replicas that follow a leader on the receiver's `core` will neither campaign nor
/// vote for another until one support duration after the sender received the receiver's pulse
/// number `sequence`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PulseSupport {
    /// The receiver's core.
    pub core: CoreId,
    /// The promise's epoch.
    pub epoch: SupportEpoch,
    /// The newest pulse of the receiver that extended the promise.
    pub sequence: u64,
}
