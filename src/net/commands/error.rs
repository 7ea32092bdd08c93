//! What is wrong with a command, in Redis's words. Pure data.

use thiserror::Error;

use crate::net::resp::Args;

/// Why a command is not carried out. Nothing was changed, and the connection goes on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "each variant's text says what it is")]
pub enum CommandError {
    #[error("ERR unknown command '{name}', with args beginning with: {preview}")]
    UnknownCommand { name: String, preview: String },
    #[error("ERR unknown subcommand '{subcommand}'. Try {command} HELP.")]
    UnknownSubcommand { subcommand: String, command: &'static str },
    #[error("ERR wrong number of arguments for '{0}' command")]
    WrongArity(String),
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR value is not a valid float")]
    NotAFloat,
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    #[error("ERR offset is out of range")]
    Offset,
    #[error("ERR string exceeds maximum allowed size (value_bytes_max)")]
    StringTooLong,
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    #[error("ERR Unsupported option {0}")]
    UnsupportedOption(String),
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNxWithOthers,
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtWithLt,
    #[error("ERR invalid cursor")]
    Cursor,
    #[error("ERR DB index is out of range")]
    DbIndex,
    #[error("NOPROTO unsupported protocol version")]
    NoProto,
    #[error("ERR Protocol version is not an integer or out of range")]
    ProtocolVersion,
    #[error("ERR Syntax error in HELLO option '{0}'")]
    HelloOption(String),
    #[error("ERR Client names cannot contain spaces, newlines or special characters.")]
    ClientName,
    #[error("ERR client-id should be greater than 0")]
    ClientId,
    #[error("ERR Invalid client ID")]
    InvalidClientId,
    #[error("ERR Unknown client type '{0}'")]
    ClientType(String),
    #[error("ERR No such user '{0}'")]
    NoSuchUser(String),
    #[error("ERR Unrecognized option '{0}'")]
    ClientInfoOption(String),
    #[error(
        "ERR AUTH <password> called without any password configured for the default user. \
         Are you sure your configuration is correct?"
    )]
    NoPassword,
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPass,
    #[error("ERR Invalid command specified")]
    InvalidCommand,
    #[error("ERR The command has no key arguments")]
    NoKeys,
    #[error("ERR Invalid number of arguments specified for command")]
    InvalidArgumentCount,
    #[error("ERR MULTI calls can not be nested")]
    NestedMulti,
    #[error("ERR WATCH inside MULTI is not allowed")]
    WatchInMulti,
    #[error("ERR EXEC without MULTI")]
    ExecWithoutMulti,
    #[error("ERR DISCARD without MULTI")]
    DiscardWithoutMulti,
    #[error("ERR Command not allowed inside a transaction")]
    NotInTransaction,
    #[error("EXECABORT Transaction discarded because of previous errors.")]
    ExecAbort,
    #[error("ERR the transaction is too large: at most {commands} commands and {bytes} bytes")]
    TransactionTooLarge { commands: usize, bytes: usize },
    #[error("ERR key is too long: at most {0} bytes (key_bytes_max)")]
    KeyTooLong(usize),
    #[error("ERR value is too long: at most {0} bytes (value_bytes_max)")]
    ValueTooLong(usize),
    #[error("ERR OARLOCK ONCE takes a command on the keys of one range")]
    OnceCommand,
    #[error("ERR request id must have 1 to {0} bytes")]
    OnceId(usize),
    #[error("ERR LIMIT must be from 1 to {0}")]
    ScanLimit(u32),
    #[error("ERR a range has 1, 3 or 5 replicas")]
    RuleReplicas,
    #[error("ERR <end> is not behind <start>: leave it empty for all keys from <start> on")]
    RuleSpan,
    #[error("ERR the rule says nothing: name REPLICAS, LEADERZONE or PIN")]
    RuleEmpty,
    #[error("ERR {replicas} replicas need as many nodes, and {nodes} are pinned to")]
    RulePins { replicas: u8, nodes: usize },
    #[error("ERR configuration cannot be changed at run time: edit the file and restart the node")]
    ConfigReadOnly,
}

/// Longest piece of a client's words that an error repeats, as in Redis.
const QUOTED_BYTES_MAX: usize = 128;

/// What a client said, cut to a length that fits into an error.
pub(super) fn quoted(word: &[u8]) -> String {
    String::from_utf8_lossy(&word[..word.len().min(QUOTED_BYTES_MAX)]).into_owned()
}

impl CommandError {
    /// Whether Redis finds it before it carries a command out, so that a transaction is discarded.
    pub(in crate::net) fn is_of_lookup(&self) -> bool {
        // Subcommands are looked up with their number of arguments.
        let of_subcommand = matches!(self, Self::WrongArity(name) if name.contains('|'));
        of_subcommand
            || matches!(self, Self::UnknownCommand { .. } | Self::UnknownSubcommand { .. })
    }

    /// The error about a command that there is not.
    pub(super) fn unknown(args: &Args<'_>) -> Self {
        let mut preview = String::new();
        for arg in args.iter().skip(1) {
            if preview.len() >= QUOTED_BYTES_MAX {
                break;
            }
            let shown = &arg[..arg.len().min(QUOTED_BYTES_MAX - preview.len())];
            preview.push('\'');
            preview.push_str(&String::from_utf8_lossy(shown));
            preview.push_str("' ");
        }
        Self::UnknownCommand { name: quoted(args.get(0).unwrap_or_default()), preview }
    }
}
