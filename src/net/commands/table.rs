//! Every command, in order of its name: arity, flags, keys, what people read about it, and the
//! function that reads its arguments. Static data; the one place that a new command is added.

use super::error::quoted;
use super::{CommandError, Input, Parsed, connection, describe, expiry, oarlock, strings};
use crate::net::resp::Args;

/// One command.
#[derive(Debug)]
pub struct Spec {
    /// Its name, in lower case.
    pub name: &'static str,
    /// How many arguments with the name; negative: at least so many.
    pub arity: i64,
    /// Redis's flags.
    pub flags: &'static [&'static str],
    /// The places of its keys: first, last (negative: from the end), step. Zeros: none.
    pub keys: (i64, i64, i64),
    /// The group that the documentation puts it into.
    pub group: &'static str,
    /// The version of Redis (or of Oarlock) that first had it.
    pub since: &'static str,
    /// What it does.
    pub summary: &'static str,
    pub(super) parse: fn(&Input<'_>) -> Result<Parsed, CommandError>,
}

const WRITE_GROWS: &[&str] = &["write", "denyoom"];
const WRITE_GROWS_FAST: &[&str] = &["write", "denyoom", "fast"];
const WRITE: &[&str] = &["write"];
const WRITE_FAST: &[&str] = &["write", "fast"];
const READ: &[&str] = &["readonly"];
const READ_FAST: &[&str] = &["readonly", "fast"];
const CONNECTION: &[&str] = &["noscript", "loading", "stale"];
const CONNECTION_FAST: &[&str] = &["noscript", "loading", "stale", "fast"];
const TRANSACTION: &[&str] = &["noscript", "loading", "stale", "fast"];
const OARLOCK: &[&str] = &["write", "denyoom", "noscript"];

