//! One look at a cluster: what each of its nodes says at a moment, asked side by side. It asks only.
//!
//! Any node will do to begin with; the others are learned from what nodes answer, those that join later
//! as well.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bench::breakdown::Breakdown;
use crate::bench::client::Client;
use crate::bench::cluster_map::{self, NodeAddress, NodeStatus, RangeRow};

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// When.
    pub(crate) at: Instant,
    /// All nodes that the cluster has, by number.
    pub(crate) nodes: BTreeMap<u64, NodeLook>,
    /// All ranges, by first key.
    pub(crate) ranges: Vec<RangeRow>,
    /// Which nodes are to be emptied or are given up; none if nobody could tell.
    pub(crate) duties: Option<BTreeMap<u64, String>>,
    /// What placement plans and does, in words; none if nobody could tell.
    pub(crate) placement: Option<String>,
}

/// One node.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeLook {
    /// Where it is.
    pub(crate) address: NodeAddress,
    /// What it says of itself; none if it does not answer.
    pub(crate) status: Option<NodeStatus>,
    /// How long its writes have taken since it started.
    pub(crate) writes: Option<Breakdown>,
}

/// Looks again and again.
#[derive(Debug)]
pub(crate) struct Looker {
    /// Whom to ask as long as no node is known.
    first: SocketAddr,
    timeout: Duration,
    nodes: BTreeMap<u64, Reached>,
}

/// A node, and how it is reached.
#[derive(Debug)]
struct Reached {
    named: NodeAddress,
    address: SocketAddr,
    /// Kept from one look to the next, as long as it answers.
    client: Option<Client>,
}

impl Looker {
    /// Somebody who begins at this address, and gives each node so much time for each answer.
    pub(crate) fn new(first: SocketAddr, timeout: Duration) -> Self {
        Self { first, timeout, nodes: BTreeMap::new() }
    }

    /// Asks every node that is known, and those that they name.
    ///
    /// # Errors
    /// If nobody answers.
    pub(crate) fn look(&mut self) -> io::Result<Look> {
        if self.nodes.is_empty() {
            self.begin()?;
        }
        let mut seen = BTreeMap::new();
        loop {
            let asked = self.ask_all(&seen);
            if asked.is_empty() {
                break;
            }
            for status in asked.values().filter_map(|node| node.status.as_ref()) {
                self.learn(&status.nodes);
            }
            seen.extend(asked);
        }
        if seen.values().all(|node| node.status.is_none()) {
            return Err(io::Error::other("no node of the cluster answers: are they running?"));
        }
        self.ask_cluster(seen)
    }

    fn begin(&mut self) -> io::Result<()> {
        let mut client = Client::connect(self.first, self.timeout)?;
        let status = cluster_map::status(&mut client)?;
        let named = status.nodes.iter().find(|other| other.node == status.node).cloned();
        let named = named.unwrap_or_else(|| NodeAddress {
            node: status.node,
            client_address: self.first.to_string(),
            ..NodeAddress::default()
        });
        // It was reached where we were told; its own name for that may not lead there from here.
        let reached = Reached { named, address: self.first, client: Some(client) };
        self.nodes.insert(status.node, reached);
        self.learn(&status.nodes);
        Ok(())
    }

    fn learn(&mut self, nodes: &[NodeAddress]) {
        for named in nodes {
            let known = self.nodes.get_mut(&named.node);
            if known.as_ref().is_some_and(|known| known.named == *named) {
                continue;
            }
            let Some(address) = cluster_map::client_address(named) else { continue };
            let reached = Reached { named: named.clone(), address, client: None };
            self.nodes.insert(named.node, reached);
        }
    }

    /// Asks those that were not asked yet, all at once.
    fn ask_all(&mut self, seen: &BTreeMap<u64, NodeLook>) -> BTreeMap<u64, NodeLook> {
        let timeout = self.timeout;
        let rest = self.nodes.iter_mut().filter(|(node, _)| !seen.contains_key(node));
        std::thread::scope(|scope| {
            let asked: Vec<_> = rest
                .map(|(node, reached)| (*node, scope.spawn(move || reached.ask(timeout))))
                .collect();
            let joined = asked.into_iter().map(|(node, thread)| {
                (node, thread.join().expect("invariant: asking does not panic"))
            });
            joined.collect()
        })
    }

    /// What one node can say for all.
    fn ask_cluster(&mut self, nodes: BTreeMap<u64, NodeLook>) -> io::Result<Look> {
        let mut why = io::Error::other("no node answers");
        for reached in self.nodes.values_mut() {
            let Some(client) = &mut reached.client else { continue };
            let ranges = match cluster_map::ranges(client) {
                Ok(ranges) => ranges,
                Err(error) => {
                    (why, reached.client) = (error, None);
                    continue;
                }
            };
            // Both are asked of whoever leads the meta group, and there may be nobody for a moment.
            let duties = cluster_map::duties(client);
            let placement = match &duties {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
                Ok(_) | Err(_) => Some(cluster_map::placement(client)),
            };
            let is_of_use = duties.is_ok() && matches!(placement, Some(Ok(_)));
            let (duties, placement) = (duties.ok(), placement.and_then(Result::ok));
            if !is_of_use {
                reached.client = None;
            }
            return Ok(Look { at: Instant::now(), nodes, ranges, duties, placement });
        }
        Err(why)
    }
}

impl Reached {
    fn ask(&mut self, timeout: Duration) -> NodeLook {
        let mut look = NodeLook { address: self.named.clone(), status: None, writes: None };
        let client = match self.client.take() {
            Some(client) => Ok(client),
            None => Client::connect(self.address, timeout),
        };
        let Ok(mut client) = client else { return look };
        // Another node may be at the address of one whose disk was lost.
        let is_it = |status: &NodeStatus| status.node == self.named.node;
        look.status = cluster_map::status(&mut client).ok().filter(is_it);
        if look.status.is_none() {
            return look;
        }
        match Breakdown::ask(&mut client) {
            Ok(writes) => look.writes = Some(writes),
            // It answered, but not so; after any other error the connection is of no further use.
            Err(error) if error.kind() == io::ErrorKind::Other => {}
            Err(_) => return look,
        }
        self.client = Some(client);
        look
    }
}
