//! Which node leads which keys, for load that is sent where it will be carried out. As of the newest map
//! that was asked for: an operation on a range whose leader has changed since is forwarded by the server.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::Client;
use super::cluster_map::{self, RangeRow};

/// How often a node is asked whether the map is a newer one.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster's ranges with the address of each one's leader.
#[derive(Debug)]
pub struct Routes {
    addresses: Vec<SocketAddr>,
    nodes: Vec<(u64, SocketAddr)>,
    current: Mutex<Arc<Starts>>,
}

/// The ranges of one version of the map.
#[derive(Debug, PartialEq, Eq)]
pub struct Starts {
    version: u64,
    /// Each range's first key and its leader's place among the addresses, in the order of keys.
    places: Vec<(Vec<u8>, usize)>,
}

impl Starts {
    /// The place in [`Routes::addresses`] of the node that leads `key`.
    #[must_use]
    pub fn place(&self, key: &[u8]) -> usize {
        let behind = self.places.partition_point(|(start, _)| start.as_slice() <= key);
        self.places.get(behind.saturating_sub(1)).map_or(0, |(_, place)| *place)
    }
}

impl Routes {
    /// Asks a node for the map.
    ///
    /// # Errors
    /// If it does not answer, or not as an Oarlock node does.
    pub fn ask(client: &mut Client) -> io::Result<Self> {
        let ranges = cluster_map::ranges_with_leaders(client)?;
        let nodes = cluster_map::status(client)?.nodes;
        let address = |node| Some((node, cluster_map::client_address(node)?));
        let nodes =
            nodes.iter().filter_map(address).map(|(node, address)| (node.node, address)).collect();
        Self::new(&ranges, nodes).ok_or_else(|| io::Error::other("the cluster names no node"))
    }

    /// The routes over `ranges`, sorted by first key, to the core that leads each if it has a port, else
    /// to its node. A range whose leader is not known goes to its first replica. Nothing if there are no
    /// nodes.
    fn new(ranges: &[RangeRow], nodes: Vec<(u64, SocketAddr)>) -> Option<Self> {
        let mut addresses = Vec::new();
        // Leaders change within a run, and a connection to each address is made at its start.
        for range in ranges {
            for node in &range.replicas {
                addresses
                    .extend(address(&nodes, range, *node).filter(|at| !addresses.contains(at)));
            }
        }
        if addresses.is_empty() {
            addresses.push(nodes.first()?.1);
        }
        let current = Mutex::new(Arc::new(starts(&addresses, &nodes, ranges)));
        Some(Self { addresses, nodes, current })
    }

    /// The addresses of all cores that have replicas.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The newest map.
    #[must_use]
    pub fn current(&self) -> Arc<Starts> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks a node whether it has a newer map, and takes it.
    ///
    /// # Errors
    /// If it does not answer, or not as an Oarlock node does.
    fn refresh(&self, client: &mut Client) -> io::Result<()> {
        let ranges = cluster_map::ranges_since(client, self.current().version)?;
        if !ranges.is_empty() {
            self.take(&ranges);
        }
        Ok(())
    }

    fn take(&self, ranges: &[RangeRow]) {
        let newest = Arc::new(starts(&self.addresses, &self.nodes, ranges));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = newest;
    }

    /// Keeps the map up to that of the node at `address`, until what it returns is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn follow(self: &Arc<Self>, address: SocketAddr) -> io::Result<Following> {
        let (stop, stopped) = mpsc::channel::<()>();
        let routes = Arc::clone(self);
        let thread = std::thread::Builder::new().name("routes".to_owned()).spawn(move || {
            let mut client = None;
            while stopped.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                client = client.or_else(|| Client::connect(address, LOOK_TIMEOUT).ok());
                // Without an answer the routes stay as they are: any node forwards.
                client = client
                    .and_then(|mut client| routes.refresh(&mut client).is_ok().then_some(client));
            }
        })?;
        Ok(Following { stop: Some(stop), thread: Some(thread) })
    }
}

/// Routes that are kept up to date.
#[derive(Debug)]
pub struct Following {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where clients reach the core of a range's replica on a node.
fn address(nodes: &[(u64, SocketAddr)], range: &RangeRow, node: u64) -> Option<SocketAddr> {
    let place = range.replicas.iter().position(|replica| *replica == node)?;
    let of_core = range.addresses.get(place).and_then(|text| text.parse().ok());
    of_core.or_else(|| Some(nodes.iter().find(|(id, _)| *id == node)?.1))
}

fn starts(addresses: &[SocketAddr], nodes: &[(u64, SocketAddr)], ranges: &[RangeRow]) -> Starts {
    let place = |range: &RangeRow| {
        // A core that joined within the run has no connection: another replica's forwards.
        let replicas = [range.leader].into_iter().chain(range.replicas.iter().copied());
        let mut reached = replicas.filter_map(|node| address(nodes, range, node));
        reached.find_map(|to| addresses.iter().position(|known| *known == to)).unwrap_or(0)
    };
    Starts {
        version: ranges.first().map_or(0, |range| range.map_version),
        places: ranges.iter().map(|range| (range.start.clone(), place(range))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_to_the_leader_of_its_range() {
        let range = |start: &str, leader, replicas: &[u64]| RangeRow {
            group: 1,
            start: start.into(),
            end: Vec::new(),
            epoch: 1,
            leader,
            leader_core: 0,
            replicas: replicas.to_vec(),
            addresses: Vec::new(),
            map_version: 4,
        };
        let nodes: Vec<(u64, SocketAddr)> = [(1, 7001), (2, 7002), (3, 7003)]
            .map(|(id, port)| (id, SocketAddr::from(([127, 0, 0, 1], port))))
            .to_vec();
        let ranges =
            [range("", 2, &[1, 2, 3]), range("g", 3, &[1, 2, 3]), range("p", 0, &[3, 1, 2])];
        let routes = Routes::new(&ranges, nodes).unwrap();
        let keys = ["", "a", "f\u{7f}", "g", "o", "p", "z"];
        let ports = || keys.map(|key| port(&routes, key));
        assert_eq!(ports(), [7002, 7002, 7002, 7003, 7003, 7003, 7003]);
        assert!(Routes::new(&ranges, Vec::new()).is_none());
        // A newer map: the first range has split, and one of its halves has moved away.
        let mut newer = vec![range("", 1, &[1, 2, 3]), range("d", 9, &[9, 2, 3])];
        newer.extend_from_slice(&ranges[1..]);
        routes.take(&newer);
        assert_eq!(ports(), [7001, 7001, 7002, 7003, 7003, 7003, 7003]);
        assert_eq!(routes.current().version, 4);
    }

    fn port(routes: &Routes, key: &str) -> u16 {
        routes.addresses()[routes.current().place(key.as_bytes())].port()
    }

    #[test]
    fn a_core_with_a_port_of_its_own_is_reached_there() {
        let at = |start: &str, core: &str| RangeRow {
            start: start.into(),
            leader: 2,
            replicas: vec![1, 2],
            addresses: vec!["127.0.0.1:9001".to_owned(), core.to_owned()],
            ..RangeRow::default()
        };
        let nodes = vec![(2, SocketAddr::from(([127, 0, 0, 1], 7002)))];
        let ranges = [at("", "127.0.0.1:9002"), at("g", ""), at("p", "127.0.0.1:9002")];
        let routes = Routes::new(&ranges, nodes).unwrap();
        let ports = ["a", "h", "q"].map(|key| port(&routes, key));
        assert_eq!(ports, [9002, 7002, 9002]);
        assert_eq!(routes.addresses().len(), 3, "one for each address");
    }
}
