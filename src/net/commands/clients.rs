//! `CLIENT LIST` and `CLIENT KILL`: which connections are meant. Pure.

use super::connection::arity;
use super::error::quoted;
use super::{CommandError, Input, Parsed};

/// Which of a node's connections are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// Those with one of these ids; none: with any.
    pub ids: Vec<u64>,
    /// Those of the client at this address.
    pub address: Option<String>,
    /// Those that this address of the node serves.
    pub local_address: Option<String>,
    /// Not the connection that asks.
    pub skips_asker: bool,
    /// None at all: what is asked for, such as replicas, there is not.
    pub is_empty: bool,
}

/// What the answer to `CLIENT KILL` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReply {
    /// Whether there was one.
    Status,
    /// How many there were.
    Count,
}

/// `CLIENT LIST [TYPE type] [ID id…]`.
pub(super) fn list(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let mut filter = ClientFilter::default();
    if input.len() == 4 && input.is(2, "TYPE") {
        filter.is_empty = !is_normal(input.required(3)?)?;
    } else if input.len() > 3 && input.is(2, "ID") {
        for at in 3..input.len() {
            let id = input.integer(at).map_err(|_| CommandError::InvalidClientId)?;
            // Ids begin at one: what is none of them finds nobody.
            filter.ids.push(u64::try_from(id).unwrap_or(0));
        }
    } else if input.len() > 2 {
        return Err(CommandError::Syntax);
    }
    Ok(Parsed::ClientList(filter))
}

/// `CLIENT KILL address`, and `CLIENT KILL [filter value]…`.
pub(super) fn kill(input: &Input<'_>) -> Result<Parsed, CommandError> {
    arity(input, "client|kill", |len| len >= 3)?;
    let mut filter = ClientFilter::default();
    if input.len() == 3 {
        filter.address = Some(quoted(input.required(2)?));
        return Ok(Parsed::ClientKill(filter, KillReply::Status));
    }
    filter.skips_asker = true;
    if input.len().is_multiple_of(2) {
        for at in (2..input.len()).step_by(2) {
            narrow(&mut filter, input, at)?;
        }
        return Ok(Parsed::ClientKill(filter, KillReply::Count));
    }
    Err(CommandError::Syntax)
}

fn narrow(filter: &mut ClientFilter, input: &Input<'_>, at: usize) -> Result<(), CommandError> {
    let value = input.required(at + 1)?;
    if input.is(at, "ID") {
        filter.ids = vec![client_id(input, at + 1)?];
    } else if input.is(at, "TYPE") {
        filter.is_empty |= !is_normal(value)?;
    } else if input.is(at, "ADDR") {
        filter.address = Some(quoted(value));
    } else if input.is(at, "LADDR") {
        filter.local_address = Some(quoted(value));
    } else if input.is(at, "USER") {
        if value != b"default" {
            return Err(CommandError::NoSuchUser(quoted(value)));
        }
    } else if input.is(at, "SKIPME") && input.is(at + 1, "YES") {
        filter.skips_asker = true;
    } else if input.is(at, "SKIPME") && input.is(at + 1, "NO") {
        filter.skips_asker = false;
    } else {
        return Err(CommandError::Syntax);
    }
    Ok(())
}

fn client_id(input: &Input<'_>, at: usize) -> Result<u64, CommandError> {
    let id = input.integer(at).ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
    id.ok_or(CommandError::ClientId)
}

/// Whether connections of that type are those that there are.
fn is_normal(kind: &[u8]) -> Result<bool, CommandError> {
    match kind.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"replica" | b"slave" | b"pubsub" => Ok(false),
        _ => Err(CommandError::ClientType(quoted(kind))),
    }
}
