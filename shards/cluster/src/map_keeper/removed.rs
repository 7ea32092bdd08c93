//! Whom the operator gave up, as far as the keeper knows: the meta group is asked now and then while a node is silent,
//! since it may be one of those. Where all are heard nothing is asked.

use std::time::Duration;

use oarlock_placement::Duty;
use oarlock_store::Reply;
use oarlock_types::{Mono, NodeId};

use super::MapKeeper;
use crate::duties;

/// Between two questions who was given up.
const QUESTION_INTERVAL: Duration = Duration::from_secs(10);

/// What the keeper knows of it.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// As of the last question.
    pub(super) nodes: Vec<NodeId>,
    /// They are others since they were taken.
    is_new: bool,
    /// Whether a node is silent.
    is_awaited: bool,
    /// When the next question is due.
    due: Mono,
}

impl Removed {
    /// Whether it is to be asked now.
    pub(super) fn is_question_due(&mut self, now: Mono) -> bool {
        let is_due = self.is_awaited && now >= self.due;
        if is_due {
            self.due = now + QUESTION_INTERVAL;
        }
        is_due
    }
}

impl MapKeeper {
    /// Whether any other node is silent, or was when it was given up.
    pub fn hear_silence(&mut self, is_somebody_silent: bool) {
        self.removed.is_awaited = is_somebody_silent;
    }

    /// The nodes that were given up, if they are others than when they were last taken.
    pub fn take_removed(&mut self) -> Option<&[NodeId]> {
        std::mem::take(&mut self.removed.is_new).then_some(&self.removed.nodes)
    }

    /// Goes on from the answer to who was given up.
    pub(super) fn take_duties(&mut self, reply: &Reply) {
        let removed = duties::found(reply).into_iter();
        let removed = removed.filter(|(_, duty)| *duty == Duty::Removed).map(|(node, _)| node);
        let removed: Vec<NodeId> = removed.collect();
        self.removed.is_new |= removed != self.removed.nodes;
        self.removed.nodes = removed;
        self.look_for_level();
    }
}