/// All commands, sorted by name.
#[rustfmt::skip]
pub static COMMANDS: &[Spec] = &[
    Spec { name: "append", arity: 3, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "2.0.0", parse: strings::append,
        summary: "Append a value to a key" },
    Spec { name: "auth", arity: -2, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "connection", since: "1.0.0", parse: connection::auth,
        summary: "Authenticate to the server" },
    Spec { name: "client", arity: -2, flags: CONNECTION, keys: (0, 0, 0), group: "connection", since: "2.4.0", parse: connection::client,
        summary: "A container for client connection commands" },
    Spec { name: "command", arity: -1, flags: CONNECTION, keys: (0, 0, 0), group: "server", since: "2.8.13", parse: describe::command,
        summary: "Get array of command details" },
    Spec { name: "config", arity: -2, flags: CONNECTION, keys: (0, 0, 0), group: "server", since: "2.0.0", parse: connection::config,
        summary: "A container for server configuration commands" },
    Spec { name: "dbsize", arity: 1, flags: READ_FAST, keys: (0, 0, 0), group: "server", since: "1.0.0", parse: strings::db_size,
        summary: "Return the number of keys; each range is counted as of one moment" },
    Spec { name: "decr", arity: 2, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::decr,
        summary: "Decrement the integer value of a key by one" },
    Spec { name: "decrby", arity: 3, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::decr_by,
        summary: "Decrement the integer value of a key by the given number" },
    Spec { name: "del", arity: -2, flags: WRITE, keys: (1, -1, 1), group: "generic", since: "1.0.0", parse: strings::del,
        summary: "Delete keys; atomic for the keys of one range" },
    Spec { name: "discard", arity: 1, flags: TRANSACTION, keys: (0, 0, 0), group: "transactions", since: "2.0.0", parse: connection::discard,
        summary: "Discard all commands issued after MULTI" },
    Spec { name: "echo", arity: 2, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "connection", since: "1.0.0", parse: connection::echo,
        summary: "Echo the given string" },
    Spec { name: "exec", arity: 1, flags: TRANSACTION, keys: (0, 0, 0), group: "transactions", since: "1.2.0", parse: connection::exec,
        summary: "Execute all commands issued after MULTI; their keys must be in one range" },
    Spec { name: "exists", arity: -2, flags: READ_FAST, keys: (1, -1, 1), group: "generic", since: "1.0.0", parse: strings::exists,
        summary: "Count the keys that exist; atomic for the keys of one range" },
    Spec { name: "expire", arity: -3, flags: WRITE_FAST, keys: (1, 1, 1), group: "generic", since: "1.0.0", parse: expiry::expire,
        summary: "Set a key's time to live in seconds" },
    Spec { name: "expireat", arity: -3, flags: WRITE_FAST, keys: (1, 1, 1), group: "generic", since: "1.2.0", parse: expiry::expireat,
        summary: "Set the expiration for a key as a UNIX timestamp" },
    Spec { name: "get", arity: 2, flags: READ_FAST, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::get,
        summary: "Get the value of a key" },
    Spec { name: "getdel", arity: 2, flags: WRITE_FAST, keys: (1, 1, 1), group: "string", since: "6.2.0", parse: strings::get_del,
        summary: "Get the value of a key and delete the key" },
    Spec { name: "getex", arity: -2, flags: WRITE_FAST, keys: (1, 1, 1), group: "string", since: "6.2.0", parse: strings::get_ex,
        summary: "Get the value of a key and optionally set its expiration" },
    Spec { name: "getrange", arity: 4, flags: READ, keys: (1, 1, 1), group: "string", since: "2.4.0", parse: strings::get_range,
        summary: "Get a substring of the string stored at a key" },
    Spec { name: "getset", arity: 3, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::get_set,
        summary: "Set the string value of a key and return its old value" },
    Spec { name: "hello", arity: -1, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "connection", since: "6.0.0", parse: connection::hello,
        summary: "Handshake with the server" },
    Spec { name: "incr", arity: 2, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::incr,
        summary: "Increment the integer value of a key by one" },
    Spec { name: "incrby", arity: 3, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::incr_by,
        summary: "Increment the integer value of a key by the given amount" },
    Spec { name: "incrbyfloat", arity: 3, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "2.6.0", parse: strings::incr_by_float,
        summary: "Increment the float value of a key by the given amount" },
    Spec { name: "info", arity: -1, flags: CONNECTION, keys: (0, 0, 0), group: "server", since: "1.0.0", parse: connection::info,
        summary: "Get information and statistics about the server" },
    Spec { name: "mget", arity: -2, flags: READ_FAST, keys: (1, -1, 1), group: "string", since: "1.0.0", parse: strings::mget,
        summary: "Get the values of keys; atomic for the keys of one range" },
    Spec { name: "mset", arity: -3, flags: WRITE_GROWS, keys: (1, -1, 2), group: "string", since: "1.0.1", parse: strings::mset,
        summary: "Set keys of one range to values" },
    Spec { name: "msetnx", arity: -3, flags: WRITE_GROWS, keys: (1, -1, 2), group: "string", since: "1.0.1", parse: strings::mset_nx,
        summary: "Set keys of one range to values, only if none of the keys exist" },
    Spec { name: "multi", arity: 1, flags: TRANSACTION, keys: (0, 0, 0), group: "transactions", since: "1.2.0", parse: connection::multi,
        summary: "Mark the start of a transaction block" },
    Spec { name: "oarlock", arity: -2, flags: OARLOCK, keys: (0, 0, 0), group: "generic", since: "0.1.0", parse: oarlock::oarlock,
        summary: "Commands that only Oarlock has; see OARLOCK HELP" },
    Spec { name: "persist", arity: 2, flags: WRITE_FAST, keys: (1, 1, 1), group: "generic", since: "2.2.0", parse: expiry::persist,
        summary: "Remove the expiration from a key" },
    Spec { name: "pexpire", arity: -3, flags: WRITE_FAST, keys: (1, 1, 1), group: "generic", since: "2.6.0", parse: expiry::pexpire,
        summary: "Set a key's time to live in milliseconds" },
    Spec { name: "pexpireat", arity: -3, flags: WRITE_FAST, keys: (1, 1, 1), group: "generic", since: "2.6.0", parse: expiry::pexpireat,
        summary: "Set the expiration for a key as a UNIX timestamp in milliseconds" },
    Spec { name: "ping", arity: -1, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "connection", since: "1.0.0", parse: connection::ping,
        summary: "Ping the server" },
    Spec { name: "psetex", arity: 4, flags: WRITE_GROWS, keys: (1, 1, 1), group: "string", since: "2.6.0", parse: strings::pset_ex,
        summary: "Set the value and expiration in milliseconds of a key" },
    Spec { name: "pttl", arity: 2, flags: READ_FAST, keys: (1, 1, 1), group: "generic", since: "2.6.0", parse: expiry::pttl,
        summary: "Get the time to live for a key in milliseconds" },
    Spec { name: "quit", arity: -1, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "connection", since: "1.0.0", parse: connection::quit,
        summary: "Close the connection" },
    Spec { name: "reset", arity: 1, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "connection", since: "6.2.0", parse: connection::reset,
        summary: "Reset the connection" },
    Spec { name: "scan", arity: -2, flags: READ, keys: (0, 0, 0), group: "generic", since: "2.8.0", parse: strings::scan,
        summary: "Incrementally iterate the keys" },
    Spec { name: "select", arity: 2, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "connection", since: "1.0.0", parse: connection::select,
        summary: "Change the selected database; there is one, 0" },
    Spec { name: "set", arity: -3, flags: WRITE_GROWS, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::set,
        summary: "Set the string value of a key" },
    Spec { name: "setex", arity: 4, flags: WRITE_GROWS, keys: (1, 1, 1), group: "string", since: "2.0.0", parse: strings::set_ex,
        summary: "Set the value and expiration of a key" },
    Spec { name: "setnx", arity: 3, flags: WRITE_GROWS_FAST, keys: (1, 1, 1), group: "string", since: "1.0.0", parse: strings::set_nx,
        summary: "Set the value of a key, only if the key does not exist" },
    Spec { name: "setrange", arity: 4, flags: WRITE_GROWS, keys: (1, 1, 1), group: "string", since: "2.2.0", parse: strings::set_range,
        summary: "Overwrite part of a string at key starting at the specified offset" },
    Spec { name: "strlen", arity: 2, flags: READ_FAST, keys: (1, 1, 1), group: "string", since: "2.2.0", parse: strings::str_len,
        summary: "Get the length of the value stored in a key" },
    Spec { name: "time", arity: 1, flags: CONNECTION_FAST, keys: (0, 0, 0), group: "server", since: "2.6.0", parse: connection::time,
        summary: "Return the current server time" },
    Spec { name: "ttl", arity: 2, flags: READ_FAST, keys: (1, 1, 1), group: "generic", since: "1.0.0", parse: expiry::ttl,
        summary: "Get the time to live for a key in seconds" },
    Spec { name: "type", arity: 2, flags: READ_FAST, keys: (1, 1, 1), group: "generic", since: "1.0.0", parse: strings::key_type,
        summary: "Determine the type stored at key" },
    Spec { name: "unlink", arity: -2, flags: WRITE_FAST, keys: (1, -1, 1), group: "generic", since: "4.0.0", parse: strings::del,
        summary: "Delete keys; atomic for the keys of one range" },
    Spec { name: "unwatch", arity: 1, flags: TRANSACTION, keys: (0, 0, 0), group: "transactions", since: "2.2.0", parse: connection::unwatch,
        summary: "Forget about all watched keys" },
    Spec { name: "watch", arity: -2, flags: TRANSACTION, keys: (1, -1, 1), group: "transactions", since: "2.2.0", parse: connection::watch,
        summary: "Watch keys of one range to determine execution of the MULTI/EXEC block" },
];

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 16;

/// The command of that name, in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0_u8; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    Some(&COMMANDS[at])
}

/// The command that `args` name, with as many arguments as it takes.
///
/// # Errors
/// If there is no such command, or the number of arguments is wrong.
pub fn lookup(args: &Args<'_>) -> Result<&'static Spec, CommandError> {
    let name = args.get(0).unwrap_or_default();
    let spec = find(name).ok_or_else(|| CommandError::unknown(args))?;
    if spec.takes(args.len()) {
        Ok(spec)
    } else {
        Err(CommandError::WrongArity(quoted(name).to_ascii_lowercase()))
    }
}

impl Spec {
    /// Whether the command may have so many arguments, its name included.
    #[must_use]
    pub fn takes(&self, count: usize) -> bool {
        let wanted = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 { count >= wanted } else { count == wanted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        for spec in COMMANDS {
            assert!(spec.name.len() <= NAME_BYTES_MAX);
            let found = find(spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name, spec.name);
        }
        assert!(find(b"").is_none());
        assert!(find(&[b'a'; 1000]).is_none());
    }
}
