//! Groups that go on from one survivor after the loss of a quorum for good: what the plan says of them is held
//! against all that was committed, and from then on no other survivor votes before it has come to the plan's entry.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_raft::{Configuration, LogPosition, Payload};
use oarlock_survivors::plan::GroupPlan;
use oarlock_types::{GroupId, Index, NodeId, Term};

use super::{Breach, Known, Oracle, Seen, breach};

/// From where a group goes on.
#[derive(Debug)]
pub(super) struct GoneOn {
    at: LogPosition,
    survivors: BTreeSet<NodeId>,
}

impl Seen {
    fn last(&self) -> LogPosition {
        let index = Index(self.base.get() + self.terms.len() as u64 - 1);
        LogPosition { term: self.terms.last().copied().unwrap_or_default(), index }
    }
}

impl Oracle {
    /// The members of a group by its newest committed entry that says so.
    pub(crate) fn members(&self, id: GroupId) -> Configuration {
        let Some(known) = self.groups.get(&id) else { return Configuration::default() };
        let newest = known.configurations.iter().rev().find(|((index, term), _)| {
            *index == Index(0) || known.committed.get(index).is_some_and(|e| e.term == *term)
        });
        newest.map(|(_, members)| members.clone()).unwrap_or_default()
    }

    /// A group goes on from a survivor's log: gives the committed entries that are lost.
    pub(crate) fn go_on(
        &mut self,
        plan: &GroupPlan,
        survivors: &BTreeSet<NodeId>,
    ) -> Result<Vec<Payload>, Breach> {
        if self.ended.contains(&plan.group) {
            return Ok(Vec::new());
        }
        self.groups.entry(plan.group).or_default().go_on(plan, survivors)
    }
}

impl Known {
    fn go_on(
        &mut self,
        plan: &GroupPlan,
        survivors: &BTreeSet<NodeId>,
    ) -> Result<Vec<Payload>, Breach> {
        let (group, loss, at) = (plan.group, plan.loss, plan.recovered_at);
        let newest = self.committed.keys().next_back().copied().unwrap_or_default();
        if loss.committed > newest {
            let text = format!("{group} has committed {newest}, and the plan says {loss:?}");
            return breach("what a plan knows to be committed is", text);
        }
        let terms = self.leaders.keys().next_back().copied().unwrap_or_default();
        if at.index <= loss.kept.index || survivors.iter().any(|node| self.knows_as_new(*node, at))
        {
            let text = format!("{group} goes on at {at}, leaders were in {terms}, {loss:?}");
            return breach("a group goes on behind all that survivors have", text);
        }
        let kept = self.log_up_to(loss.kept);
        let lowest = kept.keys().next().copied().unwrap_or_default();
        let is_lost = |index: Index, term: Term| {
            index > loss.kept.index || (index >= lowest && kept.get(&index) != Some(&term))
        };
        let base = self.base;
        let lost: Vec<(Index, Term, Term)> = self
            .committed
            .range(base.next()..)
            .filter(|(index, entry)| is_lost(**index, entry.term))
            .map(|(index, entry)| (*index, entry.term, entry.in_term))
            .collect();
        for (index, term, in_term) in lost.iter().copied() {
            // Who led in the term of the last entry that is kept had all that was committed before.
            let is_before =
                in_term < loss.kept.term || (in_term == loss.kept.term && index <= loss.kept.index);
            if is_before || !loss.is_possible {
                let text = format!(
                    "{group} lacks {index} of term {term}, committed in {in_term}: {loss:?}"
                );
                return breach("a plan loses what it says and nothing else", text);
            }
        }
        if let Some((first, ..)) = lost.first() {
            self.states.split_off(first);
        }
        let mut payloads = Vec::new();
        for (index, term, _) in lost {
            self.committed.remove(&index);
            let fact = self.entries.get_mut(&(index, term));
            let payload = fact.and_then(|fact| fact.payload.take());
            payloads.push(payload.expect("invariant: who committed it had it at hand"));
        }
        self.configurations.insert((at.index, at.term), Configuration::simple([plan.chosen]));
        self.gone_on = Some(GoneOn { at, survivors: survivors.clone() });
        Ok(payloads)
    }

    fn knows_as_new(&self, node: NodeId, at: LogPosition) -> bool {
        self.replicas.get(&node).is_some_and(|seen| seen.term >= at.term || seen.last() >= at)
    }

    /// The terms of the one log that ends there, as far down as anybody has told.
    fn log_up_to(&self, last: LogPosition) -> BTreeMap<Index, Term> {
        let mut log = BTreeMap::from([(last.index, last.term)]);
        let mut place = (last.index, last.term);
        while let Some(fact) = self.entries.get(&place).filter(|_| place.0 > Index(0)) {
            place = (place.0.prev(), fact.previous);
            log.insert(place.0, place.1);
        }
        log
    }

    /// No survivor votes, or stands for election, before it has come to the entry from which its group goes on.
    pub(super) fn may_vote(&self, node: NodeId, term: Term) -> Result<(), Breach> {
        let Some(GoneOn { at, survivors }) = &self.gone_on else { return Ok(()) };
        let last = self.replicas.get(&node).map(Seen::last).unwrap_or_default();
        if survivors.contains(&node) && (last < *at || term < at.term) {
            let text = format!("{node} votes in {term} with a log up to {last}, {at} is the entry");
            return breach("survivors vote once they have come to the entry", text);
        }
        Ok(())
    }
}
