//! The driver against servers that misbehave: each is a thread with a script.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

use super::super::resp;
use super::super::schedule::Arrival;
use super::super::workload::Class;
use super::*;

/// `PING`s that remember how each ended.
#[derive(Default)]
struct Pings {
    sent: u64,
    limit: Option<u64>,
    answered: Vec<u64>,
    unknown: Vec<u64>,
}

impl Workload for Pings {
    type Token = u64;

    fn next(&mut self, out: &mut Vec<u8>) -> Option<(Class, u64)> {
        if self.limit.is_some_and(|limit| self.sent >= limit) {
            return None;
        }
        resp::command(out, &[b"PING"]);
        self.sent += 1;
        Some((Class::Read, self.sent))
    }

    fn complete(&mut self, token: u64, outcome: &Outcome<'_>) {
        match outcome {
            Outcome::Reply(_) => self.answered.push(token),
            Outcome::Unknown | Outcome::Unsent => self.unknown.push(token),
        }
    }
}

const PING: usize = b"*1\r\n$4\r\nPING\r\n".len();

/// Serves every connection with `serve`, which is told the connection's number.
fn server(serve: impl Fn(u32, TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(number, stream));
        }
    });
    address
}

fn answer_ping(stream: &mut TcpStream) -> bool {
    let mut request = [0; PING];
    stream.read_exact(&mut request).is_ok() && stream.write_all(b"+PONG\r\n").is_ok()
}

fn options(address: SocketAddr, pace: Pace) -> DriverOptions {
    DriverOptions {
        connections: vec![address],
        routes: None,
        pipeline: 4,
        pace,
        warmup: Duration::ZERO,
        window: Some(Duration::from_millis(600)),
        timeout: Duration::from_secs(5),
    }
}

fn open(rate: f64) -> Pace {
    Pace::Open(Schedule::new(rate, Arrival::Fixed, 0, 1, 1))
}

/// All operations ended, each once.
fn check_complete(pings: &Pings) {
    let ended: BTreeSet<u64> = pings.answered.iter().chain(&pings.unknown).copied().collect();
    assert_eq!(ended.len() as u64, pings.sent, "each operation ends");
    assert_eq!(ended.len(), pings.answered.len() + pings.unknown.len(), "and ends once");
}

#[test]
fn a_stall_of_the_server_counts_for_every_operation_that_was_due_meanwhile() {
    let stall = Duration::from_millis(300);
    let address = server(|_, mut stream| {
        let mut number = 0;
        while answer_ping(&mut stream) {
            number += 1;
            if number == 100 {
                // Longer than the pipeline lasts: most of what is due cannot even be sent.
                let (keep, never) = mpsc::channel::<()>();
                never.recv_timeout(Duration::from_millis(300)).unwrap_err();
                drop(keep);
            }
        }
    });
    let (pings, measured) =
        drive(options(address, open(1000.0)), Pings::default(), &Shared::default()).unwrap();
    check_complete(&pings);
    assert_eq!((measured.ops, measured.errors_total()), (600, 0));
    let summary = measured.latency.summary();
    assert!(summary.max >= 295_000.0, "the stall is seen: {summary:?}");
    // 300 of 600 operations were due while the server stood still: the middle one of those waited
    // for half of the stall. Timing from the send would show about one slow operation in 150.
    let ninetieth = summary.p90;
    assert!(ninetieth >= stall.as_secs_f64() * 1e6 * 0.6, "nothing is left out: {summary:?}");
    assert!(measured.backlog_max >= 250, "it queued: {}", measured.backlog_max);
    assert!(measured.send_late.summary().max >= 250_000.0);
    let [second] = &measured.series.0[..] else { panic!("{:?}", measured.series.0.len()) };
    assert_eq!((second.latency.len(), second.errors), (600, 0));
    assert!(second.quantile_us(1.0).unwrap() >= 295_000.0, "and seen in its second");
}

