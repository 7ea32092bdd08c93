//! Who is connected: what `CLIENT INFO` and `CLIENT LIST` say. One per core.

use std::collections::BTreeMap;
use std::fmt::Write;

use oarlock_types::Mono;

use super::backend::ConnectionId;
use super::cursors::Cursors;
use super::limits::ClientLimits;
use crate::net::commands::ClientFilter;
use crate::net::resp::Protocol;

/// What all sessions of one core share.
#[derive(Debug)]
pub struct CoreState {
    /// What one client may make the core hold.
    pub limits: std::rc::Rc<ClientLimits>,
    /// The places at which scans stand.
    pub cursors: Cursors,
    pub(super) roster: BTreeMap<ConnectionId, ClientRecord>,
}

impl CoreState {
    /// A core without connections. `seed` tells its cursors from those of other cores.
    #[must_use]
    pub fn new(limits: ClientLimits, seed: u64) -> Self {
        Self {
            limits: std::rc::Rc::new(limits),
            cursors: Cursors::new(seed),
            roster: BTreeMap::new(),
        }
    }

    /// Notes that a connection is gone. Outcomes that are still to come find nobody.
    pub fn forget(&mut self, id: ConnectionId) {
        self.roster.remove(&id);
    }

    /// The connections that `filter` means.
    pub(crate) fn select(
        &self,
        filter: &ClientFilter,
        asker: ConnectionId,
    ) -> impl Iterator<Item = (ConnectionId, &ClientRecord)> {
        let all = self.roster.iter().map(|(id, record)| (*id, record));
        all.filter(move |(id, record)| {
            let is_it = |wanted: &Option<String>, address: &str| {
                wanted.as_ref().is_none_or(|wanted| wanted == address)
            };
            !filter.is_empty
                && (filter.ids.is_empty() || filter.ids.contains(&id.0))
                && is_it(&filter.address, &record.address)
                && is_it(&filter.local_address, &record.local_address)
                && !(filter.skips_asker && *id == asker)
        })
    }
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRecord {
    /// The client's address.
    pub address: String,
    /// This node's address, as the client sees it.
    pub local_address: String,
    /// When it connected.
    pub connected: Mono,
    /// What the client calls itself.
    pub name: String,
    /// What the client's library calls itself.
    pub library_name: String,
    /// The client's library's version.
    pub library_version: String,
    /// The protocol that it speaks.
    pub protocol: Protocol,
}

impl ClientRecord {
    /// Appends the line of `CLIENT INFO`.
    pub(crate) fn describe(&self, id: ConnectionId, now: Mono, text: &mut String) {
        let age = now.since(self.connected).as_secs();
        let _ = writeln!(
            text,
            "id={} addr={} laddr={} name={} age={age} flags=N db=0 user=default resp={} \
             lib-name={} lib-ver={}",
            id.0,
            self.address,
            self.local_address,
            self.name,
            self.protocol.number(),
            self.library_name,
            self.library_version,
        );
    }
}
