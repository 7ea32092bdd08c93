//! `SCAN` and `OARLOCK SCAN` over several ranges.

use super::*;

/// The strings of an array of bulk strings, nested ones included.
fn bulks(reply: &str) -> Vec<String> {
    let mut lines = reply.split("\\r\\n");
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with('$') {
            found.push(lines.next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn oarlock_scan_reads_in_order_over_ranges() {
    let mut client = three_ranges();
    for key in ["a", "b", "h", "k", "p", "z"] {
        client.ask(&format!("SET {key} v{key}"));
    }
    let mut keys = |command: &str| bulks(&client.ask(command)).join(" ");
    assert_eq!(keys("OARLOCK SCAN \"\" \"\""), "a va b vb h vh k vk p vp z vz");
    assert_eq!(keys("OARLOCK SCAN b p"), "b vb h vh k vk");
    assert_eq!(keys("OARLOCK SCAN b p REVERSE"), "k vk h vh b vb");
    assert_eq!(keys("OARLOCK SCAN a \"\" LIMIT 4"), "a va b vb h vh k vk");
    assert_eq!(keys("OARLOCK SCAN a \"\" LIMIT 2 reverse"), "z vz p vp");
    assert_eq!(keys("OARLOCK SCAN c d"), "");
    assert_eq!(keys("OARLOCK SCAN z a"), "");
    assert!(client.ask("OARLOCK SCAN a b LIMIT 0").starts_with("-ERR LIMIT must be from 1"));
    assert_eq!(client.ask("OARLOCK SCAN a b LIMIT"), "-ERR syntax error\\r\\n");
}

#[test]
fn oarlock_scan_goes_on_behind_a_range_that_cut_its_answer() {
    let mut client = three_ranges();
    let value = "v".repeat(300 << 10);
    for key in ["a", "b", "c", "d", "e", "f", "k"] {
        client.ask(&format!("SET {key} \"{}\"", &value[..60 << 10]));
        for _ in 0..4 {
            client.ask(&format!("APPEND {key} {}", &value[..60 << 10]));
        }
    }
    for (order, expected) in [("", "abcdefk"), ("REVERSE", "kfedcba")] {
        let found = bulks(&client.ask(&format!("OARLOCK SCAN \"\" \"\" {order}")));
        let keys: String = found.iter().step_by(2).map(String::as_str).collect();
        assert_eq!(keys, expected);
    }
}

/// Runs `SCAN` to its end; `other` says at which steps another core's table is asked.
fn scan_all(client: &mut Client, options: &str, other: impl Fn(usize) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor = "0".to_owned();
    let mut foreign = cursors::Cursors::new(99);
    for step in 0..10_000 {
        if other(step) {
            std::mem::swap(&mut client.core.cursors, &mut foreign);
        }
        let mut answer = bulks(&client.ask(&format!("SCAN {cursor} {options}")));
        cursor = answer.remove(0);
        found.append(&mut answer);
        if cursor == "0" {
            return found;
        }
    }
    panic!("the scan does not end");
}

#[test]
fn a_scan_returns_every_key_wherever_it_is_continued() {
    let mut client = three_ranges();
    let mut expected: Vec<String> = (0..40).map(|n| format!("key:{n:03}")).collect();
    expected.extend((0..40).map(|n| format!("user:{n:03}")));
    for key in &expected {
        client.ask(&format!("SET {key} v"));
    }
    assert_eq!(scan_all(&mut client, "COUNT 7", |_| false), expected);
    assert_eq!(scan_all(&mut client, "", |_| false), expected);
    assert_eq!(scan_all(&mut client, "MATCH user:*", |_| false), expected[40..]);
    assert_eq!(scan_all(&mut client, "MATCH *5 COUNT 3", |_| false).len(), 8);
    assert_eq!(scan_all(&mut client, "MATCH k", |_| false), [""; 0]);
    // Every fourth step comes to another core: some keys come twice, none is missed.
    let mut found = scan_all(&mut client, "COUNT 7", |step| step % 4 == 3);
    assert!(found.len() > expected.len());
    found.sort();
    found.dedup();
    assert_eq!(found, expected);
}

#[test]
fn a_scan_of_many_empty_ranges_pauses_and_ends() {
    let splits: Vec<Vec<u8>> = (1..=200_u8).map(|byte| vec![byte]).collect();
    let splits: Vec<&[u8]> = splits.iter().map(Vec::as_slice).collect();
    let mut client = Client::new(&splits);
    client.ask("SET z 1");
    client.send(b"SCAN 0\r\n");
    let mut hops = 0;
    while !client.backend.queue.is_empty() {
        client.deliver(0);
        hops += 1;
    }
    assert_eq!(hops, 64);
    client.output();
    assert_eq!(scan_all(&mut client, "", |_| false), ["z"]);
}
