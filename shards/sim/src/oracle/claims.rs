//! What a replica claims is so: what it says is on its disk, what it cuts from its log was not
//! committed, and the members that it knows are those of the others. Part of the oracle.

use oarlock_raft::{Configuration, Group};
use oarlock_types::{Index, NodeId, Term};

use super::{Breach, Known, Seen, breach};

impl Known {
    /// A vote that leaves a replica is on its disk. What it said in an earlier term may be replaced.
    pub(super) fn voted(&self, from: NodeId, term: Term, candidate: NodeId) -> Result<(), Breach> {
        let Some(seen) = self.replicas.get(&from) else { return Ok(()) };
        let kept = seen.durable_state;
        if kept.term < term || (kept.term == term && kept.vote != Some(candidate)) {
            let text = format!("{from} votes for {candidate} in {term}, and has {kept:?} on disk");
            return breach("what is said is on disk", text);
        }
        Ok(())
    }

    /// So is what it acknowledges.
    pub(super) fn acknowledged(
        &self,
        from: NodeId,
        term: Term,
        index: Index,
    ) -> Result<(), Breach> {
        let Some(seen) = self.replicas.get(&from) else { return Ok(()) };
        if seen.term == term && (seen.durable < index || seen.durable_state.term < term) {
            let (durable, state) = (seen.durable, seen.durable_state);
            let text =
                format!("{from} acknowledges {index} in {term}, has {durable} and {state:?}");
            return breach("what is said is on disk", text);
        }
        Ok(())
    }

    /// What a running replica cuts from its log was not committed, nor by a leader of its term or an older one: of what a
    /// later leader has committed without it, it may not have heard when an older one's entries come (seed 1407).
    pub(super) fn look_at_cut(&self, at: &str, seen: &Seen, group: &Group) -> Result<(), Breach> {
        let end = Index(seen.base.get() + seen.terms.len() as u64 - 1);
        if end <= group.commit() || group.term_at(end) == seen.term_at(end) {
            return Ok(());
        }
        let of_this_log = self.committed.range(seen.base..);
        let by_now = of_this_log.rev().filter(|(_, entry)| entry.in_term <= group.term());
        let cut = by_now.map(|(index, entry)| (*index, entry.term)).find(|(index, term)| {
            let is_there = *index <= group.commit() || group.term_at(*index) == Some(*term);
            seen.term_at(*index) == Some(*term) && !is_there
        });
        if let Some((index, term)) = cut {
            let text = format!("{at} cuts {index} of term {term}, which is committed");
            return breach("what is committed is never lost", text);
        }
        Ok(())
    }

    /// A replica knows the members that were in force at the end of what it has committed.
    pub(super) fn look_at_members(&self, at: &str, group: &Group) -> Result<(), Breach> {
        let meta = group.applied_meta();
        let upto = meta.position.index;
        let committed = self.configurations.iter().rev().find(|((index, term), _)| {
            *index <= upto
                && (*index == Index(0)
                    || self.committed.get(index).is_some_and(|entry| entry.term == *term))
        });
        let Some(((index, _), members)) = committed else { return Ok(()) };
        // A replica that was made later knows nobody before the log tells it of a change, and one whose
        // log was written anew begins with the members of that time.
        let is_unheard = *index == Index(0) && meta.configuration == Configuration::default();
        let is_restated =
            meta.configuration_index == Index(0) && group.checkpoint().index == Index(0);
        let is_new = is_unheard || is_restated;
        if !is_new && (meta.configuration_index, &meta.configuration) != (*index, members) {
            let text = format!(
                "{at} has {:?} of {} at {upto}, which are {members:?} of {index}",
                meta.configuration, meta.configuration_index
            );
            return breach("equal indices have equal members", text);
        }
        Ok(())
    }
}
