//! A session against real stores: Redis's own transcript, order, joins, bounds.
//!
//! Map: `moved` cuts ranges while a command is under way, `scans` reads over ranges, `properties` sends anything
//! and lets the ranges answer in any order.

use std::fmt::Write;

use oarlock_types::GroupId;

use super::*;
use crate::net::testing::FakeBackend;

mod moved;
mod properties;
mod scans;

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

/// Three ranges: keys before `h`, before `p`, and from `p` on.
fn three_ranges() -> Client {
    Client::new(&[b"h", b"p"])
}

#[test]
fn replies_leave_in_order_though_outcomes_do_not_come_in_order() {
    let mut client = three_ranges();
    client.send(b"SET a 1\r\nSET k 2\r\nPING\r\nSET q 3\r\nGET z\r\n");
    assert_eq!(client.backend.queue.len(), 4);
    client.deliver(3);
    client.deliver(2);
    client.deliver(1);
    assert_eq!(client.output(), "");
    client.deliver(0);
    assert_eq!(client.output(), "+OK\\r\\n+OK\\r\\n+PONG\\r\\n+OK\\r\\n$-1\\r\\n");
}

#[test]
fn a_read_waits_for_the_write_before_it_on_its_key_alone() {
    let mut client = three_ranges();
    client.send(b"SET a 1\r\nGET b\r\nSET a 2\r\nGET a\r\nGET c\r\n");
    // Two writes of one key go together, for the backend keeps their order.
    assert_eq!(client.backend.queue.len(), 3);
    assert!(!client.session.wants_input());
    client.deliver(0);
    assert_eq!(client.backend.queue.len(), 2);
    client.deliver(1);
    assert_eq!(client.backend.queue.len(), 3, "GET a and what follows it have started");
    client.deliver_all();
    assert_eq!(client.output(), "+OK\\r\\n$-1\\r\\n+OK\\r\\n$1\\r\\n2\\r\\n$-1\\r\\n");
}

#[test]
fn a_write_waits_for_the_read_before_it() {
    let mut client = three_ranges();
    client.send(b"GET a\r\nSET a 1\r\n");
    assert_eq!(client.backend.queue.len(), 1);
    client.deliver_all();
    assert_eq!(client.output(), "$-1\\r\\n+OK\\r\\n");
    client.send(b"DBSIZE\r\nSET b 1\r\n");
    assert_eq!(client.backend.queue.len(), 3, "DBSIZE reads all, so the write waits");
    client.deliver_all();
    assert_eq!(client.output(), ":1\\r\\n+OK\\r\\n");
}

#[test]
fn keys_of_several_ranges_are_split_and_joined() {
    let mut client = three_ranges();
    for line in ["SET a 1", "SET k 2", "SET q 3"] {
        client.ask(line);
    }
    client.send(b"MGET q nothing a k zzz a\r\n");
    assert_eq!(client.backend.queue.len(), 3);
    for at in [1, 1, 0] {
        client.deliver(at);
    }
    let expected =
        "*6\\r\\n$1\\r\\n3\\r\\n$-1\\r\\n$1\\r\\n1\\r\\n$1\\r\\n2\\r\\n$-1\\r\\n$1\\r\\n1\\r\\n";
    assert_eq!(client.output(), expected);
    assert_eq!(client.ask("EXISTS a k q a x"), ":4\\r\\n");
    assert_eq!(client.ask("DBSIZE"), ":3\\r\\n");
    assert_eq!(client.ask("DEL a k q x"), ":3\\r\\n");
    assert_eq!(client.ask("DBSIZE"), ":0\\r\\n");
}

#[test]
fn atomic_commands_do_not_span_ranges() {
    let mut client = three_ranges();
    let commands = ["MSET a 1 z 2", "MSETNX a 1 z 2", "WATCH a z", "OARLOCK ONCE id DEL a z"];
    for command in commands {
        assert!(client.ask(command).starts_with("-CROSSRANGE "), "{command}");
    }
    assert_eq!(client.ask("WATCH a"), "+OK\\r\\n");
    assert!(client.ask("WATCH z").starts_with("-CROSSRANGE "));
    client.ask("MULTI");
    client.ask("SET z 1");
    assert!(client.ask("EXEC").starts_with("-CROSSRANGE "));
    assert_eq!(client.ask("EXEC"), "-ERR EXEC without MULTI\\r\\n");
    assert_eq!(client.ask("MSET a 1 b 2"), "+OK\\r\\n");
    assert!(client.backend.queue.is_empty());
}

