//! Nodes that come, are drained and go, in a cluster that keeps its own map: a joining node asks any of the others
//! until it is let in, an operator writes what nodes are to do, and some are gone for good.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_cluster::members::{Candidate, Member};
use oarlock_cluster::{MapCopy, NodeEntry, duties, members};
use oarlock_raft::Configuration;
use oarlock_store::{Command, Expiry, Request, SetCondition};
use oarlock_types::{CoreAddr, CoreId, DiskId, GroupId, NodeId};

use crate::cluster::{Cluster, NodeTrouble, entry};
use crate::letters::{Admission, Answer, Known, Letter};
use crate::node::{Ask, Node};
use crate::world::{Event, World};

/// Between two questions of a node that wants to join, and of an operator who was not answered.
const ASK_AGAIN_US: u64 = 200_000;
/// So long after a drain was acknowledged placement plans by it, as a rule: it reads once a second what stands of
/// nodes, and plans once a second by what it has read.
const DRAINS_WITHIN_US: u64 = 3_000_000;
/// The way to a node and back.
const WAY_US: u64 = 500;
/// Disks of nodes that join have numbers from here on.
const DISKS: u128 = 1 << 32;

/// A node that wants to join.
#[derive(Debug)]
struct Joiner {
    disk: DiskId,
    entry: NodeEntry,
    /// Who it is, once it was let in.
    node: Option<NodeId>,
}

/// What is to stand of a node, nothing if it is to serve; and the request that is under way.
type Wish = (Option<&'static [u8]>, Option<u64>);

/// Who comes, and what operators want.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    joiners: Vec<Joiner>,
    /// What is to be written of a node, and the request that is under way.
    wanted: BTreeMap<NodeId, Wish>,
    /// The nodes that are drained, and since when an operator knows that this stands.
    drained: BTreeMap<NodeId, u64>,
    asks: bool,
}

impl Joining {
    /// Who was not let in yet comes with another disk.
    pub(crate) fn begin_anew(&mut self) {
        for joiner in self.joiners.iter_mut().filter(|joiner| joiner.node.is_none()) {
            joiner.disk = DiskId(joiner.disk.get() + DISKS);
        }
    }

    /// Whether all have been let in, and all that operators wrote is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.wanted.is_empty() && self.joiners.iter().all(|joiner| joiner.node.is_some())
    }
}

impl World {
    pub(crate) fn node_trouble(&mut self, trouble: &NodeTrouble) {
        match trouble {
            NodeTrouble::Join => self.begin_join(),
            NodeTrouble::Drain(node) => self.write_duty(*node, Some(duties::DRAINING)),
            // One that may have lost replicas which nobody can name gets none: it stays drained.
            NodeTrouble::Serve(node) if self.is_to_replace(*node) => {}
            NodeTrouble::Serve(node) => self.write_duty(*node, None),
            NodeTrouble::Lose(node, is_told) => {
                if self.lose_for_good(*node) && *is_told {
                    self.write_duty(*node, Some(duties::REMOVED));
                }
            }
            NodeTrouble::Replace(node) => {
                if self.lose_for_good(*node) {
                    self.begin_join();
                }
            }
            NodeTrouble::HandOver => {
                if let Some(leader) = self.leader(GroupId::META) {
                    self.ask(leader, GroupId::META, Ask::Transfer(GroupId::META, None));
                }
            }
        }
    }

    // ---- joins ----

    /// A node with an empty disk asks to join.
    pub fn begin_join(&mut self) {
        let number = self.config.nodes + 1 + self.joining.joiners.len() as u64;
        let address = u16::try_from(1000 + number).expect("invariant: few nodes");
        let entry = entry(NodeId(0), address, self.config.cores);
        let disk = DiskId(DISKS + u128::from(number));
        self.joining.joiners.push(Joiner { disk, entry, node: None });
        let joiner = self.joining.joiners.len() - 1;
        self.at(self.now + 1, Event::JoinAsks { joiner });
    }

