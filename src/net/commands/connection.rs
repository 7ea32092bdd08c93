//! The commands that a connection answers itself. Pure.

use bytes::Bytes;

use super::error::quoted;
use super::{CommandError, Input, Parsed, clients};
use crate::net::resp::{Protocol, strict_i64};

/// Longest name of a connection, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// A command that needs no range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// `PING [message]`.
    Ping(Option<Bytes>),
    /// `ECHO message`.
    Echo(Bytes),
    /// `HELLO [protocol] [AUTH …] [SETNAME name]`.
    Hello {
        /// The protocol to speak from now on.
        protocol: Option<Protocol>,
        /// The connection's new name.
        name: Option<String>,
    },
    /// `SELECT 0`, `AUTH default …`, `CLIENT NO-EVICT`…: accepted, changes nothing.
    Accept,
    /// `QUIT`.
    Quit,
    /// `RESET`.
    Reset,
    /// `TIME`.
    Time,
    /// `INFO [section…]`, in lower case.
    Info(Vec<String>),
    /// `CONFIG GET pattern…`.
    ConfigGet(Vec<Bytes>),
    /// `CLIENT …` about the connection.
    Client(Client),
    /// `CLIENT REPLY`.
    ClientReply(ReplyMode),
    /// `COMMAND` and `COMMAND INFO [name…]`; no names: all.
    CommandInfo(Vec<Bytes>),
    /// `COMMAND COUNT`.
    CommandCount,
    /// `COMMAND LIST`, with the pattern that names must match.
    CommandList(Option<Bytes>),
    /// `COMMAND DOCS [name…]`; no names: all.
    CommandDocs(Vec<Bytes>),
    /// `COMMAND GETKEYS`: the keys that were found.
    CommandKeys(Vec<Bytes>),
    /// Any `HELP`.
    Help(&'static [&'static str]),
    /// `OARLOCK RANGES`; none, if the map is no newer than `SINCE`.
    Ranges {
        /// The version that the client has.
        since: Option<u64>,
    },
}

/// What `CLIENT` asks or says about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// `CLIENT ID`.
    Id,
    /// `CLIENT GETNAME`.
    GetName,
    /// `CLIENT SETNAME`.
    SetName(String),
    /// `CLIENT SETINFO LIB-NAME`.
    LibraryName(String),
    /// `CLIENT SETINFO LIB-VER`.
    LibraryVersion(String),
    /// `CLIENT INFO`.
    Info,
}

/// What `CLIENT REPLY` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every command is answered.
    #[default]
    On,
    /// No command is answered.
    Off,
    /// The next command is not answered.
    SkipNext,
}

fn local(command: Local) -> Result<Parsed, CommandError> {
    Ok(Parsed::Local(command))
}

/// A copy of the arguments from `first` on.
pub(super) fn rest(input: &Input<'_>, first: usize) -> Vec<Bytes> {
    input.args.iter().skip(first).map(Bytes::copy_from_slice).collect()
}

pub(super) fn ping(input: &Input<'_>) -> Result<Parsed, CommandError> {
    if input.len() > 2 {
        return Err(CommandError::WrongArity("ping".to_owned()));
    }
    local(Local::Ping(input.get(1).map(Bytes::copy_from_slice)))
}

pub(super) fn echo(input: &Input<'_>) -> Result<Parsed, CommandError> {
    local(Local::Echo(Bytes::copy_from_slice(input.required(1)?)))
}

pub(super) fn quit(_: &Input<'_>) -> Result<Parsed, CommandError> {
    local(Local::Quit)
}

pub(super) fn reset(_: &Input<'_>) -> Result<Parsed, CommandError> {
    local(Local::Reset)
}

pub(super) fn time(_: &Input<'_>) -> Result<Parsed, CommandError> {
    local(Local::Time)
}

pub(super) fn select(input: &Input<'_>) -> Result<Parsed, CommandError> {
    if input.integer(1)? == 0 { local(Local::Accept) } else { Err(CommandError::DbIndex) }
}

/// `AUTH [user] password`: there is one user, `default`, and it has no password.
pub(super) fn auth(input: &Input<'_>) -> Result<Parsed, CommandError> {
    match input.len() {
        2 => Err(CommandError::NoPassword),
        3 if input.get(1) == Some(b"default") => local(Local::Accept),
        3 => Err(CommandError::WrongPass),
        _ => Err(CommandError::Syntax),
    }
}

pub(super) fn hello(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let protocol = match input.get(1) {
        None => None,
        Some(version) => match strict_i64(version).ok_or(CommandError::ProtocolVersion)? {
            2 => Some(Protocol::Resp2),
            3 => Some(Protocol::Resp3),
            _ => return Err(CommandError::NoProto),
        },
    };
    let mut name = None;
    let mut at = 2;
    while let Some(option) = input.get(at) {
        if input.is(at, "AUTH") && at + 2 < input.len() {
            if input.get(at + 1) != Some(b"default") {
                return Err(CommandError::WrongPass);
            }
            at += 3;
        } else if input.is(at, "SETNAME") && at + 1 < input.len() {
            name = Some(client_name(input.required(at + 1)?)?);
            at += 2;
        } else {
            return Err(CommandError::HelloOption(quoted(option)));
        }
    }
    local(Local::Hello { protocol, name })
}