#[test]
fn refusals_say_whether_something_was_applied() {
    let mut client = three_ranges();
    client.ask("SET a 1");
    client.backend.refusing = vec![(GroupId(3), Refusal::NoQuorum)];
    assert!(client.ask("SET z 1").starts_with("-NOQUORUM "));
    assert!(client.ask("MGET a z").starts_with("-NOQUORUM "));
    assert!(client.ask("DBSIZE").starts_with("-NOQUORUM "));
    let part = client.ask("DEL a z");
    assert!(part.starts_with("-UNKNOWN "), "one part was applied: {part}");
    assert_eq!(client.ask("EXISTS a"), ":0\\r\\n");
    for (refusal, code) in [
        (Refusal::Busy, "-BUSY "),
        (Refusal::Unknown, "-UNKNOWN "),
        (Refusal::DiskFull, "-DISKFULL "),
        (Refusal::TooLarge, "-ERR "),
    ] {
        client.backend.refusing = vec![(GroupId(3), refusal)];
        for command in ["SET z 1", "WATCH z", "SCAN 0", "OARLOCK SCAN z \"\""] {
            let answer = client.ask(command);
            assert!(answer.starts_with(code) && answer.ends_with("\\r\\n"), "{command}: {answer}");
        }
        client.ask("MULTI");
        client.ask("SET z 1");
        assert!(client.ask("EXEC").starts_with(code));
    }
}

#[test]
fn an_exec_waits_for_its_watches_and_sees_a_change() {
    let mut client = three_ranges();
    client.ask("SET a 1");
    client.send(b"WATCH a\r\nMULTI\r\nINCR a\r\nPING\r\nEXEC\r\nGET a\r\n");
    assert_eq!(client.backend.queue.len(), 1, "nothing starts before the version is known");
    client.deliver(0);
    assert_eq!(client.backend.queue.len(), 1, "GET a waits for the transaction");
    client.deliver_all();
    let expected =
        "+OK\\r\\n+OK\\r\\n+QUEUED\\r\\n+QUEUED\\r\\n*2\\r\\n:2\\r\\n+PONG\\r\\n$1\\r\\n2\\r\\n";
    assert_eq!(client.output(), expected);
    client.send(b"WATCH a\r\nMULTI\r\nINCR a\r\nEXEC\r\n");
    client.deliver(0);
    // Another client's write comes in between.
    let mut other = client.backend.queue[0].clone();
    other.request.watches.clear();
    client.backend.queue.push_front(other);
    let _ = client.backend.carry_out(0);
    client.deliver_all();
    assert!(client.output().ends_with("*-1\\r\\n"));
    assert_eq!(client.ask("GET a"), "$1\\r\\n3\\r\\n");
}

#[test]
fn a_transaction_is_bounded() {
    let limits = ClientLimits { pending_count_max: 3, ..ClientLimits::default() };
    let mut client = Client::with_limits(&[], limits);
    client.ask("MULTI");
    for _ in 0..3 {
        assert_eq!(client.ask("SET a 1"), "+QUEUED\\r\\n");
    }
    assert!(client.ask("SET a 1").starts_with("-ERR the transaction is too large"));
    assert!(client.ask("EXEC").starts_with("-EXECABORT"));
    for command in ["DBSIZE", "SCAN 0", "OARLOCK SCAN a b", "HELLO 3", "CLIENT REPLY OFF"] {
        client.ask("MULTI");
        let answer = client.ask(command);
        assert_eq!(answer, "-ERR Command not allowed inside a transaction\\r\\n", "{command}");
        assert!(client.ask("EXEC").starts_with("-EXECABORT"));
    }
}

