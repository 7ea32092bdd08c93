//! What must hold of every group at every moment, over all its replicas: Raft's safety properties
//! and the engine's own. It sees each replica after each turn that touched it, before anything of
//! that turn leaves the node, and looks only at what is new.
//!
//! It must not know how a replica came to its state. Held here: election safety, log matching,
//! leader completeness, state-machine safety (equal indices have equal states and members), one vote a
//! term over restarts, what is said is on disk, what is committed is on the disks of a quorum and is
//! never lost, leaders are voters, configurations that follow each other share a voter in any two
//! quorums. Leases are the world's: they depend on clocks. `claims` holds what a replica says.

mod claims;
mod commands;
mod going_on;
mod losses;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use oarlock_raft::{
    AppendOutcome, AppendReply, Body, Configuration, Entry, Group, HardState, LogPosition, Message,
    Payload, SPLIT_BASE,
};
use oarlock_types::{GroupId, Index, NodeId, Term};

use going_on::GoneOn;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Its name.
    pub property: &'static str,
    /// Who, where, what.
    pub text: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.text)
    }
}

/// A replica as it was last seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) term: Term,
    pub(crate) role: &'static str,
    pub(crate) leader: Option<NodeId>,
    /// The terms of its log; the first is of the entry at `base`.
    terms: Vec<Term>,
    /// The lowest index whose term is known.
    base: Index,
    pub(crate) commit: Index,
    pub(crate) durable: Index,
    durable_state: HardState,
    /// The members that it knew.
    configuration: Configuration,
    /// Its log was put together anew: what is below the durable index must be looked at again.
    is_back: bool,
}

impl Seen {
    fn term_at(&self, index: Index) -> Option<Term> {
        let offset = usize::try_from(index.get().checked_sub(self.base.get())?).ok()?;
        self.terms.get(offset).copied()
    }

    /// Whether it leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.role == "leader"
    }
}

/// An entry as it was first seen anywhere.
#[derive(Debug)]
struct Fact {
    previous: Term,
    hash: Option<u32>,
    /// What it says, in runs that may lose it.
    payload: Option<Payload>,
}

/// An entry that is committed.
#[derive(Debug)]
struct Committed {
    term: Term,
    /// The term of the leader that committed it.
    in_term: Term,
}

/// What is known of one group.
#[derive(Debug, Default)]
struct Known {
    replicas: BTreeMap<NodeId, Seen>,
    /// Lost replicas, as they were seen last, and whether their nodes can name them.
    lost: BTreeMap<NodeId, (Seen, bool)>,
    leaders: BTreeMap<Term, NodeId>,
    entries: BTreeMap<(Index, Term), Fact>,
    configurations: BTreeMap<(Index, Term), Configuration>,
    committed: BTreeMap<Index, Committed>,
    states: BTreeMap<Index, u64>,
    /// What a split made it begin with: on nobody's disk at first, but as what makes it.
    base: Index,
    /// Where it goes on from after the loss of a quorum.
    gone_on: Option<GoneOn>,
    /// What entries say is kept.
    keeps_payloads: bool,
    /// The newest vote of each node.
    votes: BTreeMap<NodeId, (Term, NodeId)>,
}

/// Whether a replica led when it was looked at last, and in which term.
#[derive(Clone, Copy, Debug)]
struct Led {
    until_now: bool,
    in_term: Term,
}

/// The oracle.
#[derive(Debug, Default)]
pub struct Oracle {
    groups: BTreeMap<GroupId, Known>,
    /// Groups in which more than one replica thinks that it leads.
    pub(crate) contested: BTreeSet<GroupId>,
    /// Groups whose ranges others have taken: of what they had committed their replicas hold nothing any more.
    ended: BTreeSet<GroupId>,
    /// What entries say is kept: some may be lost.
    pub(crate) keeps_payloads: bool,
    /// Entries with commands, each with the time at which it was first seen to be committed.
    pub(crate) commands: Vec<(u64, Payload)>,
    /// Elections that were won.
    pub elections: u64,
    /// Entries that were committed.
    pub entries_committed: u64,
}

