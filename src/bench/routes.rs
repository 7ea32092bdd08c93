//! Which node leads which keys, for load that is sent where it will be carried out. As of when it
//! was asked: an operation on a range whose leader has changed since is forwarded by the server.

use std::io;
use std::net::SocketAddr;

use super::client::Client;
use super::cluster_map::{self, RangeRow};

/// A cluster's ranges with the address of each one's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    addresses: Vec<SocketAddr>,
    /// Each range's first key and its leader's place among the addresses, in the order of keys.
    starts: Vec<(Vec<u8>, usize)>,
}

impl Routes {
    /// Asks a node for the map.
    ///
    /// # Errors
    /// If it does not answer, or not as an Oarlock node does.
    pub fn ask(client: &mut Client) -> io::Result<Self> {
        let ranges = cluster_map::ranges(client)?;
        let nodes = cluster_map::status(client)?.nodes;
        let address = |node| Some((node, cluster_map::client_address(node)?));
        let nodes: Vec<(u64, SocketAddr)> =
            nodes.iter().filter_map(address).map(|(node, address)| (node.node, address)).collect();
        Self::new(&ranges, &nodes).ok_or_else(|| io::Error::other("the cluster names no node"))
    }

    /// The routes over `ranges`, sorted by first key, to the core that leads each if it has a port, else
    /// to its node. A range whose leader is not known goes to its first replica. Nothing if there are no
    /// nodes.
    fn new(ranges: &[RangeRow], nodes: &[(u64, SocketAddr)]) -> Option<Self> {
        let address = |range: &RangeRow, node: u64| {
            let place = range.replicas.iter().position(|replica| *replica == node)?;
            let of_core = range.addresses.get(place).and_then(|text| text.parse().ok());
            of_core.or_else(|| Some(nodes.iter().find(|(id, _)| *id == node)?.1))
        };
        let mut addresses = Vec::new();
        let mut starts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let known = address(range, range.leader);
            let known = known.or_else(|| address(range, *range.replicas.first()?));
            let to = known.or_else(|| Some(nodes.first()?.1))?;
            let place = addresses.iter().position(|known| *known == to).unwrap_or_else(|| {
                addresses.push(to);
                addresses.len() - 1
            });
            starts.push((range.start.clone(), place));
        }
        (!addresses.is_empty()).then_some(Self { addresses, starts })
    }

    /// The nodes' addresses.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The place in [`Routes::addresses`] of the node that leads `key`.
    #[must_use]
    pub fn place(&self, key: &[u8]) -> usize {
        let behind = self.starts.partition_point(|(start, _)| start.as_slice() <= key);
        self.starts.get(behind.saturating_sub(1)).map_or(0, |(_, place)| *place)
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
        };
        let nodes: Vec<(u64, SocketAddr)> = [(1, 7001), (2, 7002), (3, 7003)]
            .map(|(id, port)| (id, SocketAddr::from(([127, 0, 0, 1], port))))
            .to_vec();
        let ranges =
            [range("", 2, &[1, 2, 3]), range("g", 3, &[1, 2, 3]), range("p", 0, &[3, 1, 2])];
        let routes = Routes::new(&ranges, &nodes).unwrap();
        let ports: Vec<u16> = ["", "a", "f\u{7f}", "g", "o", "p", "z"]
            .map(|key| routes.addresses()[routes.place(key.as_bytes())].port())
            .to_vec();
        assert_eq!(ports, [7002, 7002, 7002, 7003, 7003, 7003, 7003]);
        assert_eq!(Routes::new(&ranges, &[]), None);
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
        let nodes = [(2, SocketAddr::from(([127, 0, 0, 1], 7002)))];
        let ranges = [at("", "127.0.0.1:9002"), at("g", ""), at("p", "127.0.0.1:9002")];
        let routes = Routes::new(&ranges, &nodes).unwrap();
        let port = |key: &str| routes.addresses()[routes.place(key.as_bytes())].port();
        assert_eq!([port("a"), port("h"), port("q")], [9002, 7002, 9002]);
        assert_eq!(routes.addresses().len(), 2, "one for each address");
    }
}
