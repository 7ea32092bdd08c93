//! A server of the Redis protocol with a known capacity: it serves one command after the other,
//! whichever connection brings it, and takes the same time for each. It answers `+OK` to everything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Starts one that answers so many commands per second at most. It ends with the test.
pub(crate) fn serve(commands_per_s: u32) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = Duration::from_secs(1) / commands_per_s;
    let free_at = Arc::new(Mutex::new(Instant::now()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, free_at) = (stream.unwrap(), Arc::clone(&free_at));
            std::thread::spawn(move || connection(stream, service, &free_at));
        }
    });
    address
}

/// Reads commands as they come, so that a moment without a CPU costs no capacity, and lets each reply
/// go when its service has ended.
fn connection(stream: TcpStream, service: Duration, free_at: &Mutex<Instant>) {
    let (served, ends) = mpsc::channel::<Instant>();
    let mut replies = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        // Nothing ever comes: what is waited for is the moment.
        let (_open, clock) = mpsc::channel::<()>();
        for end in ends {
            let _ = clock.recv_timeout(end.saturating_duration_since(Instant::now()));
            if replies.write_all(b"+OK\r\n").is_err() {
                return;
            }
        }
    });
    let mut stream = BufReader::new(stream);
    while read_command(&mut stream).is_some() {
        let mut free_at = free_at.lock().unwrap();
        *free_at = (*free_at).max(Instant::now()) + service;
        if served.send(*free_at).is_err() {
            return;
        }
    }
}

/// An array of byte strings; nothing at the connection's end.
fn read_command(stream: &mut impl BufRead) -> Option<()> {
    for _ in 0..number(stream, '*')? {
        let bytes = number(stream, '$')? + 2;
        std::io::copy(&mut stream.take(bytes), &mut std::io::sink()).ok()?;
    }
    Some(())
}

fn number(stream: &mut impl BufRead, kind: char) -> Option<u64> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(kind)?.parse().ok()
}