fn hash(entry: &Entry) -> u32 {
    match &entry.payload {
        Payload::Noop => 1,
        Payload::Commands(bytes)
        | Payload::Packed(bytes)
        | Payload::Split(bytes)
        | Payload::Merge(bytes) => crc32fast::hash(bytes),
        Payload::Config(configuration) => crc32fast::hash(format!("{configuration:?}").as_bytes()),
    }
}

fn breach<T>(property: &'static str, text: String) -> Result<T, Breach> {
    Err(Breach { property, text })
}

impl Oracle {
    /// A group with its first members.
    pub(crate) fn form(&mut self, group: GroupId, members: Configuration) {
        let known = self.groups.entry(group).or_default();
        known.configurations.insert((Index(0), Term(0)), members);
    }

    /// A group that a split has made, with its first members: it begins with what the cut range held.
    pub(crate) fn form_by_split(&mut self, group: GroupId, members: Configuration) {
        let known = self.groups.entry(group).or_default();
        let LogPosition { index, term } = SPLIT_BASE;
        known.configurations.insert((index, term), members);
        known.committed.insert(index, Committed { term, in_term: term });
        known.base = index;
    }

    /// A group's range was taken by another, for good.
    pub(crate) fn end(&mut self, group: GroupId) {
        self.ended.insert(group);
        self.contested.remove(&group);
    }

    /// Looks at a replica after a turn that touched it.
    pub(crate) fn look(
        &mut self,
        now: u64,
        (node, id): (NodeId, GroupId),
        group: &Group,
        applied: (Index, u64),
    ) -> Result<(), Breach> {
        group.check_invariants();
        if self.ended.contains(&id) {
            return Ok(());
        }
        let known = self.groups.entry(id).or_default();
        known.keeps_payloads = self.keeps_payloads;
        let at = format_args!("{node} {id}").to_string();
        let (elections, committed) = (known.leaders.len(), known.committed.len());
        let from = known.committed.keys().next_back().copied().unwrap_or_default().next();
        known.look(node, &at, group)?;
        known.look_at_state(&at, applied)?;
        self.elections += (known.leaders.len() - elections) as u64;
        self.entries_committed += (known.committed.len() - committed) as u64;
        self.commands.extend(known.commands_from(from, group).map(|payload| (now, payload)));
        let leaders = known.replicas.values().filter(|seen| seen.leads()).count();
        if leaders > 1 {
            self.contested.insert(id);
        } else {
            self.contested.remove(&id);
        }
        Ok(())
    }

    /// Hears what a replica says: it must be on its disk, and votes are counted over restarts.
    pub(crate) fn hear(
        &mut self,
        from: NodeId,
        to: NodeId,
        id: GroupId,
        message: &Message,
    ) -> Result<(), Breach> {
        if self.ended.contains(&id) {
            return Ok(());
        }
        let known = self.groups.entry(id).or_default();
        let candidate = match &message.body {
            Body::VoteReply(reply) if reply.granted => to,
            Body::Vote(_) => from,
            Body::AppendReply(AppendReply { outcome: AppendOutcome::Matched(index), .. }) => {
                return known.acknowledged(from, message.term, *index);
            }
            Body::PreVote(_)
            | Body::PreVoteReply(_)
            | Body::VoteReply(_)
            | Body::Append(_)
            | Body::AppendReply(_)
            | Body::Snapshot(_)
            | Body::SnapshotReply { .. }
            | Body::TimeoutNow(_)
            | Body::Release(_)
            | Body::ReleaseReply(_)
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::Rebuild(_)
            | Body::Absent
            | Body::Create
            | Body::Residence { .. } => return Ok(()),
        };
        let vote = known.votes.entry(from).or_insert((message.term, candidate));
        if vote.0 == message.term && vote.1 != candidate {
            let text = format!("{from} {id} votes for {candidate} and {} in {}", vote.1, vote.0);
            return breach("one vote a term", text);
        }
        *vote = (*vote).max((message.term, candidate));
        known.may_vote(from, message.term)?;
        known.voted(from, message.term, candidate)
    }