#[test]
fn a_broken_connection_leaves_its_operations_unknown_and_is_made_anew() {
    let address = server(|number, mut stream| {
        for _ in 0..50 {
            if !answer_ping(&mut stream) {
                return;
            }
        }
        // The first connection takes one more request and ends without an answer.
        if number == 0 {
            let mut request = [0; PING];
            stream.read_exact(&mut request).unwrap();
            return;
        }
        while answer_ping(&mut stream) {}
    });
    let (pings, measured) =
        drive(options(address, Pace::Closed), Pings::default(), &Shared::default()).unwrap();
    check_complete(&pings);
    assert!((1..=4).contains(&pings.unknown.len()), "{:?}", pings.unknown);
    assert_eq!(measured.errors["connection_lost"], pings.unknown.len() as u64);
    assert_eq!(measured.reconnects, 1);
    assert!(pings.answered.len() > 100, "it went on: {}", pings.answered.len());
}

#[test]
fn a_silent_server_is_given_up_after_the_time_out() {
    let address = server(|_, mut stream| {
        let mut everything = Vec::new();
        stream.read_to_end(&mut everything).ok();
    });
    let mut options = options(address, open(100.0));
    options.timeout = Duration::from_millis(150);
    let (pings, measured) = drive(options, Pings::default(), &Shared::default()).unwrap();
    check_complete(&pings);
    assert_eq!((measured.ops, pings.answered.len()), (0, 0));
    assert!(measured.errors["timeout"] >= 8, "{:?}", measured.errors);
    assert!(measured.reconnects >= 2, "{}", measured.reconnects);
}

#[test]
fn a_run_without_an_end_in_time_ends_with_its_workload() {
    let address = server(|_, mut stream| while answer_ping(&mut stream) {});
    for pace in [Pace::Closed, open(2000.0)] {
        let options = DriverOptions { window: None, ..options(address, pace) };
        let pings = Pings { limit: Some(123), ..Pings::default() };
        let (pings, measured) = drive(options, pings, &Shared::default()).unwrap();
        check_complete(&pings);
        assert_eq!((pings.answered.len(), measured.ops), (123, 123));
        assert!(measured.series.0.is_empty(), "nobody looks at its seconds");
    }
}

#[test]
fn a_server_that_is_not_there_costs_nothing_but_what_was_due() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = options(gone, open(100.0));
    options.timeout = Duration::from_millis(200);
    let (pings, measured) = drive(options, Pings::default(), &Shared::default()).unwrap();
    assert_eq!((pings.sent, measured.errors["unsent"]), (0, 60));
}

#[test]
fn error_replies_are_counted_by_kind_and_do_not_make_a_busy_loop() {
    let address = server(|_, mut stream| {
        let mut request = [0; PING];
        while stream.read_exact(&mut request).is_ok() {
            if stream.write_all(b"-BUSY try again\r\n").is_err() {
                return;
            }
        }
    });
    let (pings, measured) =
        drive(options(address, Pace::Closed), Pings::default(), &Shared::default()).unwrap();
    check_complete(&pings);
    assert_eq!(measured.ops, 0);
    assert_eq!(measured.errors["BUSY"], pings.sent);
    let told: u64 = measured.series.0.iter().map(|second| second.errors).sum();
    assert!(told > 0 && told <= pings.sent, "{told} in the window of {}", pings.sent);
    assert!(pings.sent < 5_000, "{} in 0.6 s", pings.sent);
}

#[test]
fn stopping_early_waits_for_what_is_in_flight_only() {
    let address = server(|_, mut stream| while answer_ping(&mut stream) {});
    let shared = Shared::default();
    shared.stop.store(true, Ordering::Relaxed);
    let mut options = options(address, open(100.0));
    options.window = Some(Duration::from_secs(600));
    let started = Instant::now();
    let (pings, measured) = drive(options, Pings::default(), &shared).unwrap();
    check_complete(&pings);
    assert_eq!(measured.errors_total(), 0);
    assert!(started.elapsed() < Duration::from_secs(5));
}