    pub(crate) fn join_asks(&mut self, joiner: usize) {
        let Joiner { disk, entry, node } = &self.joining.joiners[joiner];
        if node.is_some() {
            return;
        }
        let member = Member { entry: entry.clone(), disk: *disk };
        let candidate = Box::new(Candidate { member, levels: Cluster::LEVELS });
        let to = NodeId(1 + self.node_random.below(self.config.nodes));
        self.post(CoreAddr::new(to, CoreId(0)), Letter::Join { joiner, candidate });
        let wait = self.node_random.within(ASK_AGAIN_US / 2, ASK_AGAIN_US);
        self.at(self.now + wait, Event::JoinAsks { joiner });
    }

    pub(crate) fn admission_leaves(&mut self, joiner: usize, admission: Answer) {
        let admission = admission.unwrap_or_else(|refusal| panic!("a node may join: {refusal}"));
        if let Some(admission) = admission {
            let at = self.now + 1 + self.node_random.below(WAY_US);
            self.at(at, Event::Admitted { joiner, admission });
        }
    }

    /// A node hears that it was let in, and starts.
    pub(crate) fn admitted(&mut self, joiner: usize, admission: Admission) {
        let id = admission.node;
        let Joiner { disk, node, .. } = &mut self.joining.joiners[joiner];
        if self.recovery.stopped_at.is_some_and(|at| self.now <= at + WAY_US) {
            return; // it asked in vain: it comes as another
        }
        if let Some(node) = node {
            assert_eq!(*node, id, "a node is let in once");
            return;
        }
        let disk = *disk;
        *node = Some(id);
        self.make_room(id);
        let n = self.place(id);
        let node = &mut self.nodes[n];
        assert!(node.is_absent, "each node has an id of its own: {id} is another's");
        node.is_absent = false;
        node.blank(&self.config, disk.get());
        node.admission = Some(admission);
        self.tell(id, || "has joined".to_owned());
        self.start(n);
    }

    /// A node has this id, though it may not have heard of it.
    pub(crate) fn make_room(&mut self, id: NodeId) {
        while self.nodes.len() <= self.place(id) {
            let next = NodeId(self.nodes.len() as u64 + 1);
            let mut node = Node::new(next, &self.config);
            node.is_absent = true;
            self.nodes.push(node);
        }
        self.config.nodes = self.nodes.len() as u64;
    }

    /// What a node knows of its cluster when it starts.
    pub(crate) fn known(&self, n: usize) -> Option<Known> {
        let cluster = self.config.cluster.as_ref()?;
        let node = &self.nodes[n];
        let admission = node.admission.as_ref();
        let mut copy = node.map_copy.clone().unwrap_or_else(|| {
            let mut map = cluster.formation.clone();
            if let Some(meta) = admission.and_then(|admission| admission.meta.as_ref()) {
                map.learn(meta);
            }
            MapCopy { map, level: cluster.level, ..MapCopy::default() }
        });
        copy.level = copy.level.max(admission.map_or(copy.level, |admission| admission.level));
        let told = admission.map(|admission| admission.joined.as_slice()).unwrap_or_default();
        let entries = copy.members.iter().map(|member| &member.entry).chain(told);
        let nodes = members::all_nodes(&cluster.formed_of, entries);
        Some(Known { copy, nodes })
    }

    // ---- what operators write ----

    /// Has it written what a node is to do; asks until it is acknowledged.
    pub fn write_duty(&mut self, node: NodeId, duty: Option<&'static [u8]>) {
        self.joining.wanted.insert(node, (duty, None));
        if !std::mem::replace(&mut self.joining.asks, true) {
            self.at(self.now + 1, Event::OperatorAsks);
        }
    }

