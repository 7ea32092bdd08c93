//! What holds whatever is sent, in whatever pieces, and in whatever order ranges answer.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever is sent, in whatever pieces and with outcomes in whatever order: no panic, and the
    /// bytes that are held stay bounded.
    #[test]
    fn no_bytes_break_a_session(
        pieces in prop::collection::vec(piece(), 1..30),
        order in prop::collection::vec(any::<prop::sample::Index>(), 30),
    ) {
        let mut client = three_ranges();
        for (bytes, at) in pieces.iter().zip(order) {
            client.send(bytes);
            if !client.backend.queue.is_empty() {
                client.deliver(at.index(client.backend.queue.len()));
            }
        }
        client.deliver_all();
        client.output();
        client.deliver_all();
        prop_assert!(client.session.parser().reserved_bytes() < 1 << 20);
    }

    /// Whatever order the ranges answer in, each command has the answer that a single store that
    /// carries out one command after the other gives.
    #[test]
    fn a_pipeline_is_answered_as_if_one_after_the_other(
        commands in prop::collection::vec(data_command(), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 200),
    ) {
        let mut one = Client::new(&[]);
        let expected: String = commands.iter().map(|command| one.ask(command)).collect();
        let mut client = three_ranges();
        let sent: String = commands.iter().map(|command| format!("{command}\r\n")).collect();
        client.send(sent.as_bytes());
        let mut order = order.into_iter().cycle();
        while !client.backend.queue.is_empty() {
            // Of the writes to one range, the first goes first: the backend's promise.
            let at = order.next().unwrap().index(client.backend.queue.len());
            let chosen = &client.backend.queue[at];
            let first_write = client.backend.queue.iter().position(|submitted| {
                submitted.group == chosen.group && !submitted.request.is_read()
            });
            let at = if chosen.request.is_read() { at } else { first_write.unwrap_or(at) };
            client.deliver(at);
        }
        prop_assert_eq!(client.output(), expected);
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("SET a 1\r\n".to_owned()),
        Just("*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_owned()),
        Just("MULTI\r\n".to_owned()),
        Just("EXEC\r\n".to_owned()),
        Just("WATCH a\r\n".to_owned()),
        Just("SCAN 0\r\n".to_owned()),
        Just("MGET a k z\r\n".to_owned()),
        Just("OARLOCK ONCE x OARLOCK ONCE".to_owned()),
        Just("HELLO 3\r\n".to_owned()),
        Just("CLIENT REPLY SKIP\r\n".to_owned()),
        Just("*3\r\n$3\r\nSET\r\n$9".to_owned()),
    ];
    prop_oneof![
        4 => word.prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => "[*$:\r\n0-9 \"'a-z]{0,40}".prop_map(String::into_bytes),
    ]
}

fn data_command() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec!["a", "b", "k", "z"]);
    (0..9, key.clone(), key).prop_map(|(kind, a, b)| match kind {
        0 => format!("INCR {a}"),
        1 => format!("GET {a}"),
        2 => format!("SET {a} 5 GET"),
        3 => format!("MGET {a} {b}"),
        4 => format!("DEL {a} {b}"),
        5 => format!("EXISTS {a} {b}"),
        6 => "DBSIZE".to_owned(),
        7 => "OARLOCK SCAN \"\" \"\"".to_owned(),
        _ => "PING".to_owned(),
    })
}
