//! A core's letters to the other cores of its node: gathered during a turn, posted at its end.
//!
//! One per core. An inbox that is full keeps nobody waiting: the letters stay here and are posted
//! with a later turn, in order; what may be lost (Raft messages) is lost instead.

use std::collections::VecDeque;

use oarlock_cluster::passing::Life;
use oarlock_cluster::router::CoreRequest;
use oarlock_codec::{ForwardRequest, GroupMessage};
use oarlock_shard::Outcome;
use oarlock_types::{CoreAddr, CoreId, Mono};

use super::inbox::Sender;
use super::message::CoreMessage;

/// Letters that may wait for one full inbox before Raft messages are dropped.
const UNPOSTED_MAX: usize = 1024;

#[derive(Debug)]
struct Letters {
    inbox: Sender<CoreMessage>,
    requests: Vec<CoreRequest>,
    outcomes: Vec<(u64, Outcome)>,
    unposted: VecDeque<CoreMessage>,
}

/// The letters.
#[derive(Debug)]
pub struct Mail {
    boxes: Vec<Letters>,
}

impl Mail {
    /// Mail to the cores with these inboxes, in their order.
    #[must_use]
    pub fn new(inboxes: &[Sender<CoreMessage>]) -> Self {
        let open = |inbox: &Sender<CoreMessage>| Letters {
            inbox: inbox.clone(),
            requests: Vec::new(),
            outcomes: Vec::new(),
            unposted: VecDeque::new(),
        };
        Self { boxes: inboxes.iter().map(open).collect() }
    }

    /// How many cores the node has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.boxes.len()
    }

    fn at(&mut self, core: CoreId) -> &mut Letters {
        let count = self.boxes.len();
        &mut self.boxes[usize::from(core.get()) % count]
    }

    /// A request for a group of another core.
    pub fn request(&mut self, core: CoreId, request: CoreRequest) {
        self.at(core).requests.push(request);
    }

    /// An outcome for another core's router.
    pub fn outcome(&mut self, core: CoreId, id: u64, outcome: Outcome) {
        self.at(core).outcomes.push((id, outcome));
    }

    /// Requests of another node.
    pub fn forwarded(
        &mut self,
        core: CoreId,
        from: Life,
        came: Mono,
        requests: Vec<ForwardRequest>,
    ) {
        let message = CoreMessage::Forwarded { from, came, requests };
        self.at(core).unposted.push_back(message);
    }

    /// Raft messages; lost if that core can not keep up.
    pub fn messages(&mut self, core: CoreId, from: CoreAddr, messages: Vec<GroupMessage>) {
        let letters = self.at(core);
        if letters.unposted.len() < UNPOSTED_MAX {
            letters.unposted.push_back(CoreMessage::Messages { from, messages });
        }
    }

    /// Anything else.
    pub fn letter(&mut self, core: CoreId, message: CoreMessage) {
        self.at(core).unposted.push_back(message);
    }

    /// Posts what the inboxes take; the rest waits for a later turn.
    pub fn post(&mut self) {
        for letters in &mut self.boxes {
            if !letters.requests.is_empty() {
                let requests = std::mem::take(&mut letters.requests);
                letters.unposted.push_back(CoreMessage::Requests(requests));
            }
            if !letters.outcomes.is_empty() {
                let outcomes = std::mem::take(&mut letters.outcomes);
                letters.unposted.push_back(CoreMessage::Outcomes(outcomes));
            }
            while let Some(message) = letters.unposted.pop_front() {
                if let Err(message) = letters.inbox.send(message) {
                    letters.unposted.push_front(message);
                    break;
                }
            }
        }
    }
}