    /// A node's process is gone: what its replicas had on disk stays known.
    pub(crate) fn process_ended(&mut self, node: NodeId) {
        for (id, known) in &mut self.groups {
            if let Some(seen) = known.replicas.get_mut(&node) {
                seen.role = "down";
                seen.is_back = true;
                seen.commit = Index(0);
            }
            if known.replicas.values().filter(|seen| seen.leads()).count() < 2 {
                self.contested.remove(id);
            }
        }
    }

    pub(crate) fn seen(&self, node: NodeId, id: GroupId) -> Option<&Seen> {
        self.groups.get(&id)?.replicas.get(&node)
    }

    /// The highest term in which a group has had a leader.
    pub(crate) fn newest_term(&self, id: GroupId) -> Term {
        let known = self.groups.get(&id);
        known.and_then(|k| k.leaders.keys().next_back().copied()).unwrap_or_default()
    }

    /// The end of what is committed in a group.
    #[must_use]
    pub fn committed(&self, id: GroupId) -> Index {
        let known = self.groups.get(&id);
        known.and_then(|k| k.committed.keys().next_back().copied()).unwrap_or_default()
    }
}

impl Known {
    fn look(&mut self, node: NodeId, at: &str, group: &Group) -> Result<(), Breach> {
        let mut seen = self.replicas.remove(&node).unwrap_or_else(|| Seen {
            term: Term(0),
            role: "new",
            leader: None,
            terms: vec![Term(0)],
            base: Index(0),
            commit: Index(0),
            durable: Index(0),
            durable_state: HardState::default(),
            configuration: group.configuration().clone(),
            is_back: false,
        });
        let was_back = seen.is_back;
        if seen.is_back {
            self.came_back(at, &seen, group)?;
            // A term that was not durable yet is forgotten; votes are counted by what was sent.
            seen.term = group.term().min(seen.term);
            seen.is_back = false;
        }
        if group.term() < seen.term {
            return breach(
                "terms never fall",
                format!("{at} {} after {}", group.term(), seen.term),
            );
        }
        let was_leader = seen.leads() && seen.term == group.term();
        let led = Led { until_now: seen.leads(), in_term: seen.term };
        seen.term = group.term();
        seen.role = group.role().name();
        seen.leader = group.leader();
        if !was_back {
            self.look_at_cut(at, &seen, group)?;
        }
        self.look_at_log(at, &mut seen, group)?;
        seen.durable = group.durable_index();
        seen.durable_state = group.durable_hard_state();
        if group.is_leader() && !was_leader {
            self.elected(node, at, group)?;
        }
        let from = seen.commit;
        seen.commit = group.commit();
        let before = std::mem::replace(&mut seen.configuration, group.configuration().clone());
        self.replicas.insert(node, seen);
        self.look_at_commit(at, group, from, (&before, led))?;
        self.look_at_members(at, group)
    }

    /// After a restart: all that was on the disk and committed must be there.
    fn came_back(&self, at: &str, seen: &Seen, group: &Group) -> Result<(), Breach> {
        let committed = self.committed.range(..=seen.durable).next_back();
        let committed = committed.filter(|(index, _)| **index > self.base);
        if let Some((index, known)) = committed
            && seen.term_at(*index) == Some(known.term)
            && group.commit() < *index
            && group.term_at(*index) != Some(known.term)
        {
            let text = format!(
                "{at} came back with {} where {index} of term {} was durable and committed",
                group.last(),
                known.term
            );
            return breach("what is committed is never lost", text);
        }
        Ok(())
    }

