//! Everything that crosses a socket.
//! It must not decide anything about consensus: it moves bytes and says which links are up.
//!
//! Map, for clients: [`resp`] turns bytes into arguments and replies into bytes, [`commands`] knows
//! the commands and turns arguments into what to do, [`session`] is one client connection without
//! its socket, [`listener`] gives sessions their sockets. For nodes: [`handshake`] opens links,
//! [`peer_listener`] answers it, [`link`] sends frames, [`link_reader`] receives them, [`link_hub`]
//! is where a core's driver finds them, [`pulse_socket`] carries the pulses.

pub mod client_port;
pub mod commands;
pub mod handshake;
pub mod link;
pub mod link_hub;
pub mod link_log;
pub mod link_reader;
pub mod listener;
pub mod peer_listener;
pub mod pulse_socket;
pub mod resp;
pub mod session;
#[cfg(test)]
mod testing;
