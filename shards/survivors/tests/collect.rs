//! What a survivor has beside its logs.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::convert::Infallible;

use oarlock_cluster::members;
use oarlock_store::Store;
use oarlock_survivors::collect::{Beside, collect};
use oarlock_survivors::decide::decide;
use oarlock_survivors::plan::Survivor;
use oarlock_types::{ClusterId, DiskId, Incarnation, NodeId};

/// The meta group may have lost that it joined: else its id were given once more.
#[test]
fn a_survivor_that_has_joined_is_known_though_nobody_else_tells_of_it() {
    let line = r#"{"node":{"id":4,"peer_address":"10.0.0.4:1","client_address":"10.0.0.4:2","cores":2},
        "disk":"0000000000000000000000000000000c"}"#;
    let own = members::read(line.as_bytes());
    let survivor = Survivor { node: NodeId(4), disk: DiskId(12), incarnation: Incarnation(1) };
    let (cluster, peers) = (ClusterId(7), Vec::new());
    let beside = Beside { cluster, survivor, own: own.clone(), peers, copy: None };
    let load = |_, _, _: &_, _| -> Result<Store, Infallible> { unreachable!("it has no log") };
    let state = collect(beside, Vec::new(), load).unwrap();
    assert_eq!(state.joined, [own.unwrap()]);
    assert_eq!(decide(&[state]).unwrap().given_up, []);
}
