//! Everything that speaks over a socket.
//! It must not decide anything about consensus: it moves bytes and says which links are up.
//!
//! Map: [`handshake`] opens links between nodes, [`peer_listener`] answers it, [`link`] sends
//! frames, [`link_reader`] receives them, [`link_hub`] is where a core's driver finds them,
//! [`pulse_socket`] carries the pulses.

pub mod handshake;
pub mod link;
pub mod link_hub;
pub mod link_log;
pub mod link_reader;
pub mod peer_listener;
pub mod pulse_socket;
