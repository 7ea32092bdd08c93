//! Bindings, and the release from them. One per group; nothing here outlives the process.
//!
//! A replica that acknowledged a leader under its node's support is bound: until that very support
//! lapses or that leader releases it, it neither stands for election nor votes for another. A
//! former leader therefore releases its followers, again and again until each has acknowledged;
//! the release names its term, so that a late one frees no later binding.

use oarlock_types::{CoreAddr, CoreId, Guard, Incarnation, Mono, NodeId, SupportEpoch, Term};

use crate::group::Group;
use crate::{Body, Context, Effects, Message, Release};

/// The promise of one replica to one leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// To whom.
    pub leader: NodeId,
    /// On which core.
    pub core: CoreId,
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// Under which support.
    pub epoch: SupportEpoch,
    /// In which term.
    pub term: Term,
}

/// A former leader's releases that are not acknowledged yet.
#[derive(Debug)]
pub(crate) struct Releases {
    term: Term,
    waiting: Vec<NodeId>,
    repeat_at: Mono,
}

impl Releases {
    /// When to repeat; never while no link to those who have not acknowledged is up.
    pub(crate) fn deadline(&self, down: &[NodeId]) -> Mono {
        if self.waiting.iter().all(|n| down.contains(n)) { Mono::NEVER } else { self.repeat_at }
    }
}

impl Group {
    /// The binding that was made last. It holds only while the support that it names does.
    #[must_use]
    pub fn binding(&self) -> Option<Binding> {
        self.binding
    }

    /// Whether this replica is bound to a leader now.
    #[must_use]
    pub fn is_bound(&self, ctx: &Context<'_>) -> bool {
        self.binding.is_some_and(|binding| {
            ctx.support
                .granted(CoreAddr::new(binding.leader, binding.core))
                .is_some_and(|g| g.epoch == binding.epoch && g.incarnation == binding.incarnation)
        })
    }

    pub(crate) fn is_bound_to_leader(&self, ctx: &Context<'_>) -> bool {
        let to_leader = |b: &Binding| Some(b.leader) == self.leader && b.term == self.hard.term;
        self.binding.as_ref().is_some_and(to_leader) && self.is_bound(ctx)
    }

    /// Whether the leader of this term lives on, as far as pulses tell: the support may have lapsed
    /// and been granted again, but the process is the one that bound this replica.
    pub(crate) fn leader_supported(&self, ctx: &Context<'_>) -> bool {
        self.binding.is_some_and(|b| {
            Some(b.leader) == self.leader
                && b.term == self.hard.term
                && ctx
                    .support
                    .granted(CoreAddr::new(b.leader, b.core))
                    .is_some_and(|g| g.incarnation == b.incarnation)
        })
    }

    /// An append or a checkpoint of the leader of this term was accepted: binds to it, if this
    /// node supports its core and it has not released this term. That it leads proves that it was
    /// elected, and so that no earlier leader counts on this replica.
    pub(crate) fn bind(&mut self, ctx: &Context<'_>, leader: NodeId, core: CoreId) {
        if self.hard.term <= self.released {
            return;
        }
        if let Some(grant) = ctx.support.granted(CoreAddr::new(leader, core)) {
            self.binding = Some(Binding {
                leader,
                core,
                incarnation: grant.incarnation,
                epoch: grant.epoch,
                term: self.hard.term,
            });
        }
    }

    /// What an answer to the leader says of the binding.
    pub(crate) fn bound_for_reply(&self, ctx: &Context<'_>) -> Option<(SupportEpoch, Incarnation)> {
        let binding = self.binding.filter(|_| self.is_bound_to_leader(ctx))?;
        Some((binding.epoch, binding.incarnation))
    }

    /// A request for a vote frees from the binding to its sender, who leads no longer, and from
    /// what the release that it carries names. A request for a term that the binding's leader had
    /// reached when it bound is an old one and frees nothing.
    pub(crate) fn free_for(
        &mut self,
        from: NodeId,
        term: Term,
        release: Option<Release>,
        out: &mut Effects,
    ) {
        if let Some(release) = release {
            self.free(release, out);
        }
        if self.binding.is_some_and(|b| b.leader == from && b.term < term) {
            self.binding = None;
        }
    }

    pub(crate) fn free(&mut self, release: Release, out: &mut Effects) {
        self.released = self.released.max(release.term);
        let is_named = |b: &Binding| b.term <= release.term || !Guard::ReleaseNamesTerm.is_on();
        if self.binding.is_some_and(|b| b.leader == release.leader && is_named(&b)) {
            self.binding = None;
        }
        let led = self.leader == Some(release.leader) && self.hard.term <= release.term;
        if led && !self.is_leader() {
            self.leader = None;
            self.refuse_asked(out);
            out.status_changed = true;
        }
    }

    pub(crate) fn on_release(&mut self, from: NodeId, release: Release, out: &mut Effects) {
        self.free(release, out);
        let message = Message { term: self.hard.term, body: Body::ReleaseReply(release) };
        out.send_now.push((from, message));
    }

    pub(crate) fn on_release_reply(&mut self, from: NodeId, release: Release) {
        let Some(releases) = &mut self.releases else { return };
        if release.leader == self.node && release.term >= releases.term {
            releases.waiting.retain(|n| *n != from);
            if releases.waiting.is_empty() {
                self.releases = None;
            }
        }
    }

    /// Releases everybody that the leader of `term`, which this replica was, may have bound.
    pub(crate) fn release_all(
        &mut self,
        ctx: &Context<'_>,
        term: Term,
        nodes: Vec<NodeId>,
        out: &mut Effects,
    ) {
        let mut waiting = nodes;
        if let Some(earlier) = self.releases.take() {
            waiting.extend(earlier.waiting);
        }
        waiting.sort_unstable();
        waiting.dedup();
        if waiting.is_empty() || !Guard::FormerLeaderReleases.is_on() {
            return;
        }
        let repeat_at = ctx.now + self.limits.retry_interval;
        self.releases = Some(Box::new(Releases { term, waiting: waiting.clone(), repeat_at }));
        for node in waiting {
            self.send_release(node, out);
        }
    }

    /// Sends the release to `node` if it has not acknowledged it and can be reached.
    pub(crate) fn send_release(&self, node: NodeId, out: &mut Effects) {
        let Some(releases) = &self.releases else { return };
        if releases.waiting.contains(&node) && !self.down.contains(&node) {
            let release = Release { leader: self.node, term: releases.term };
            let body = Body::Release(release);
            out.send_now.push((node, Message { term: self.hard.term, body }));
        }
    }

    pub(crate) fn release_timer(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let Some(releases) = &mut self.releases else { return };
        if releases.repeat_at > ctx.now {
            return;
        }
        releases.repeat_at = ctx.now + self.limits.retry_interval;
        for node in releases.waiting.clone() {
            self.send_release(node, out);
        }
    }
}