    fn elected(&mut self, node: NodeId, at: &str, group: &Group) -> Result<(), Breach> {
        let term = group.term();
        let mut known = group.open_configurations();
        if !known.any(|known| known.is_voter(node)) {
            let text = format!("{at} leads in term {term} of {:?}", group.configuration());
            return breach("leaders are voters", text);
        }
        if let Some(other) = self.leaders.insert(term, node)
            && other != node
        {
            return breach("election safety", format!("{at} and {other} both lead in term {term}"));
        }
        let newest = self.committed.iter().rev().find(|(_, entry)| entry.in_term < term);
        if let Some((index, entry)) = newest
            && group.commit() < *index
            && group.term_at(*index) != Some(entry.term)
        {
            let text = format!(
                "{at} leads in term {term} with a log up to {}, without {index} of term {}, which \
                 was committed in term {}",
                group.last(),
                entry.term,
                entry.in_term
            );
            return breach("leader completeness", text);
        }
        Ok(())
    }

    /// Goes back from the end of the log to what was seen before, and notes what is new.
    fn look_at_log(&mut self, at: &str, seen: &mut Seen, group: &Group) -> Result<(), Breach> {
        let last = group.last().index;
        let mut same = last;
        while same >= seen.base {
            match group.term_at(same) {
                Some(term) if seen.term_at(same) == Some(term) => break,
                Some(_) if same > Index(0) => same = same.prev(),
                Some(_) | None => {
                    // A checkpoint took the place of the log: what it ends with is all that is known.
                    seen.terms.clear();
                    break;
                }
            }
        }
        let is_known = same >= seen.base && !seen.terms.is_empty();
        if !is_known {
            let mut first = last;
            while first > Index(0) && group.term_at(first.prev()).is_some() {
                first = first.prev();
            }
            seen.base = first;
            seen.terms = vec![group.term_at(first).unwrap_or_default()];
            same = first;
        }
        let keep = usize::try_from(same.get() - seen.base.get()).expect("invariant: it fits") + 1;
        seen.terms.truncate(keep);
        let mut previous = seen.terms[keep - 1];
        let mut index = same.next();
        while index <= last {
            let Some(term) = group.term_at(index) else {
                return breach(
                    "logs have no gap",
                    format!("{at} does not know the term of {index}"),
                );
            };
            self.entry(at, index, term, previous, group.entry(index))?;
            seen.terms.push(term);
            previous = term;
            index = index.next();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: &str,
        index: Index,
        term: Term,
        previous: Term,
        entry: Option<&Entry>,
    ) -> Result<(), Breach> {
        let hash = entry.map(hash);
        let fact =
            self.entries.entry((index, term)).or_insert(Fact { previous, hash, payload: None });
        if fact.previous != previous {
            let text = format!(
                "{at} has {index} of term {term} behind an entry of term {previous}, others behind \
                 one of term {}",
                fact.previous
            );
            return breach("log matching", text);
        }
        if let (Some(one), Some(other)) = (fact.hash, hash)
            && one != other
        {
            let text = format!("{at} has other bytes at {index} of term {term} than others");
            return breach("log matching", text);
        }
        fact.hash = fact.hash.or(hash);
        if self.keeps_payloads && fact.payload.is_none() {
            fact.payload = entry.map(|entry| entry.payload.clone());
        }
        if let Some(Entry { payload: Payload::Config(new), .. }) = entry {
            self.configuration(at, index, term, new)?;
        }
        Ok(())
    }

    /// A configuration must follow from the one before it.
    fn configuration(
        &mut self,
        at: &str,
        index: Index,
        term: Term,
        new: &Configuration,
    ) -> Result<(), Breach> {
        if self.configurations.contains_key(&(index, term)) {
            return Ok(());
        }
        // The one before it on the same history, found by the terms before each entry.
        let mut place = (index, term);
        let old = loop {
            let Some(fact) = self.entries.get(&place) else { break None };
            place = (place.0.prev(), fact.previous);
            if let Some(found) = self.configurations.get(&place) {
                break Some(found.clone());
            }
        };
        if let Some(old) = old
            && !follows(&old, new)
        {
            return breach(
                "configurations overlap",
                format!("{at} {index}: {new:?} after {old:?}"),
            );
        }
        self.configurations.insert((index, term), new.clone());
        Ok(())
    }

    fn look_at_commit(
        &mut self,
        at: &str,
        group: &Group,
        from: Index,
        before: (&Configuration, Led),
    ) -> Result<(), Breach> {
        let mut index = from.next();
        while index <= group.commit() {
            let term = group.term_at(index);
            match (self.committed.get(&index), term) {
                (Some(known), Some(term)) if known.term != term => {
                    let text = format!(
                        "{at} committed {index} of term {term}, which was committed with term {}",
                        known.term
                    );
                    return breach("state-machine safety", text);
                }
                (None, Some(term)) => {
                    self.committed_anew(at, group, (index, term), before)?;
                }
                // The part of a checkpoint whose entries nobody has here; its end is looked at.
                (Some(_), _) | (None, None) => {}
            }
            index = index.next();
        }
        if self.committed.keys().next_back().is_some_and(|newest| *newest < group.commit()) {
            let text = format!("{at} committed {}, beyond all that is known", group.commit());
            return breach("state-machine safety", text);
        }
        Ok(())
    }

    /// Commits come from leaders; one may have stepped down since, and its members may have
    /// changed, in the turn that is looked at.
    fn committed_anew(
        &mut self,
        at: &str,
        group: &Group,
        (index, term): (Index, Term),
        (before, led): (&Configuration, Led),
    ) -> Result<(), Breach> {
        let in_term = if group.is_leader() { group.term() } else { led.in_term.max(term) };
        self.committed.insert(index, Committed { term, in_term });
        let is_single = before.voters.len() == 1;
        if !group.is_leader() && !led.until_now && !is_single {
            return breach("leaders commit", format!("{at} committed {index} before its leader"));
        }
        let has = |member: NodeId| {
            let had = self.lost.get(&member).is_some_and(|(seen, _)| seen.durable >= index);
            let has = self.replicas.get(&member).is_some_and(|seen| {
                seen.durable >= index && seen.term_at(index).is_none_or(|found| found == term)
            });
            had || has
        };
        let of_this_turn = || self.configurations.range((index, Term(0))..).map(|(_, c)| c);
        // What a joint configuration leads to decides nothing before that one is committed.
        let is_open = |c: &Configuration| {
            of_this_turn()
                .any(|joint| joint.is_joint() && !c.is_joint() && joint.voters == c.voters)
        };
        let later = of_this_turn().chain([group.configuration()]).filter(|c| !is_open(c));
        let mut all = later.chain([before]);
        if !all.any(|configuration| is_quorum(configuration, has)) {
            let disks: Vec<String> = self
                .replicas
                .iter()
                .map(|(member, seen)| format!("{member} up to {}", seen.durable))
                .collect();
            let text = format!(
                "{at} committed {index} in term {}, which a quorum of {:?} does not have on disk: {}",
                group.term(),
                group.configuration(),
                disks.join(", ")
            );
            return breach("what is committed is on the disks of a quorum", text);
        }
        Ok(())
    }

    fn look_at_state(&mut self, at: &str, (index, state): (Index, u64)) -> Result<(), Breach> {
        let known = *self.states.entry(index).or_insert(state);
        if known != state {
            let text = format!("{at} has state {state:x} at {index}, others {known:x}");
            return breach("equal indices have equal states", text);
        }
        if self.states.len() > 4096 {
            self.states.pop_first();
        }
        Ok(())
    }
}

/// Whether those for whom `has` holds are a majority of the voters and, while the configuration is
/// joint, of the old ones. The engine has its own; the oracle must not err as it does.
fn is_quorum(configuration: &Configuration, has: impl Fn(NodeId) -> bool) -> bool {
    let majority = |set: &[NodeId]| set.iter().filter(|node| has(**node)).count() * 2 > set.len();
    let Configuration { voters, outgoing, .. } = configuration;
    majority(voters) && (outgoing.is_empty() || majority(outgoing))
}

/// Whether any quorum of `old` shares a voter with any quorum of `new`, by the rules of joint
/// consensus.
fn follows(old: &Configuration, new: &Configuration) -> bool {
    match (old.is_joint(), new.is_joint()) {
        (false, true) => new.outgoing == old.voters,
        (true, false) => new.voters == old.voters,
        (false, false) => new.voters == old.voters,
        (true, true) => false,
    }
}
