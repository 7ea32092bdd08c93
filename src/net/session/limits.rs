//! What one client may make a core hold. One for all connections of a node.

use std::time::Duration;

use oarlock_types::Limits;

use crate::net::commands::KeyLimits;
use crate::net::resp::ParserLimits;

/// What an argument may be longer than a key or value, so that an oversized one is told so in a
/// reply, and only a much larger one ends the connection.
const BULK_SLACK_BYTES: usize = 64 << 10;

/// Bounds on each client connection and on their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Longest keys and values.
    pub keys: KeyLimits,
    /// Largest commands.
    pub parser: ParserLimits,
    /// Connections of the whole node.
    pub clients_max: usize,
    /// Commands of one connection that may wait for their outcome.
    pub pending_count_max: usize,
    /// Bytes of commands of one connection that may wait for their outcome.
    pub pending_bytes_max: usize,
    /// No further command is started while so many bytes of replies wait to be sent.
    pub output_pause_bytes: usize,
    /// A connection whose replies exceed this is ended.
    pub output_bytes_max: usize,
    /// A connection that sends nothing for so long is ended; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection that is silent for so long is probed, and ended if nobody answers.
    pub keepalive: Duration,
}

impl ClientLimits {
    /// The engine's limits, with defaults for what only the listener bounds.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let longest = limits.key_bytes_max.max(limits.value_bytes_max);
        Self {
            keys: KeyLimits {
                key_bytes_max: limits.key_bytes_max,
                value_bytes_max: limits.value_bytes_max,
            },
            parser: ParserLimits {
                args_max: limits.command_args_max,
                bulk_bytes_max: longest + BULK_SLACK_BYTES,
                command_bytes_max: limits.entry_bytes_max.max(longest) + BULK_SLACK_BYTES,
            },
            clients_max: 10_000,
            pending_count_max: 1 << 10,
            pending_bytes_max: 8 << 20,
            output_pause_bytes: 1 << 20,
            output_bytes_max: 32 << 20,
            idle_timeout: None,
            keepalive: Duration::from_secs(300),
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}
