//! A session against real stores: Redis's own transcript, order, joins, bounds.

use std::fmt::Write;

use bytes::Bytes;
use oarlock_types::GroupId;
use proptest::prelude::*;

use super::*;
use crate::net::testing::FakeBackend;

/// A client with its session, and the ranges behind it.
struct Client {
    core: CoreState,
    backend: FakeBackend,
    session: Session,
}

impl Client {
    fn new(splits: &[&[u8]]) -> Self {
        Self::with_limits(splits, ClientLimits::default())
    }

    fn with_limits(splits: &[&[u8]], limits: ClientLimits) -> Self {
        let mut core = CoreState::new(limits, 0);
        let session = Session::open(ConnectionId(3), ClientRecord::default(), &mut core);
        Self { core, backend: FakeBackend::new(splits), session }
    }

    /// Sends bytes and lets nothing answer yet.
    fn send(&mut self, bytes: &[u8]) {
        let mut host = Host { core: &mut self.core, backend: &mut self.backend };
        self.session.receive(bytes, &mut host);
    }

    /// Brings the outcome of the request at a place of the backend's queue.
    fn deliver(&mut self, at: usize) {
        let (_, ticket, outcome) = self.backend.carry_out(at);
        let mut host = Host { core: &mut self.core, backend: &mut self.backend };
        self.session.complete(ticket, outcome, &mut host);
    }

    fn deliver_all(&mut self) {
        while !self.backend.queue.is_empty() {
            self.deliver(0);
        }
    }

    fn output(&mut self) -> String {
        let bytes = self.session.take_output(Vec::new());
        self.session.sent(bytes.len());
        let mut host = Host { core: &mut self.core, backend: &mut self.backend };
        self.session.advance(&mut host);
        escape(&bytes)
    }

    /// Sends an inline command and returns the whole answer.
    fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.deliver_all();
        self.output()
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(char::from(byte)),
            0..=u8::MAX => write!(text, "\\x{byte:02x}").unwrap(),
        }
    }
    text
}

#[test]
fn every_answer_is_that_of_redis() {
    let mut client = Client::new(&[]);
    let transcript = include_str!("testdata/redis.txt");
    let mut lines = transcript.lines().filter(|line| !line.starts_with('#'));
    let mut wrong = String::new();
    while let Some(command) = lines.next() {
        let command = command.strip_prefix("> ").unwrap();
        let expected = lines.next().unwrap();
        let mut found = client.ask(command);
        if client.session.is_finished() {
            found.push_str("<closed>");
        }
        if found != expected {
            write!(wrong, "\n> {command}\n  redis: {expected}\n  found: {found}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
