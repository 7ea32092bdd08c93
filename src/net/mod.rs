//! Everything that crosses a socket.
//!
//! Map: [`resp`] turns bytes into arguments and replies into bytes, [`commands`] knows the commands
//! and turns arguments into what to do, [`session`] is one client connection without its socket,
//! [`listener`] gives sessions their sockets.

pub mod commands;
pub mod listener;
pub mod resp;
pub mod session;
#[cfg(test)]
mod testing;
