//! What holds after every step of one replica. One per group; called in debug builds and by the
//! simulator.
//!
//! It changes nothing and needs nothing but the replica's own state.

use crate::group::{Group, Role};

impl Group {
    /// Panics where the replica contradicts itself: a bug, never an outcome.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        let last = self.log.last();
        assert!(self.commit <= last.index, "what is committed is in the log");
        assert!(self.checkpoint.index <= self.commit, "checkpoints hold applied state");
        assert!(self.log.cached_first() <= self.commit.next(), "unapplied entries are cached");
        assert!(last.term <= self.hard.term, "no entry is of a term to come");
        assert!(self.durable_hard.term <= self.hard.term, "no durable term is of one to come");
        assert!(!self.configurations.is_empty(), "a configuration is in force");
        let ordered = self.configurations.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(ordered, "configurations stand in the order of their entries");
        assert!(self.configurations[0].0 <= self.commit, "the applied configuration is known");
        let newest = self.configurations.last().map_or(last.index, |(at, _)| *at);
        assert!(newest <= last.index, "a cut log takes its configurations back");
        assert!(self.binding.is_none_or(|b| b.term <= self.hard.term), "bindings are of our past");
        match &self.role {
            Role::Follower(_) => assert_ne!(self.leader, Some(self.node), "it leads not itself"),
            Role::PreCandidate(_) => assert_eq!(self.leader, None, "it has given its leader up"),
            Role::Candidate(_) => {
                assert_eq!(self.leader, None, "it has given its leader up");
                assert_eq!(self.hard.vote, Some(self.node), "it votes for itself");
                assert_eq!(self.binding, None, "whoever votes is free");
            }
            Role::Leader(leader) => {
                assert_eq!(self.leader, Some(self.node), "it leads");
                assert_eq!(self.hard, self.durable_hard, "its own vote is durable");
                assert_eq!(self.binding, None, "whoever voted was free");
                for p in &leader.progress {
                    p.check_invariants();
                    assert!(p.matched <= last.index, "no follower is ahead of its leader");
                    assert!(p.next <= last.index.next(), "nothing is sent that is not there");
                }
            }
        }
    }
}