    pub(crate) fn operator_asks(&mut self) {
        self.joining.asks = !self.joining.wanted.is_empty();
        if !self.joining.asks {
            return;
        }
        for (node, (duty, asked)) in self.joining.wanted.clone() {
            match asked.map(|token| self.take_outcome(token)) {
                Some(None) => {} // it waits
                Some(Some(Ok(_))) => {
                    self.joining.wanted.remove(&node);
                    if duty == Some(duties::DRAINING) {
                        self.joining.drained.entry(node).or_insert(self.now);
                    } else {
                        self.joining.drained.remove(&node);
                    }
                }
                Some(Some(Err(_))) | None => {
                    let token = self.ask_meta(duty_request(node, duty));
                    self.joining.wanted.insert(node, (duty, token));
                }
            }
        }
        self.at(self.now + ASK_AGAIN_US, Event::OperatorAsks);
    }

    /// Whether a node is drained, and placement brings nothing there any more.
    pub(crate) fn is_drained(&self, node: NodeId) -> bool {
        let since = self.joining.drained.get(&node);
        since.is_some_and(|since| self.now >= since + DRAINS_WITHIN_US)
    }

    /// Asks any node that runs for something of the meta group; the token of its answer.
    fn ask_meta(&mut self, request: Request) -> Option<u64> {
        let running: Vec<NodeId> =
            self.nodes.iter().filter(|node| node.process.is_some()).map(|node| node.id).collect();
        let to = *running.get(self.node_random.place(running.len().max(1)))?;
        self.next_probe += 1;
        let token = self.next_probe;
        let n = self.place(to);
        let core = self.node_random.below(self.nodes[n].cores.into());
        let core = CoreId(u16::try_from(core).ok()?);
        self.asked.insert(token, (n, self.nodes[n].life));
        let letter = Letter::ToGroup { token, group: GroupId::META, request };
        self.post(CoreAddr::new(to, core), letter);
        Some(token)
    }

    // ---- those that are gone ----

    /// A node is gone with its disk, if no range needs it; whether it is.
    pub fn lose_for_good(&mut self, node: NodeId) -> bool {
        let n = self.place(node);
        let is_there = self.nodes.get(n).is_some_and(|node| !node.is_gone && !node.is_absent);
        if !is_there || !self.can_lose(node) || !self.may_spoil(node) {
            return false;
        }
        self.end(n, true, "is gone for good");
        self.nodes[n].is_gone = true;
        true
    }

    /// Whether every group still has a majority without this node and those that are gone, by whatever
    /// configuration any of its replicas knows. Who does not run may know another one: then nobody is lost.
    fn can_lose(&self, lost: NodeId) -> bool {
        if self.nodes.iter().any(|node| node.process.is_none() && !node.is_gone && !node.is_absent)
        {
            return false;
        }
        let stays = |node: &NodeId| *node != lost && !self.nodes[self.place(*node)].is_gone;
        let is_majority =
            |set: &[NodeId]| set.iter().filter(|node| stays(node)).count() * 2 > set.len();
        // A change that is proposed just then may need one more: two are never gone of the same group.
        let is_whole = |configuration: &Configuration| {
            let mut gone =
                configuration.members().filter(|node| self.nodes[self.place(*node)].is_gone);
            gone.next().is_none()
        };
        let holds = |configuration: &Configuration| {
            let Configuration { voters, outgoing, .. } = configuration;
            is_whole(configuration)
                && (voters.is_empty() || is_majority(voters))
                && (outgoing.is_empty() || is_majority(outgoing))
        };
        self.ranges.groups().all(|group| {
            let replicas = self
                .nodes
                .iter()
                .filter_map(|node| node.core(&self.config, group)?.shard.raft(group));
            let mut known = replicas.map(|raft| raft.configuration()).peekable();
            known.peek().is_some() && known.all(holds)
        })
    }
}

fn duty_request(node: NodeId, duty: Option<&'static [u8]>) -> Request {
    let key = duties::key(node);
    Request::one(match duty {
        Some(duty) => Command::Set {
            key,
            value: Bytes::from_static(duty),
            condition: SetCondition::Always,
            expiry: Expiry::None,
            get: false,
        },
        None => Command::Del { keys: vec![key] },
    })
}
