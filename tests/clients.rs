//! Clients of all kinds: the ones that people use, without an error; and hostile ones, which cost
//! bounded memory and harm nobody.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use common::{Cluster, Load, Options, PATIENCE, Shape, eventually};
use oarlock::bench::client::Answer;
use oarlock::bench::keys::Naming;
use oarlock::bench::routes::Routes;
use oarlock::bench::run::{self, RunOptions};
use oarlock::bench::schedule::Arrival;
use oarlock::bench::workload::Fill;
use redis::Commands;

const MIB: u64 = 1 << 20;

/// Runs a program of the Redis distribution; nothing if it is not installed, and says so.
fn redis_tool(cluster: &Cluster, tool: &str, args: &[&str]) -> Option<Output> {
    let port = cluster.local.node(1).client_address.port().to_string();
    match Command::new(tool).args(["-p", &port]).args(args).output() {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("left out: {tool} is not installed");
            None
        }
    }
}

fn text(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{}{err}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn redis_cli() {
    let cluster = Cluster::start("redis-cli", Options::default());
    for (args, wanted) in [
        (&["PING"][..], "PONG"),
        (&["SET", "k", "v"], "OK"),
        (&["GET", "k"], "v"),
        (&["INCR", "n"], "1"),
        (&["-3", "GET", "k"], "v"),
        (&["NOSUCHCOMMAND"], "ERR unknown command"),
        (&["OARLOCK", "SCAN", "k", "l"], "v"),
        (&["DBSIZE"], "2"),
    ] {
        let Some(output) = redis_tool(&cluster, "redis-cli", args) else { return };
        assert!(text(&output).contains(wanted), "{args:?}: {}", text(&output));
    }
}

#[test]
fn redis_benchmark() {
    let cluster = Cluster::start("redis-benchmark", Options::default());
    for pipeline in ["1", "16"] {
        let args = [
            "-t",
            "set,get,incr,mset",
            "-c",
            "64",
            "-n",
            "6000",
            "-r",
            "5000",
            "-q",
            "-P",
            pipeline,
        ];
        let Some(output) = redis_tool(&cluster, "redis-benchmark", &args) else { return };
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        for name in ["SET", "GET", "INCR", "MSET"] {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(text.matches("requests per second").count() >= 4, "{text}");
        assert!(!text.contains("rror"), "{text}");
    }
}

#[test]
fn the_redis_crate_s_client() {
    let cluster = Cluster::start("redis-crate", Options::default());
    for (id, protocol) in [(1, ""), (2, "?protocol=resp3")] {
        let url = format!("redis://{}/{protocol}", cluster.local.node(id).client_address);
        let opened = redis::Client::open(url).unwrap();
        let mut redis = opened.get_connection().unwrap();
        let key = format!("crate-{id}");
        let () = redis.set(&key, 41).unwrap();
        assert_eq!(redis.incr::<_, _, i64>(&key, 1).unwrap(), 42);
        assert_eq!(redis.get::<_, Option<String>>("absent").unwrap(), None);
        let () = redis.set_ex(&key, "soon", 100).unwrap();
        assert!((1..=100).contains(&redis.ttl::<_, i64>(&key).unwrap()));
        assert_eq!(redis.append::<_, _, i64>(&key, "er").unwrap(), 6);
        assert_eq!(redis.getrange::<_, String>(&key, 1, -2).unwrap(), "oone");
        let pairs = [("{a}1", "x"), ("{b}2", "y"), ("{c}3", "z")];
        let () = redis.mset(&pairs).unwrap();
        let values: Vec<Option<String>> = redis.mget(&["{a}1", "absent", "{c}3"]).unwrap();
        assert_eq!(values, [Some("x".to_owned()), None, Some("z".to_owned())]);
        assert_eq!(redis.del::<_, i64>(&["{a}1", "{b}2", "absent"]).unwrap(), 2);
        let both: (i64, String) =
            redis::pipe().atomic().incr("counter", 2).get(&key).query(&mut redis).unwrap();
        assert_eq!(both.1, "sooner");
        let () = redis::cmd("WATCH").arg(&key).query(&mut redis).unwrap();
        let () = opened.get_connection().unwrap().set(&key, "other").unwrap();
        let undone: Option<Vec<i64>> =
            redis::pipe().atomic().strlen(&key).query(&mut redis).unwrap();
        assert_eq!(undone, None, "somebody else changed what was watched");
        let (length,): (i64,) = redis::transaction(&mut redis, &[&key], |redis, pipe| {
            let seen: String = redis.get(&key)?;
            pipe.append(&key, seen).query(redis)
        })
        .unwrap();
        assert_eq!(length, 10);
        let many: Vec<i64> = (0..1000)
            .fold(&mut redis::pipe(), |pipe, _| pipe.incr(format!("{key}-pipe"), 1))
            .query(&mut redis)
            .unwrap();
        assert_eq!(many, (1..=1000).collect::<Vec<i64>>());
        let wrong = redis.incr::<_, _, i64>(&key, 1).unwrap_err();
        assert!(wrong.to_string().contains("not an integer"), "{wrong}");
    }
}

/// A node's resident memory.
fn memory(cluster: &Cluster, id: u64) -> u64 {
    let pid = cluster.local.node(id).pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A core that first touches a huge page waits until the kernel has cleared it: docs/decisions/0020.
#[test]
fn a_node_is_given_no_huge_pages() {
    let cluster = Cluster::start("small-pages", Options::default());
    let pid = cluster.local.node(1).pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("THP_enabled:"));
    // Kernels without huge pages have no such line.
    assert!(line.is_none_or(|line| line.ends_with('0')), "{line:?}");
}

/// Does something hostile to node 1 while others use the cluster. Node 1 may use at most so much
/// more memory, everybody else is served without an error, and fresh connections are good.
fn withstands(name: &str, memory_max: u64, hostile: impl FnOnce(&Cluster)) {
    let mut cluster = Cluster::start(name, Options::default());
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(500);
    let before = memory(&cluster, 1);
    hostile(&cluster);
    let grown = memory(&cluster, 1).saturating_sub(before);
    assert!(grown <= memory_max, "{} MiB more than before", grown / MIB);
    load.progress(500);
    let (recorded, measured) = load.stop();
    assert_eq!(measured.errors_total(), 0, "others noticed: {:?}", measured.errors);
    assert!(cluster.client(1).call(&[b"SET", b"after", b"all"]).unwrap().is_ok());
    cluster.wait_for_leaders();
    cluster.verify(recorded);
}

fn raw(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(cluster.local.node(1).client_address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    stream
}

/// Reads until the server closes, at most so many bytes.
fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => text.extend_from_slice(&chunk[..read]),
            // Closed while bytes of ours were still unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the server neither answers nor closes: {error}"),
        }
        assert!(text.len() < 1 << 20);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn garbage_is_answered_with_an_error_and_the_connection_closed() {
    withstands("garbage", 64 * MIB, |cluster| {
        for garbage in [
            &b"*1\r\n:7\r\n"[..],
            b"*1\r\n$-5\r\n",
            b"*-9999999999999999999\r\n",
            b"*2\r\n$3\r\nGET\r\n$1\r\nkXX",
            b"$5\r\nhello\r\n\r\n*1\r\n$x\r\n",
        ] {
            let mut stream = raw(cluster);
            stream.write_all(garbage).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            until_closed(&mut stream);
        }
        let mut noise = Vec::new();
        let mut random = oarlock_types::Random::new(5);
        for _ in 0..4096 {
            noise.extend(random.next_u64().to_be_bytes());
        }
        for start in 0..64 {
            let mut stream = raw(cluster);
            // The server may close before it has taken all.
            stream.write_all(&noise[start * 100..]).ok();
            stream.shutdown(std::net::Shutdown::Write).ok();
            until_closed(&mut stream);
        }
    });
}

#[test]
fn half_commands_cost_next_to_nothing() {
    withstands("half", 64 * MIB, |cluster| {
        let halves: Vec<TcpStream> = (0..200)
            .map(|_| {
                let mut stream = raw(cluster);
                stream.write_all(b"*3\r\n$3\r\nSET\r\n$4\r\nhal").unwrap();
                stream
            })
            .collect();
        let mut last = raw(cluster);
        last.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        let mut pong = [0; 7];
        last.read_exact(&mut pong).unwrap();
        assert_eq!(&pong, b"+PONG\r\n");
        drop(halves);
    });
}

#[test]
fn huge_headers_are_refused_before_anything_is_allocated_for_them() {
    withstands("huge", 64 * MIB, |cluster| {
        for header in [
            &b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1073741824\r\n"[..],
            b"*1000000\r\n",
            b"*2147483647\r\n",
        ] {
            let mut stream = raw(cluster);
            stream.write_all(header).unwrap();
            // What is refused at once is closed; what is within Redis's own bounds may wait for
            // its elements, and gets them until it is refused or complete.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            until_closed(&mut stream);
        }
        let mut stream = raw(cluster);
        let mut array = b"*1000000\r\n$3\r\nDEL\r\n".to_vec();
        for _ in 1..1_000_000 {
            array.extend_from_slice(b"$1\r\nk\r\n");
        }
        if stream.write_all(&array).is_ok() {
            stream.shutdown(std::net::Shutdown::Write).ok();
            until_closed(&mut stream);
        }
    });
}

#[test]
fn a_reader_that_never_reads_is_held_back_or_disconnected() {
    withstands("never-reads", 128 * MIB, |cluster| {
        let mut client = cluster.client(1);
        let value = vec![b'x'; 512 << 10];
        assert!(client.call(&[b"SET", b"big", &value]).unwrap().is_ok());
        let mut stream = raw(cluster);
        // Half a gigabyte of replies is asked for. At some point the server takes no more, or
        // closes.
        let mut command = Vec::new();
        oarlock::bench::resp::command(&mut command, &[b"GET", b"big"]);
        let asked = (0..1000).take_while(|_| stream.write_all(&command).is_ok()).count();
        // It has had the time to do its worst once it answers another after all that.
        eventually("an answer to somebody else", || {
            match cluster.client(1).call(&[b"GET", b"big"]) {
                Ok(Answer::Bulk(found)) if found == value => Ok(()),
                Ok(answer) => Err(answer.to_string()),
                Err(error) => Err(format!("after {asked} commands: {error}")),
            }
        });
    });
}

#[test]
fn a_deep_pipeline_is_answered_in_order() {
    withstands("pipeline", 128 * MIB, |cluster| {
        let mut client = cluster.client(1);
        let mut reader_ahead = 0;
        let mut out = Vec::new();
        for number in 0..20_000u32 {
            oarlock::bench::resp::command(&mut out, &[b"ECHO", number.to_string().as_bytes()]);
            if out.len() > 16 << 10 {
                client.send_raw(&out).unwrap();
                out.clear();
                while reader_ahead < number {
                    let echoed = client.receive().unwrap();
                    assert_eq!(echoed, Answer::Bulk(reader_ahead.to_string().into_bytes()));
                    reader_ahead += 1;
                }
            }
        }
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    withstands("come-and-go", 64 * MIB, |cluster| {
        for _ in 0..3000 {
            let mut stream = raw(cluster);
            stream.write_all(b"PING\r\n").unwrap();
        }
        let pid = cluster.local.node(1).pid().unwrap();
        eventually("closed connections are let go", || {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            if open < 500 { Ok(()) } else { Err(format!("{open} descriptors are open")) }
        });
    });
}

/// Each node's `INFO keyspace` counts the keys of the ranges that it leads.
#[test]
fn info_counts_the_keys_of_all_nodes() {
    let mut cluster = Cluster::start("keyspace", Options::default());
    let mut client = cluster.client(1);
    for number in 0..40_u8 {
        let key = [number.wrapping_mul(97), b'k', number];
        let answer = match number % 4 {
            0 => client.call(&[b"SET", &key, b"v", b"EX", b"1000"]),
            _ => client.call(&[b"SET", &key, b"v"]),
        };
        assert!(answer.unwrap().is_ok());
    }
    cluster.eventually("the sums of all nodes", |local| {
        let mut sums = [0, 0];
        for node in &local.nodes {
            let answer = node.client().and_then(|mut client| client.call(&[b"INFO", b"keyspace"]));
            let text = answer.map_err(|error| error.to_string())?.to_string();
            for (sum, name) in sums.iter_mut().zip(["keys=", "expires="]) {
                let number = text.split_once(name).map_or("0", |(_, rest)| rest);
                let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
                *sum += number[..end].parse::<u64>().map_err(|error| error.to_string())?;
            }
        }
        if sums == [40, 10] { Ok(()) } else { Err(format!("{sums:?}")) }
    });
}

/// Connections of all cores are listed, and ended from any of them.
#[test]
fn clients_are_listed_and_ended() {
    let cluster = Cluster::start("kill", Options { cores: 2, ..Options::default() });
    let mut asker = cluster.client(1);
    let mut ask = |command: &str| {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let answer = asker.call(&words).unwrap();
        if let Answer::Bulk(lines) = answer {
            String::from_utf8(lines).unwrap()
        } else {
            answer.to_string()
        }
    };
    let mut victims: Vec<TcpStream> = (0..16).map(|_| raw(&cluster)).collect();
    for (number, victim) in victims.iter_mut().enumerate() {
        write!(victim, "CLIENT SETNAME victim-{number}\r\n").unwrap();
        let mut answer = [0; 5];
        victim.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }
    let list = ask("CLIENT LIST");
    let lines: Vec<&str> = list.lines().filter(|line| line.contains(" name=victim-")).collect();
    assert_eq!(lines.len(), 16, "{list}");
    let field = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
        rest.split(' ').next().unwrap().to_owned()
    };
    let of = |number: usize| {
        let name = format!("victim-{number}");
        *lines.iter().find(|line| field(line, "name") == name).unwrap()
    };
    // Ids tell the cores: the kernel spreads sixteen connections over both.
    let cores: std::collections::BTreeSet<u64> =
        lines.iter().map(|line| field(line, "id").parse::<u64>().unwrap() >> 40).collect();
    assert_eq!(cores.len(), 2, "{list}");

    assert_eq!(ask(&format!("CLIENT KILL {}", field(of(0), " addr"))), "OK");
    assert_eq!(until_closed(&mut victims[0]), "");
    assert_eq!(ask(&format!("CLIENT KILL ID {}", field(of(1), "id"))), "1");
    assert_eq!(until_closed(&mut victims[1]), "");
    assert!(ask(&format!("CLIENT KILL {}", field(of(0), " addr"))).contains("No such client"));
    assert_eq!(ask("CLIENT KILL TYPE replica"), "0");
    let one = ask(&format!("CLIENT LIST ID {} {}", field(of(1), "id"), field(of(2), "id")));
    assert_eq!(one.lines().count(), 1, "{one}");
    let left = ask(&format!("CLIENT KILL LADDR {}", field(of(2), "laddr")));
    assert_eq!(left, "14", "all but the one that asks");
    for victim in &mut victims[2..] {
        assert_eq!(until_closed(victim), "");
    }
    let own = ask("CLIENT ID");
    assert_eq!(ask(&format!("CLIENT KILL ID {own} SKIPME no")), "1", "answered, then ended");
    let mut asker = cluster.client(1);
    assert!(
        !asker.call(&[b"CLIENT", b"LIST"]).unwrap().to_string().contains(&format!("id={own} "))
    );
}

/// What a client sends to the core that leads its key goes nowhere else; what it sends to any node is
/// forwarded to another node two of three times, and now and then to another core.
#[test]
fn load_by_the_map_is_forwarded_by_nobody() {
    let mut cluster = Cluster::start("routes", Options::default());
    cluster.wait_for_leaders();
    let counted = |name: &str| {
        let of_node = |node: &oarlock::bench::processes::Node| {
            let info: [&[u8]; 2] = [b"INFO", b"oarlock"];
            let text = node.client().unwrap().call(&info).unwrap().to_string();
            let (_, rest) = text.split_once(&format!("{name}:")).unwrap();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse::<u64>().unwrap()
        };
        cluster.local.nodes.iter().map(of_node).sum::<u64>()
    };
    let hops = || (counted("requests_forwarded"), counted("requests_crossed"));
    let mut shares = Vec::new();
    for routes in [None, Some(Arc::new(Routes::ask(&mut cluster.client(2)).unwrap()))] {
        let before = hops();
        let options = RunOptions {
            routes,
            addresses: cluster.local.addresses(),
            clients: 6,
            pipeline: 4,
            rate: None,
            arrival: Arrival::Fixed,
            warmup: Duration::ZERO,
            window: None,
            timeout: PATIENCE,
            seed: 3,
        };
        let fill = Fill::new(Naming::Spread, 0..3000, 32usize);
        let (filled, measured) = run::start(&options, vec![fill]).unwrap().join().unwrap();
        assert_eq!(filled[0].missing(), 0);
        let after = hops();
        let share = |hops: u64| hops as f64 / measured.ops as f64;
        shares.push((share(after.0 - before.0), share(after.1 - before.1)));
    }
    let [any, map] = [shares[0], shares[1]];
    assert!(any.0 > 0.5 && map.0 < 0.02, "from node to node: {shares:?}");
    assert!(any.1 > 0.05 && map.1 < 0.02, "from core to core: {shares:?}");
}
