//! Nodes that the operator gave up and that are silent: nobody dials them any more or sends them pulses, until they
//! are heard again.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use common::{Cluster, Options, eventually};
use oarlock::bench::cluster_map;

/// Longer than any wait between two dials or pulses.
const QUIET: Duration = Duration::from_secs(3);

/// In the place of a node that was killed: counts who comes.
struct Place {
    links: TcpListener,
    pulses: UdpSocket,
}

impl Place {
    fn take(at: SocketAddr) -> Self {
        let links = TcpListener::bind(at).unwrap();
        links.set_nonblocking(true).unwrap();
        let pulses = UdpSocket::bind(at).unwrap();
        pulses.set_read_timeout(Some(QUIET)).unwrap();
        Self { links, pulses }
    }

    /// Whether anybody dials.
    fn is_dialled(&self) -> bool {
        match self.links.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    /// Whether a pulse comes, waited for as long as no dial can fail to come.
    fn gets_pulses(&self) -> bool {
        self.pulses.recv_from(&mut [0; 2048]).is_ok()
    }
}

#[test]
fn a_node_that_was_removed_is_dialled_no_more_until_it_is_heard_again() {
    let options = Options { nodes: 4, cores: 2, ranges: 8, ..Options::default() };
    let mut cluster = Cluster::start("removed", options);
    cluster.kill(4);
    let place = Place::take(cluster.local.node(4).peer_address);
    eventually("dials of a node that may come back", || {
        let is_wanted = place.gets_pulses() && place.is_dialled();
        if is_wanted { Ok(()) } else { Err("nobody dials".to_owned()) }
    });
    let (code, text) = cluster.command(1, &["node", "remove", "4"]);
    assert_eq!(code, Some(0), "{text}");
    eventually("no dial and no pulse", || {
        while place.is_dialled() {}
        let is_quiet = !place.gets_pulses() && !place.is_dialled();
        if is_quiet { Ok(()) } else { Err("somebody still comes".to_owned()) }
    });
    let rows = cluster_map::ranges(&mut cluster.client(1)).unwrap();
    assert!(rows.iter().all(|row| !row.replicas.contains(&4)), "it was needed: {rows:?}");
    drop(place);
    // It was not forgotten: it comes back as the one that it was, and has a share once it may.
    cluster.restart(4);
    let (code, text) = cluster.command(1, &["node", "serve", "4"]);
    assert_eq!(code, Some(0), "{text}");
    eventually("its share of the ranges", || {
        let rows =
            cluster.local.node(4).client().and_then(|mut client| cluster_map::ranges(&mut client));
        let rows = rows.map_err(|error| error.to_string())?;
        let its = rows.iter().filter(|row| row.replicas.contains(&4)).count();
        if its >= 3 { Ok(()) } else { Err(format!("{its}")) }
    });
    cluster.wait_for_leaders();
}