#[test]
fn oarlocks_own_commands() {
    let mut client = three_ranges();
    assert_eq!(client.ask("OARLOCK ONCE id-1 INCR n"), ":1\\r\\n");
    assert_eq!(client.ask("OARLOCK ONCE id-1 INCR n"), ":1\\r\\n");
    assert_eq!(client.ask("OARLOCK ONCE id-2 OARLOCK CAS n 1 5"), ":1\\r\\n");
    assert_eq!(client.ask("oarlock cas n 1 6"), ":0\\r\\n");
    assert_eq!(client.ask("GET n"), "$1\\r\\n5\\r\\n");
    for command in ["PING", "DBSIZE", "MULTI", "OARLOCK ONCE x GET n", "OARLOCK RANGES"] {
        let answer = client.ask(&format!("OARLOCK ONCE id-3 {command}"));
        assert!(answer.starts_with("-ERR OARLOCK ONCE takes"), "{command}: {answer}");
    }
    assert!(client.ask("OARLOCK ONCE id-3 GET").starts_with("-ERR wrong number"));
    assert!(client.ask("OARLOCK ONCE id-3 NOPE").starts_with("-ERR unknown command 'NOPE'"));
    assert!(client.ask("OARLOCK ONCE \"\" GET a").starts_with("-ERR request id must have"));
    assert_eq!(
        client.ask("OARLOCK NOPE"),
        "-ERR unknown subcommand 'NOPE'. Try OARLOCK HELP.\\r\\n"
    );
    assert_eq!(
        client.ask("OARLOCK CAS n 1"),
        "-ERR wrong number of arguments for 'oarlock|cas' command\\r\\n"
    );
    let ranges = client.ask("OARLOCK RANGES");
    assert!(ranges.starts_with(
        "*3\\r\\n*18\\r\\n$5\\r\\ngroup\\r\\n:1\\r\\n$5\\r\\nstart\\r\\n$0\\r\\n\\r\\n$3\\r\\nend\\r\\n$1\\r\\nh\\r\\n"
    ));
    assert!(ranges.ends_with("$11\\r\\nmap_version\\r\\n:1\\r\\n"));
    assert_eq!(client.ask("OARLOCK RANGES SINCE 0"), ranges);
    assert_eq!(client.ask("OARLOCK RANGES SINCE 1"), "*0\\r\\n");
    client.backend.split(b"a");
    assert!(client.ask("OARLOCK RANGES SINCE 1").starts_with("*4\\r\\n"));
    assert_eq!(client.ask("OARLOCK RANGES AFTER 1"), "-ERR syntax error\\r\\n");
    assert!(client.ask("OARLOCK RANGES SINCE -1").starts_with("-ERR value is not an integer"));
    // The cores answer it, not the connection: the fake gives a count in their place.
    assert!(client.ask("OARLOCK STATUS").starts_with(':'));
    assert!(client.ask("OARLOCK HELP").contains("+ONCE <request-id>"));
}

#[test]
fn keys_and_values_that_are_too_long_are_told_so() {
    let mut client = Client::new(&[]);
    let limits = ClientLimits::default().keys;
    let set = |key: usize, value: usize| {
        let (k, v) = ("k".repeat(key), "v".repeat(value));
        format!("*3\r\n$3\r\nSET\r\n${key}\r\n{k}\r\n${value}\r\n{v}\r\n")
    };
    client.send(set(limits.key_bytes_max + 1, 1).as_bytes());
    assert!(client.output().starts_with("-ERR key is too long: at most 32768 bytes"));
    client.send(set(1, limits.value_bytes_max + 1).as_bytes());
    assert!(client.output().starts_with("-ERR value is too long: at most 1048576 bytes"));
    client.send(set(limits.key_bytes_max, limits.value_bytes_max).as_bytes());
    client.deliver_all();
    assert_eq!(client.output(), "+OK\\r\\n");
    assert!(client.ask("SETRANGE k 1048570 1234567").starts_with("-ERR string exceeds maximum"));
}

#[test]
fn a_pipeline_holds_a_bounded_number_of_commands() {
    let mut client = Client::new(&[]);
    let mut most = 0;
    client.send(b"PING\r\n".repeat(100_000).as_slice());
    let gets: Vec<u8> = (0..20_000).flat_map(|n| format!("GET k{n}\r\n").into_bytes()).collect();
    client.send(&gets);
    let mut sent = 0;
    loop {
        most = most.max(client.backend.queue.len());
        let sent_now = client.output().len();
        if client.backend.queue.is_empty() && sent_now == 0 {
            break;
        }
        sent += sent_now;
        client.deliver_all();
    }
    assert_eq!(sent, 100_000 * "+PONG\\r\\n".len() + 20_000 * "$-1\\r\\n".len());
    assert!(most <= ClientLimits::default().pending_count_max, "{most}");
}

