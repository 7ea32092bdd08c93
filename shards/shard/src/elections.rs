//! Which groups of a core may stand for election: thousands may lose their leader at one moment, and would drown
//! what they are to be elected by, if all stood at once.
//!
//! So many stand at a time; the others wait in the order in which they were due, those for which a client waits before
//! all others. Whoever has won or heard of a leader makes room, and so does one whose attempt has failed while others
//! wait: it stands again behind them.

use std::collections::VecDeque;

use oarlock_raft::Role;
use oarlock_types::{GroupId, Mono};

use crate::shard::Shard;

/// Groups of a core that stand at a time.
pub(crate) const ELECTIONS_MAX: usize = 512;

/// Whether a replica stands for election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Election {
    /// It does not.
    #[default]
    None,
    /// It is its turn.
    Standing,
    /// It is due, and waits for its turn.
    Waiting,
    /// It waits at the head: somebody has asked for it.
    Preferred,
}

impl Election {
    fn waits(self) -> bool {
        matches!(self, Self::Waiting | Self::Preferred)
    }
}

/// Those of a core.
#[derive(Debug, Default)]
pub(crate) struct Elections {
    standing: usize,
    waiting: VecDeque<GroupId>,
}

impl Elections {
    /// A replica's step has ended.
    pub(crate) fn stepped(&mut self, election: &mut Election, role: &Role) {
        let stands = matches!(role, Role::PreCandidate(_) | Role::Candidate(_));
        if *election == Election::Standing && !stands {
            self.left(election);
        }
    }

    /// A replica stands no longer, or is no longer there.
    pub(crate) fn left(&mut self, election: &mut Election) {
        if *election == Election::Standing {
            self.standing -= 1;
        }
        *election = Election::None;
    }
}

impl Shard {
    /// A group's timer is due: unless too many others stand for election, it runs.
    pub(crate) fn run_timer(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        if replica.raft.is_leader() {
            self.with_group(group, |raft, ctx, out| raft.timer(ctx, out));
            return;
        }
        // One that stands still is woken when it goes on.
        if replica.election.waits() || self.hand_overs.holds(group) {
            return;
        }
        // Its last attempt has failed.
        self.elections.left(&mut replica.election);
        if self.elections.standing < ELECTIONS_MAX && self.elections.waiting.is_empty() {
            self.stand(group);
        } else {
            replica.election = Election::Waiting;
            self.elections.waiting.push_back(group);
        }
    }

    /// A client waits for a group that has no leader: it stands before those that nobody asks for.
    pub(crate) fn elect_soon(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        match replica.election {
            Election::None => self.with_group(group, |raft, ctx, _| raft.hurry_election(ctx)),
            Election::Waiting => {
                replica.election = Election::Preferred;
                self.elections.waiting.push_front(group);
                None
            }
            Election::Standing | Election::Preferred => None,
        };
    }

    fn stand(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        replica.election = Election::Standing;
        self.elections.standing += 1;
        self.with_group(group, |raft, ctx, out| raft.timer(ctx, out));
    }

    /// Lets those stand whose turn it is.
    pub(crate) fn go_on_with_elections(&mut self) {
        while self.elections.standing < ELECTIONS_MAX
            && let Some(group) = self.elections.waiting.pop_front()
        {
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            if !replica.election.waits() {
                continue; // it was made anew since, or has come to the head of those that wait
            }
            replica.election = Election::None;
            let deadline = replica.raft.deadline();
            if deadline > self.now {
                // It has heard of a leader.
                replica.armed = Mono::NEVER;
                if deadline < Mono::NEVER {
                    replica.armed = deadline;
                    self.timers.arm(deadline, group);
                }
            } else if replica.raft.is_leader() {
                self.run_timer(group);
            } else {
                self.stand(group);
            }
        }
    }
}
