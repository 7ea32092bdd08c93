//! What clients send: the parser, and a whole session before stores in memory.
//!
//! What holds: the same bytes have the same effect however they are cut into portions and in
//! whatever order ranges answer; commands are those that another parser reads; replies can be read
//! by another parser; everything is answered; memory is bounded by the limits.

use std::hash::{DefaultHasher, Hasher};

use oarlock::net::commands::KeyLimits;
use oarlock::net::resp::{Parser, ParserLimits, ProtocolError};
use oarlock::net::session::{
    self, ClientLimits, ClientRecord, ConnectionId, CoreState, Host, Session,
};
use redis_protocol::resp2::types::OwnedFrame as Frame2;
use redis_protocol::{resp2, resp3};

use crate::memory;
use crate::source::Source;
use crate::targets::outcome;

#[path = "../../../src/net/testing.rs"]
#[allow(dead_code, reason = "made for the session's own tests, which use more of it")]
#[allow(clippy::unwrap_used, reason = "made for tests")]
mod stores;

use stores::FakeBackend;

pub(super) const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"*",
    b"$",
    b"*1\r\n$",
    b"*2\r\n$3\r\n",
    b"*-1\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"\"",
    b"'",
    b"\\x",
    b"GET k\r\n",
    b"SET k v\r\n",
    b"SET ",
    b"GET ",
    b"MGET ",
    b"MSET ",
    b"DEL ",
    b"k",
    b"a",
    b"q",
    b"SETRANGE k 900 x\r\n",
    b"APPEND k ",
    b"INCRBY k 9\r\n",
    b"INCRBYFLOAT k 1e300\r\n",
    b"GETRANGE k -3 -1\r\n",
    b"EXPIRE k 1 XX GT\r\n",
    b"PEXPIREAT k 9223372036854775807\r\n",
    b"SCAN 0 MATCH * COUNT 2\r\n",
    b"SCAN ",
    b"DBSIZE\r\n",
    b"KEYS *[a-c]?\r\n",
    b"MULTI\r\n",
    b"EXEC\r\n",
    b"DISCARD\r\n",
    b"WATCH k\r\n",
    b"UNWATCH\r\n",
    b"HELLO 3\r\n",
    b"HELLO 2\r\n",
    b"RESET\r\n",
    b"QUIT\r\n",
    b"CLIENT REPLY OFF\r\n",
    b"CLIENT REPLY SKIP\r\n",
    b"CLIENT REPLY ON\r\n",
    b"CLIENT SETNAME x\r\n",
    b"CLIENT LIST\r\n",
    b"COMMAND DOCS get\r\n",
    b"COMMAND\r\n",
    b"COMMAND GETKEYS MSET a 1 q 2\r\n",
    b"INFO\r\n",
    b"CONFIG GET *\r\n",
    b"OARLOCK RANGES\r\n",
    b"OARLOCK ONCE id SET k v\r\n",
    b"OARLOCK CAS k v w\r\n",
    b"OARLOCK SCAN - + COUNT 3\r\n",
    b"OARLOCK STATUS\r\n",
    b" EX 10",
    b" NX GET",
    b" WITHVALUES",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"PING\r\n",
    b"ECHO ",
    b"TYPE k\r\n",
];

const PARSER: ParserLimits =
    ParserLimits { args_max: 16, bulk_bytes_max: 1200, command_bytes_max: 4096 };
/// Each argument of six bytes has its place and its copy.
const PARSED_FACTOR: usize = 32;
/// What a session and its stores may hold beside what was sent: replies up to the limits, and the
/// longest single one, that of `COMMAND`.
const SESSION_BYTES_MAX: usize = 1 << 20;
const STORED_FACTOR: usize = 128;

pub(super) fn run(input: &[u8]) -> u64 {
    let mut source = Source::new(input);
    let is_parser = source.byte().is_multiple_of(4);
    let lengths = Source::new(source.piece());
    let mut order = Source::new(source.piece());
    let bytes = source.rest();
    if is_parser {
        return outcome(&parse(bytes, lengths));
    }
    let bytes_max = SESSION_BYTES_MAX + bytes.len() * STORED_FACTOR;
    let whole = memory::bounded(bytes_max, || converse([bytes], Source::new(&[])));
    let portions = Source::new({ lengths }.rest()).cut(bytes);
    let cut = memory::bounded(bytes_max, || converse(portions, Source::new(order.rest())));
    assert_eq!(whole.0, cut.0, "it matters how a client's bytes are cut, or who answers first");
    whole.1
}

type Commands = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