#[test]
fn a_client_that_does_not_read_is_paused_then_ended() {
    let mut client = Client::new(&[]);
    let value = vec![b'v'; 1 << 20];
    client.send(&[b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n", &value[..], b"\r\n"].concat());
    client.deliver_all();
    client.output();
    client.send(&b"GET k\r\n".repeat(1000));
    let mut rounds = 0;
    while !client.backend.queue.is_empty() {
        client.deliver(0);
        rounds += 1;
        assert!(!client.session.is_overflowing());
    }
    assert!(rounds <= 40, "{rounds} values of 1 MiB were fetched for a client that reads none");
    assert!(!client.session.wants_input());
    let limits = ClientLimits { output_bytes_max: 4 << 20, ..ClientLimits::default() };
    let mut client = Client::with_limits(&[], limits);
    client.send(&[b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n", &value[..], b"\r\n"].concat());
    client.deliver_all();
    client.send(&b"GET k\r\n".repeat(100));
    client.deliver_all();
    assert!(client.session.is_overflowing());
    assert!(client.ask("PING").len() < 2 << 20, "what is written stays bounded all the same");
}

#[test]
fn a_reply_that_is_too_large_is_an_error_and_not_the_end() {
    let limits = ClientLimits { output_bytes_max: 100 << 10, ..ClientLimits::default() };
    let mut client = Client::with_limits(&[], limits);
    let value = "v".repeat(40 << 10);
    client.ask(&format!("SET k {value}"));
    assert!(client.ask("MGET k k").starts_with("-ERR the reply is larger than"));
    client.send(b"MULTI\r\nGET k\r\nGET k\r\nEXEC\r\n");
    client.deliver_all();
    assert!(client.output().contains("QUEUED\\r\\n-ERR the reply is larger than"));
    assert_eq!(client.ask("PING"), "+PONG\\r\\n");
}

#[test]
fn protocol_errors_end_the_connection_after_the_replies_before_them() {
    for (bytes, error) in [
        (&b"*x\r\n"[..], "invalid multibulk length"),
        (b"*1000000\r\n", "invalid multibulk length"),
        (b"*1\r\n$1073741824\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"GET \"a\r\n", "unbalanced quotes in request"),
    ] {
        let mut client = Client::new(&[]);
        client.send(&[b"GET k\r\n", bytes, b"PING\r\n"].concat());
        assert_eq!(client.output(), "");
        assert!(!client.session.wants_input() && !client.session.is_finished());
        client.deliver_all();
        let expected = format!("$-1\\r\\n-ERR Protocol error: {error}\\r\\n");
        assert_eq!(client.output(), expected);
        assert!(client.session.is_finished());
    }
}

#[test]
fn what_was_sent_before_the_end_is_answered() {
    let mut client = Client::new(&[]);
    client.send(b"SET a 1\r\nGET a\r\nPING\r\nGET");
    client.session.end_of_input();
    assert!(!client.session.is_finished());
    client.deliver_all();
    assert_eq!(client.output(), "+OK\\r\\n$1\\r\\n1\\r\\n+PONG\\r\\n");
    assert!(client.session.is_finished());
}

#[test]
fn quit_answers_and_ignores_what_follows() {
    let mut client = Client::new(&[]);
    client.send(b"SET a 1\r\nQUIT\r\nSET a 2\r\n");
    client.deliver_all();
    assert_eq!(client.output(), "+OK\\r\\n+OK\\r\\n");
    assert!(client.session.is_finished());
    assert!(client.backend.queue.is_empty());
}

#[test]
fn rules_for_keys_are_read_and_what_can_not_be_kept_is_refused() {
    let sets = [
        (
            "k p REPLICAS 5 LEADERZONE east PIN 3 1 2 4 5 3",
            r#"{"end":"70","replicas":5,"leader_zone":"east","pinned":[1,2,3,4,5]}"#,
        ),
        ("\"\" \"\" pin 7", r#"{"pinned":[7]}"#),
    ];
    for (words, line) in sets {
        let mut client = three_ranges();
        client.send(format!("OARLOCK RULES SET {words}\r\n").as_bytes());
        let asked = format!("{:?}", client.backend.queue.back());
        assert!(asked.contains(&format!("{line:?}")), "{asked}");
    }
    let mut client = three_ranges();
    for (words, error) in [
        ("SET k p REPLICAS 2", "ERR a range has 1, 3 or 5 replicas"),
        ("SET k p REPLICAS x", "ERR value is not an integer or out of range"),
        (
            "SET k k REPLICAS 1",
            "ERR <end> is not behind <start>: leave it empty for all keys from <start> on",
        ),
        ("SET k p", "ERR the rule says nothing: name REPLICAS, LEADERZONE or PIN"),
        ("SET k p REPLICAS 3 PIN 1 1 2", "ERR 3 replicas need as many nodes, and 2 are pinned to"),
        ("SET k p PIN", "ERR syntax error"),
        ("SET k p LEADERZONE \"\"", "ERR syntax error"),
        ("SET k p NOPE 1", "ERR syntax error"),
        ("SET k", "ERR wrong number of arguments for 'oarlock|rules' command"),
        ("CLEAR", "ERR wrong number of arguments for 'oarlock|rules' command"),
        ("NOPE", "ERR unknown subcommand 'NOPE'. Try OARLOCK HELP."),
    ] {
        let answer = client.ask(&format!("OARLOCK RULES {words}"));
        assert_eq!(answer, format!("-{error}\\r\\n"), "{words}");
    }
}

#[test]
fn an_outcome_that_comes_twice_or_for_nobody_changes_nothing() {
    let mut client = Client::new(&[]);
    client.send(b"GET a\r\n");
    let again = client.backend.queue[0].clone();
    client.deliver_all();
    client.backend.queue.push_back(again);
    client.deliver_all();
    assert_eq!(client.output(), "$-1\\r\\n");
    assert_eq!(client.ask("PING"), "+PONG\\r\\n");
}

#[test]
fn a_protocol_switch_waits_for_the_replies_before_it() {
    let mut client = Client::new(&[]);
    client.send(b"GET a\r\nHELLO 3\r\nGET a\r\n");
    client.deliver_all();
    let answer = client.output();
    assert!(answer.starts_with("$-1\\r\\n%7\\r\\n") && answer.ends_with("_\\r\\n"), "{answer}");
}

/// The errors of Redis 7.0.15.
#[test]
fn clients_are_named_as_in_redis() {
    let mut client = Client::new(&[]);
    for (command, error) in [
        ("CLIENT KILL", "ERR wrong number of arguments for 'client|kill' command"),
        ("CLIENT KILL ID 0", "ERR client-id should be greater than 0"),
        ("CLIENT KILL ID x", "ERR client-id should be greater than 0"),
        ("CLIENT KILL USER bob", "ERR No such user 'bob'"),
        ("CLIENT KILL TYPE foo", "ERR Unknown client type 'foo'"),
        ("CLIENT KILL ID 5 FOO", "ERR syntax error"),
        ("CLIENT KILL FOO BAR", "ERR syntax error"),
        ("CLIENT KILL SKIPME maybe", "ERR syntax error"),
        ("CLIENT LIST ID", "ERR syntax error"),
        ("CLIENT LIST FOO 1", "ERR syntax error"),
        ("CLIENT LIST TYPE foo", "ERR Unknown client type 'foo'"),
        ("CLIENT LIST ID x", "ERR Invalid client ID"),
    ] {
        assert_eq!(client.ask(command), format!("-{error}\\r\\n"), "{command}");
    }
}

#[test]
fn clients_describe_themselves() {
    let mut client = Client::new(&[]);
    client.ask("CLIENT SETINFO LIB-NAME tester");
    client.ask("CLIENT SETINFO lib-ver 1.2");
    client.ask("CLIENT SETNAME me");
    let line = client.ask("CLIENT INFO");
    assert!(line.contains("id=3 ") && line.contains("name=me ") && line.contains("lib-ver=1.2"));
    assert_eq!(client.ask("CLIENT ID"), ":3\\r\\n");
    assert_eq!(client.ask("TIME"), "*2\\r\\n$10\\r\\n1700000000\\r\\n$1\\r\\n7\\r\\n");
    let info = client.ask("INFO server");
    assert!(info.contains("# Server") && !info.contains("# Clients"));
    assert!(client.ask("INFO").contains("# Oarlock"));
}
