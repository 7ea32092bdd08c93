//! The way of what leaves a core in a cluster that keeps its own map: to other cores of its node, over its links
//! to other nodes, to clients and operators, to the disk.

use oarlock_cluster::NodeEntry;
use oarlock_cluster::members;
use oarlock_codec::{ForwardReply, ForwardRequest, Refusal, frame};
use oarlock_types::{CoreAddr, CoreId, NodeId};

use crate::driving::Driving;
use crate::letters::{Leaving, Letter};
use crate::node::Job;
use crate::world::{Event, World};

impl World {
    pub(crate) fn driving(&mut self, at: CoreAddr) -> Option<&mut Driving> {
        let n = self.place(at.node);
        let process = self.nodes[n].process.as_mut()?;
        process.cores[usize::from(at.core.get())].driving.as_deref_mut()
    }

    /// Puts a letter into a core's inbox, if its node runs.
    pub(crate) fn post(&mut self, to: CoreAddr, letter: Letter) {
        if let Some(driving) = self.driving(to) {
            driving.letters.push(letter);
            let n = self.place(to.node);
            self.wake(n, usize::from(to.core.get()));
        }
    }

    /// Carries what left a core with a turn; its process may die before any of it.
    pub(crate) fn deliver(&mut self, n: usize, c: usize) {
        let from = self.nodes[n].addr(c);
        let Some(driving) = self.driving(from) else { return };
        let leaving = std::mem::take(&mut driving.leaving);
        let Leaving { mail, forwards, replies, answers, copy, met, admissions, ended, told } =
            leaving;
        for text in told {
            self.tell(from.node, || text);
        }
        self.note_destroyed(n, &ended);
        for group in ended {
            self.tell(from.node, || format!("{group} ends on {from} by the map"));
        }
        for (core, letter) in mail {
            self.post(CoreAddr::new(from.node, core), letter);
        }
        if let Some(copy) = copy {
            self.start_job(n, c, Job::Map(copy));
        }
        if let Some(nodes) = met {
            self.meet(n, &nodes);
        }
        for (joiner, admission) in admissions {
            self.admission_leaves(joiner, admission);
        }
        for (token, outcome) in answers {
            if self.dies(n) {
                return;
            }
            self.reply(from.node, token, outcome);
        }
        for (to, requests) in forwards {
            if self.dies(n) {
                return;
            }
            self.forward(from, to, requests);
        }
        for (to, replies) in replies {
            if self.dies(n) {
                return;
            }
            self.send_back(from, to, &replies);
        }
    }

    fn forward(&mut self, from: CoreAddr, to: NodeId, requests: Vec<ForwardRequest>) {
        if !self.is_linked(from, to) {
            // It never left: it may be tried again elsewhere.
            for request in requests {
                let outcome = Err(Refusal::NotLeader { leader: None });
                self.post(from, Letter::Outcome(request.id, outcome));
            }
            return;
        }
        let mut bytes = Vec::new();
        frame::encode(&requests, &mut bytes);
        self.send_frame(from, to, 0, 0, bytes);
    }

    fn send_back(&mut self, from: CoreAddr, to: NodeId, replies: &Vec<ForwardReply>) {
        let mut bytes = Vec::new();
        frame::encode(replies, &mut bytes);
        self.send_frame(from, to, 0, 0, bytes);
    }

    /// A node knows these nodes from now on.
    fn meet(&mut self, n: usize, nodes: &[NodeEntry]) {
        let (now, id, life) = (self.now, self.nodes[n].id, self.nodes[n].life);
        let mut new = Vec::new();
        let node = &mut self.nodes[n];
        let mono = node.clock.mono(now);
        let Some(process) = &mut node.process else { return };
        for peer in members::reachable(nodes).filter(|peer| peer.id != id) {
            if process.table.has_peer(peer.id) {
                continue;
            }
            assert!(process.table.add_peer(peer.id, peer.cores), "there is room for a few nodes");
            process.agent.add_peer(peer.id, mono);
            new.push(peer.id);
        }
        for to in new {
            self.make_room(to);
            self.tell(id, || format!("meets {to}"));
            for core in (0..self.nodes[n].cores).map(CoreId) {
                let at = self.now + 1 + self.net_random.below(1000);
                self.at(at, Event::Dial { from: CoreAddr::new(id, core), to, life });
            }
        }
    }
}
