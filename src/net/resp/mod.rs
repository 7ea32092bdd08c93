//! The Redis protocol's bytes: requests in, replies out. Knows no command.
//!
//! Map: [`parser`] cuts a growing buffer into commands, [`inline`] splits the plain-text form,
//! [`number`] reads integers as strictly as Redis does, [`writer`] appends RESP2 or RESP3.

pub mod inline;
pub mod number;
pub mod parser;
pub mod writer;

pub use number::strict_i64;
pub use parser::{Args, Parser, ParserLimits, ProtocolError};
pub use writer::{Protocol, Value, write_error, write_reply, write_value};
