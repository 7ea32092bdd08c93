//! Opens the port for clients: one listening socket per core, all on the same port.
//!
//! It must not accept anybody: what comes of a socket is the listener's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};

use glommio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::session::ClientLimits;

/// Clients that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Checks that nobody listens on `address`: listening sockets that share a port would share its
/// clients, and so two nodes that were given the same port would not notice.
///
/// # Errors
/// Such as that the port is taken or the address not this machine's.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Opens one core's listening socket. To be called on that core's executor.
///
/// # Errors
/// Such as that the port is taken or the address not this machine's.
#[allow(unsafe_code, reason = "glommio takes a prepared listening socket in no other way")]
pub fn bind(address: SocketAddr, limits: &ClientLimits) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit both options, so a client that vanished without a word is found out.
    let probe = limits.keepalive / 3;
    let keepalive = TcpKeepalive::new().with_time(limits.keepalive).with_interval(probe);
    socket.set_tcp_keepalive(&keepalive.with_retries(3))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // SAFETY: the descriptor is open, a listening socket, and owned by nobody else from here on.
    Ok(unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_taken_port_is_found() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let error = check_free(taken.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
