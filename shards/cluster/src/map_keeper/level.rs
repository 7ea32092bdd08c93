//! The cluster's feature level at the keeper: what it is, and when the meta group shall have a higher one.
//!
//! The node that leads the meta group raises it, by a change of the map like any other: only for the very
//! members of the version that it was made for, of whom each was heard of late and has said, in its newest
//! incarnation, what it understands. Who was given up by the operator is not asked.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_types::{FeatureLevel, FeatureLevels, Mono, NodeId};

use super::MapKeeper;
use crate::levels::{self, NotUnderstood};
use crate::map_store::Odd;

/// Between two looks whether all understand more.
const QUESTION_INTERVAL: Duration = Duration::from_secs(1);

/// What the keeper knows of levels.
#[derive(Debug)]
pub(super) struct Level {
    cluster: FeatureLevel,
    /// What this node understands.
    own: FeatureLevels,
    /// The cluster is at a level that this node does not understand.
    beyond: Option<NotUnderstood>,
    /// What the others that are heard say that they understand.
    heard: BTreeMap<NodeId, FeatureLevels>,
    questioned_at: Mono,
    /// All understand more, as of the last question.
    is_due: bool,
}

impl Level {
    pub(super) fn new(cluster: FeatureLevel, own: FeatureLevels) -> Self {
        Self {
            cluster,
            own,
            beyond: None,
            heard: BTreeMap::new(),
            questioned_at: Mono(0),
            is_due: false,
        }
    }

    pub(super) fn cluster(&self) -> FeatureLevel {
        self.cluster
    }

    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Whether it is to be asked now who was given up: before anything is raised.
    pub(super) fn is_question_due(&mut self, now: Mono) -> bool {
        let is_due = self.own.max > self.cluster
            && !self.is_due
            && now.since(self.questioned_at) >= QUESTION_INTERVAL;
        if is_due {
            self.questioned_at = now;
        }
        is_due
    }
}

impl MapKeeper {
    /// The cluster's level, as the meta group has it.
    #[must_use]
    pub fn level(&self) -> FeatureLevel {
        self.level.cluster
    }

    /// Why this node can be none of the cluster any more.
    #[must_use]
    pub fn beyond(&self) -> Option<NotUnderstood> {
        self.level.beyond
    }

    /// These of the other nodes are heard, and understand that; none, unless this node leads the meta group.
    /// Asked for while it understands more than the cluster is at.
    pub fn hear_levels(&mut self, heard: impl FnOnce() -> BTreeMap<NodeId, FeatureLevels>) {
        if self.level.own.max > self.level.cluster {
            self.level.heard = heard();
        }
    }

    /// It is known who was given up.
    pub(super) fn look_for_level(&mut self) {
        self.level.is_due = self.possible_level().is_some();
    }

    /// What made all understand more may be no longer so: a node has gone silent, or another one leads.
    pub(super) fn look_at_level(&mut self, leads: bool) {
        if self.level.is_due {
            self.level.is_due = leads && self.possible_level().is_some();
        }
    }

    /// The level that the next change raises the cluster to.
    pub(super) fn next_level(&self) -> Option<FeatureLevel> {
        self.possible_level().filter(|_| self.level.is_due)
    }

    fn possible_level(&self) -> Option<FeatureLevel> {
        let Level { cluster, own, heard, .. } = &self.level;
        let removed = &self.removed.nodes;
        let joined = self.members.iter().map(|member| member.entry.id);
        let others = self.formed_of.iter().copied().chain(joined);
        let others = others.filter(|node| *node != self.node && !removed.contains(node));
        levels::raised(*cluster, *own, others.map(|node| heard.get(&node).copied()))
    }

    /// Takes in what the meta group says of the level; false if this node does not understand it, and so must
    /// take in nothing else.
    pub(super) fn take_level(&mut self, said: Option<FeatureLevel>) -> bool {
        let Some(said) = said.filter(|said| *said > self.level.cluster) else { return true };
        if let Err(beyond) = levels::check(said, self.level.own) {
            self.level.beyond = Some(beyond);
            return false;
        }
        tracing::info!("the cluster is raised from feature level {} to {said}", self.level.cluster);
        (self.level.cluster, self.level.is_due) = (said, false);
        self.candidates.retain(|candidate| candidate.levels.has(said));
        true
    }

    /// The meta group says what this build does not know: nothing behind it is taken in.
    pub(super) fn not_understood(&mut self, now: Mono, odd: &Odd) {
        let Level { cluster, own, .. } = self.level;
        let Odd(what) = odd;
        self.odd(
            now,
            &format!(
                "the meta group's map says what this build does not understand ({what}; the cluster is at \
                 feature level {cluster}, this node understands {own}): start the build that the others run",
            ),
        );
    }
}
