//! Opens the port for clients: one listening socket per core, all on the same port.
//!
//! It must not accept anybody: what comes of a socket is the listener's.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::session::ClientLimits;
use crate::runtime::TcpListener;

/// Clients that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// How long a port may stay taken after the process that had it ended: its sockets go only when the
/// kernel has taken its io_uring down, which it does in the background.
const LINGERING: Duration = Duration::from_secs(2);
const LINGERING_POLL: Duration = Duration::from_millis(20);

/// Checks that nobody listens on `address`: listening sockets that share a port would share its
/// clients, and so two nodes that were given the same port would not notice. A node that is started
/// again right after it was killed waits here for the kernel; it blocks.
///
/// # Errors
/// Such as that the port is taken or the address not this machine's.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + LINGERING;
    loop {
        match try_listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(LINGERING_POLL);
            }
            other => return other,
        }
    }
}

fn try_listen(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Opens one core's listening socket. To be called on that core's executor.
///
/// # Errors
/// Such as that the port is taken or the address not this machine's.
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
    TcpListener::new(socket)
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

    #[test]
    fn a_port_that_is_given_up_a_moment_later_is_waited_for() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while try_listen(address).is_ok() {}
                drop(taken);
            });
            check_free(address).unwrap();
        });
    }
}
