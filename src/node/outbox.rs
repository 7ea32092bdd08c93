//! What a core has to tell other nodes this turn, gathered per node, so that it becomes one write
//! per link. One per core.

use std::collections::BTreeMap;

use oarlock_codec::{ForwardReply, ForwardRequest, GroupMessage, LinkProbe};
use oarlock_types::NodeId;

use crate::net::link::PeerLink;

/// Most messages of one frame: a group's largest append is bounded, so a frame of them is, too.
const MESSAGES_PER_FRAME: usize = 256;
/// Bytes of entries after which a frame is closed.
const FRAME_BYTES: usize = 1 << 20;

/// What goes to one node.
#[derive(Debug, Default)]
pub struct Parcel {
    messages: Vec<GroupMessage>,
    forwards: Vec<ForwardRequest>,
    replies: Vec<ForwardReply>,
    probes: Vec<LinkProbe>,
}

/// What was sent of a parcel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Raft messages in them.
    pub messages: u64,
}

impl Parcel {
    fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.forwards.is_empty()
            && self.replies.is_empty()
            && self.probes.is_empty()
    }

    /// Sends it. What a link that is down can not take is lost, but for forwarded requests, which
    /// [`Parcel::take_unsent`] gives back.
    pub fn send(&mut self, link: &PeerLink) -> Sent {
        let mut sent = Sent::default();
        // Outcomes first: somebody waits for them.
        if !self.replies.is_empty() && link.send(&self.replies) {
            sent.frames += 1;
        }
        let mut send = |frame: &Vec<GroupMessage>| {
            if link.send(frame) {
                sent.frames += 1;
                sent.messages += frame.len() as u64;
            }
        };
        let first = frame_length(&self.messages);
        if first < self.messages.len() {
            // The last ones first: what is behind a frame is not moved for it.
            let mut starts = Vec::new();
            let mut at = 0;
            while at < self.messages.len() {
                starts.push(at);
                at += frame_length(&self.messages[at..]);
            }
            let frames: Vec<Vec<GroupMessage>> =
                starts.into_iter().rev().map(|start| self.messages.split_off(start)).collect();
            frames.iter().rev().for_each(&mut send);
        } else if first > 0 {
            send(&self.messages);
            self.messages.clear();
        }
        if !self.forwards.is_empty() && link.send(&self.forwards) {
            sent.frames += 1;
            self.forwards.clear();
        }
        for probe in self.probes.drain(..) {
            sent.frames += u64::from(link.send(&probe));
        }
        sent
    }

    /// Whether it holds work: an answer to a probe must not lead to the next probe.
    pub fn is_worth_timing(&self) -> bool {
        !self.messages.is_empty() || !self.forwards.is_empty()
    }

    /// Times the way with it, or answers such a question.
    pub fn probe(&mut self, probe: LinkProbe) {
        self.probes.push(probe);
    }

    /// Gives back the requests that were not sent, and forgets all else.
    pub fn take_unsent(&mut self) -> Vec<ForwardRequest> {
        self.messages.clear();
        self.replies.clear();
        self.probes.clear();
        std::mem::take(&mut self.forwards)
    }
}

/// How many of the messages go into the next frame.
fn frame_length(messages: &[GroupMessage]) -> usize {
    let mut bytes = 0;
    let fits = messages.iter().take(MESSAGES_PER_FRAME).take_while(|message| {
        let fits = bytes < FRAME_BYTES;
        bytes += message.message.size_bytes();
        fits
    });
    fits.count().max(usize::from(!messages.is_empty()))
}

/// Parcels by node.
#[derive(Debug, Default)]
pub struct Outbox {
    parcels: BTreeMap<NodeId, Parcel>,
}

impl Outbox {
    /// A Raft message.
    pub fn message(&mut self, node: NodeId, message: GroupMessage) {
        self.parcels.entry(node).or_default().messages.push(message);
    }

    /// A request for a leader there.
    pub fn forward(&mut self, node: NodeId, request: ForwardRequest) {
        self.parcels.entry(node).or_default().forwards.push(request);
    }

    /// The outcome of a request from there.
    pub fn reply(&mut self, node: NodeId, reply: ForwardReply) {
        self.parcels.entry(node).or_default().replies.push(reply);
    }

    /// The answer to a node that times its way to this one.
    pub fn probe(&mut self, node: NodeId, probe: LinkProbe) {
        self.parcels.entry(node).or_default().probe(probe);
    }

    /// The parcels that hold something, in the order of their nodes.
    pub fn parcels(&mut self) -> impl Iterator<Item = (NodeId, &mut Parcel)> {
        let all = self.parcels.iter_mut().map(|(node, parcel)| (*node, parcel));
        all.filter(|(_, parcel)| !parcel.is_empty())
    }
}
