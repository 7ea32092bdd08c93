//! Which protocol servers are loaded by. The Redis protocol is always there; etcd's takes the cargo
//! feature `etcd`, so that nobody builds a gRPC client for nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::client::Client;
use super::run::{self, RunOptions, Running};
use super::workload::Workload;

/// What a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The Redis protocol.
    #[default]
    Redis,
    /// etcd's own (gRPC): SET is a Put, GET a linearizable Range. Needs a build with the cargo feature
    /// etcd.
    Etcd,
}

impl Target {
    /// Whether this build has it, and a server answers there.
    ///
    /// # Errors
    /// If not; the message says what to do.
    pub fn greet(self, address: SocketAddr, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Redis => greet_redis(address, timeout),
            Self::Etcd => etcd::greet(address, timeout),
        }
    }

    /// Starts one driver per workload.
    ///
    /// # Errors
    /// If a thread cannot be started, or this build does not have the target.
    pub fn start<W: Workload + 'static>(
        self,
        options: &RunOptions,
        workloads: Vec<W>,
    ) -> io::Result<Running<W>> {
        match self {
            Self::Redis => run::start(options, workloads),
            Self::Etcd => etcd::start(options, workloads),
        }
    }
}

fn greet_redis(address: SocketAddr, timeout: Duration) -> io::Result<()> {
    let greeted = Client::connect(address, timeout).and_then(|mut client| client.call(&[b"PING"]));
    match greeted {
        Ok(answer) if answer.error_kind().is_some() => {
            Err(io::Error::other(format!("{address} answers PING with {answer}")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(silent(address, &error)),
    }
}

/// A server that is not there should be told in one line, not in a million failed operations.
fn silent(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("no server answers at {address} ({error}); start one, or give its --addr"),
    )
}

#[cfg(feature = "etcd")]
mod etcd {
    use super::*;
    use crate::bench::etcd;

    pub(super) fn greet(address: SocketAddr, timeout: Duration) -> io::Result<()> {
        etcd::greet(address, timeout).map_err(|error| silent(address, &error))
    }

    pub(super) fn start<W: Workload + 'static>(
        options: &RunOptions,
        workloads: Vec<W>,
    ) -> io::Result<Running<W>> {
        run::start_with(options, workloads, etcd::drive)
    }
}

#[cfg(not(feature = "etcd"))]
mod etcd {
    use super::*;

    fn missing() -> io::Error {
        let text = "this build cannot speak to etcd; build it with cargo build --release \
                    --features etcd";
        io::Error::new(io::ErrorKind::Unsupported, text)
    }

    pub(super) fn greet(_: SocketAddr, _: Duration) -> io::Result<()> {
        Err(missing())
    }

    pub(super) fn start<W: Workload + 'static>(
        _: &RunOptions,
        _: Vec<W>,
    ) -> io::Result<Running<W>> {
        Err(missing())
    }
}