fn read<'a>(portions: impl IntoIterator<Item = &'a [u8]>) -> Commands {
    let (mut parser, mut commands) = (Parser::new(PARSER), Vec::new());
    for portion in portions {
        parser.feed(portion);
        loop {
            match parser.next_command() {
                Ok(Some(args)) => commands.push(args.iter().map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

/// Reads commands as a whole, in portions, and by another parser.
fn parse(bytes: &[u8], mut lengths: Source<'_>) -> (usize, Option<ProtocolError>) {
    let portions = Source::new(lengths.rest()).cut(bytes);
    let bytes_max = bytes.len() * PARSED_FACTOR;
    let whole = memory::bounded(bytes_max, || read([bytes]));
    let cut = memory::bounded(bytes_max, || read(portions));
    assert_eq!(whole, cut, "it matters how commands are cut");
    let mut rest = bytes;
    while let Some((theirs, length)) = other_parser(rest) {
        let (ours, error) = read([&rest[..length]]);
        assert!(error.is_some() || ours == [theirs], "the parsers disagree on {rest:?}: {ours:?}");
        rest = &rest[length..];
    }
    (whole.0.len(), whole.1)
}

/// The command that another parser finds at the start of `bytes`, with its length there.
fn other_parser(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (frame, length) = resp2::decode::decode(bytes).ok()??;
    let Frame2::Array(parts) = frame else { return None };
    let text = |part| if let Frame2::BulkString(text) = part { Some(text) } else { None };
    let parts: Vec<_> = parts.into_iter().map(text).collect::<Option<_>>()?;
    (!parts.is_empty()).then_some((parts, length))
}

fn limits() -> ClientLimits {
    ClientLimits {
        keys: KeyLimits { key_bytes_max: 128, value_bytes_max: 1024 },
        parser: PARSER,
        pending_count_max: 8,
        pending_bytes_max: 16 << 10,
        output_pause_bytes: 16 << 10,
        output_bytes_max: 256 << 10,
        ..ClientLimits::default()
    }
}

/// A client and three ranges, whose answers come when the input says so.
struct Conversation<'a> {
    core: CoreState,
    backend: FakeBackend,
    session: Session,
    order: Source<'a>,
    replies: DefaultHasher,
    /// Different first bytes of replies, each once, in order of appearance: enough to tell kinds.
    kinds: Vec<u8>,
}

/// All that is answered to a client that sends these portions, and what kind of thing it is.
fn converse<'a>(portions: impl IntoIterator<Item = &'a [u8]>, order: Source<'_>) -> (u64, u64) {
    let mut core = CoreState::new(limits(), 7);
    let session = Session::open(ConnectionId(3), ClientRecord::default(), &mut core);
    let (backend, replies) = (FakeBackend::new(&[b"h", b"p"]), DefaultHasher::new());
    let mut this = Conversation { core, backend, session, order, replies, kinds: Vec::new() };
    for portion in portions {
        while !this.session.wants_input() && this.go_on() {}
        if !this.session.wants_input() {
            break;
        }
        let mut host = Host { core: &mut this.core, backend: &mut this.backend };
        this.session.receive(portion, &mut host);
    }
    this.session.end_of_input();
    while this.go_on() {}
    assert!(this.session.is_finished(), "a client waits for ever");
    this.core.forget(ConnectionId(3));
    (this.replies.finish(), outcome(&this.kinds))
}

impl Conversation<'_> {
    /// One thing that can happen without the client; whether anything did.
    fn go_on(&mut self) -> bool {
        if self.session.has_output() {
            assert!(!self.session.is_overflowing(), "a client that reads at once is cut off");
            let output = self.session.take_output(Vec::new());
            self.session.sent(output.len());
            self.check(&output);
            let mut host = Host { core: &mut self.core, backend: &mut self.backend };
            self.session.advance(&mut host);
            return true;
        }
        // Each range answers in its own order.
        let queue = &self.backend.queue;
        let is_first = |at: &usize| {
            let group = queue[*at].group;
            queue.iter().take(*at).all(|earlier| earlier.group != group)
        };
        let mut firsts: Vec<usize> = (0..queue.len()).filter(is_first).collect();
        if firsts.is_empty() {
            return false;
        }
        let at = firsts.swap_remove(self.order.below(firsts.len()));
        let (_, ticket, answer) = self.backend.carry_out(at);
        let mut host = Host { core: &mut self.core, backend: &mut self.backend };
        self.session.complete(ticket, answer, &mut host);
        true
    }

    /// Another parser reads the replies.
    fn check(&mut self, output: &[u8]) {
        self.replies.write(output);
        let mut rest = output;
        while let Some(first) = rest.first() {
            let length = match resp2::decode::decode(rest) {
                Ok(Some((_, length))) => length,
                Ok(None) | Err(_) => match resp3::decode::complete::decode(rest) {
                    Ok(Some((_, length))) => length,
                    other => panic!("a reply cannot be read: {:?}: {other:?}", rest.escape_ascii()),
                },
            };
            let line = rest.split(|byte| b" \r".contains(byte)).next().unwrap_or_default();
            let kind = if *first == b'-' { crc32fast::hash(line).to_le_bytes()[0] } else { *first };
            if !self.kinds.contains(&kind) {
                self.kinds.push(kind);
            }
            rest = &rest[length..];
        }
    }
}
