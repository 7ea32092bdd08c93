//! Which node a command asks.

use std::io;
use std::time::Duration;

use clap::Args;

use crate::bench::client::Client;
use crate::bench::run::resolve;

/// How long one request may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Whom to ask.
#[derive(Args, Clone, Debug)]
pub(super) struct Asked {
    /// Any node of the cluster.
    #[arg(long = "addr", value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub(super) address: String,
}

impl Asked {
    /// A connection to it.
    pub(super) fn client(&self) -> io::Result<Client> {
        Client::connect(resolve(&self.address)?, REQUEST_TIMEOUT)
    }
}