/// A name as it may stand in `CLIENT LIST`: printable, without spaces.
fn client_name(name: &[u8]) -> Result<String, CommandError> {
    if name.len() > NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
        return Err(CommandError::ClientName);
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

pub(super) fn info(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let sections = input.args.iter().skip(1);
    local(Local::Info(sections.map(|name| quoted(name).to_ascii_lowercase()).collect()))
}

const CONFIG_HELP: &[&str] = &[
    "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "HELP",
    "    Print this help.",
];

pub(super) fn config(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let subcommand = input.required(1)?;
    if input.is(1, "GET") {
        arity(input, "config|get", |len| len >= 3)?;
        local(Local::ConfigGet(rest(input, 2)))
    } else if input.is(1, "SET") {
        arity(input, "config|set", |len| len >= 4)?;
        Err(CommandError::ConfigReadOnly)
    } else if input.is(1, "RESETSTAT") {
        local(Local::Accept)
    } else if input.is(1, "HELP") {
        local(Local::Help(CONFIG_HELP))
    } else {
        Err(unknown_subcommand(subcommand, "CONFIG"))
    }
}

const CLIENT_HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    End the connection of the client at <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    End connections of this node. Options are:",
    "    * ADDR <ip:port>: the client's address",
    "    * ID <client-id>",
    "    * LADDR <ip:port>: the address of this node that serves the client",
    "    * SKIPME (YES|NO): whether to pass over this connection (default: yes)",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB): all are normal",
    "    * USER <username>: all are the user default",
    "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <client-id> [...]]",
    "    Return information about the connections of this node.",
    "NO-EVICT (ON|OFF)",
    "    Accepted; nothing is ever evicted.",
    "NO-TOUCH (ON|OFF)",
    "    Accepted; access times are not kept.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Set the client library's name or version.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "HELP",
    "    Print this help.",
];

pub(super) fn client(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let subcommand = quoted(input.required(1)?).to_ascii_lowercase();
    let exactly = |len: usize| arity(input, &format!("client|{subcommand}"), |found| found == len);
    match subcommand.as_str() {
        "id" => exactly(2).and(local(Local::Client(Client::Id))),
        "getname" => exactly(2).and(local(Local::Client(Client::GetName))),
        "info" => exactly(2).and(local(Local::Client(Client::Info))),
        "kill" => clients::kill(input),
        "list" => clients::list(input),
        "help" => exactly(2).and(local(Local::Help(CLIENT_HELP))),
        "setname" => {
            exactly(3)?;
            local(Local::Client(Client::SetName(client_name(input.required(2)?)?)))
        }
        "setinfo" => {
            exactly(4)?;
            let value = client_name(input.required(3)?)?;
            if input.is(2, "LIB-NAME") {
                local(Local::Client(Client::LibraryName(value)))
            } else if input.is(2, "LIB-VER") {
                local(Local::Client(Client::LibraryVersion(value)))
            } else {
                Err(CommandError::ClientInfoOption(quoted(input.required(2)?)))
            }
        }
        "no-evict" | "no-touch" => {
            exactly(3)?;
            if input.is(2, "ON") || input.is(2, "OFF") {
                local(Local::Accept)
            } else {
                Err(CommandError::Syntax)
            }
        }
        "reply" => {
            exactly(3)?;
            let modes =
                [("ON", ReplyMode::On), ("OFF", ReplyMode::Off), ("SKIP", ReplyMode::SkipNext)];
            let mode = modes.iter().find(|(name, _)| input.is(2, name));
            mode.ok_or(CommandError::Syntax).and_then(|(_, mode)| local(Local::ClientReply(*mode)))
        }
        _ => Err(unknown_subcommand(input.required(1)?, "CLIENT")),
    }
}

/// Checks how many arguments a subcommand has.
pub(super) fn arity(
    input: &Input<'_>,
    name: &str,
    fits: impl Fn(usize) -> bool,
) -> Result<(), CommandError> {
    if fits(input.len()) { Ok(()) } else { Err(CommandError::WrongArity(name.to_owned())) }
}

pub(super) fn unknown_subcommand(subcommand: &[u8], command: &'static str) -> CommandError {
    CommandError::UnknownSubcommand { subcommand: quoted(subcommand), command }
}

pub(super) fn multi(_: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Multi)
}

pub(super) fn exec(_: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Exec)
}

pub(super) fn discard(_: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Discard)
}

pub(super) fn watch(input: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Watch(input.keys(1)?))
}

pub(super) fn unwatch(_: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Unwatch)
}
