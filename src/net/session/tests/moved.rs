//! Ranges that are cut while a command is under way.

use super::*;

#[test]
fn what_is_split_by_range_is_split_anew_when_a_range_was() {
    let mut client = three_ranges();
    client.ask("MSET a 1 b 2 c 3");
    client.send(b"MGET c z a b x\r\nEXISTS a b c nobody\r\nDEL a c\r\n");
    client.backend.split(b"b");
    client.backend.split(b"c");
    client.deliver_all();
    let values = "*5\\r\\n$1\\r\\n3\\r\\n$-1\\r\\n$1\\r\\n1\\r\\n$1\\r\\n2\\r\\n$-1\\r\\n";
    assert_eq!(client.output(), format!("{values}:3\\r\\n:2\\r\\n"));
    assert_eq!(client.ask("EXISTS a b c"), ":1\\r\\n");
}

#[test]
fn what_is_atomic_is_told_when_its_keys_lie_apart_by_now() {
    for (before, command) in [
        ("", "MSETNX a 1 g 2"),
        ("WATCH a", "MULTI\r\nSET a 1\r\nSET g 2\r\nEXEC"),
        ("", "WATCH a g"),
    ] {
        let mut client = three_ranges();
        client.ask(before);
        client.send(format!("{command}\r\n").as_bytes());
        client.backend.split(b"c");
        client.deliver_all();
        assert!(client.output().contains("-CROSSRANGE "), "{command}");
        assert_eq!(client.ask("EXISTS a g"), ":0\\r\\n", "nothing was applied");
    }
}

#[test]
fn a_count_that_a_split_came_between_begins_anew() {
    let mut client = three_ranges();
    for key in ["a", "b", "c", "k", "z"] {
        client.ask(&format!("SET {key} 1"));
    }
    client.send(b"DBSIZE\r\n");
    client.deliver(2);
    client.backend.split(b"b");
    client.deliver_all();
    assert_eq!(client.output(), ":5\\r\\n");
    // But not for ever.
    client.backend.refusing = vec![(GroupId(1), Refusal::Moved)];
    assert!(client.ask("DBSIZE").starts_with("-BUSY "));
    assert!(client.ask("SCAN 0").starts_with("-BUSY "));
    assert!(client.ask("OARLOCK SCAN a b").starts_with("-BUSY "));
}

#[test]
fn scans_go_on_over_ranges_that_split_meanwhile() {
    for command in
        ["SCAN 0 COUNT 1000", "OARLOCK SCAN \"\" \"\" LIMIT 1000", "OARLOCK SCAN b y REVERSE"]
    {
        let mut client = three_ranges();
        for key in b'a'..=b'z' {
            client.ask(&format!("SET {0} {0}", char::from(key)));
        }
        let whole = client.ask(command);
        assert!(whole.len() > 300, "{whole}");
        // Every range splits while it is asked for, and the next one before it is.
        let mut pieces = (b'c'..=b'z').step_by(2).map(|key| [key]);
        client.send(format!("{command}\r\n").as_bytes());
        while !client.backend.queue.is_empty() {
            for key in pieces.by_ref().take(2) {
                client.backend.split(&key);
            }
            client.deliver(0);
        }
        assert_eq!(client.output(), whole, "{command}");
        assert_eq!(pieces.next(), None);
    }
}
