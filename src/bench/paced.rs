//! Writes at a rate, one key after the other, each told with when it was due and when it was answered: for looks
//! at single moments, which the figures of a [`run`](super::run) have no place for. An open loop: what is due while
//! an answer is awaited is sent late, and its time runs from when it was due. A few threads with a connection
//! each; not for high rates.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::client::Client;

/// Connections that write, each in its turn.
const WRITERS: u32 = 16;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Paced<'a> {
    /// The writers are spread over these.
    pub addresses: &'a [SocketAddr],
    /// Written in turn.
    pub keys: &'a [Vec<u8>],
    /// The value of each.
    pub value: &'a [u8],
    /// Writes per second of all writers.
    pub rate: u32,
}

/// One write that was answered.
#[derive(Clone, Debug)]
pub struct Write {
    /// When it was to be sent.
    pub due: Instant,
    /// When its answer came.
    pub answered: Instant,
    /// The answer, unless it was carried out.
    pub refusal: Option<String>,
}

impl Write {
    /// From the intended time to the answer.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.answered.saturating_duration_since(self.due)
    }
}

impl Paced<'_> {
    /// Writes as long as `goes_on` says so of the time at which the next one is due; returns all writes in the order
    /// of their answers.
    ///
    /// # Errors
    /// If a connection breaks, or a write is not answered within half a minute.
    pub fn run(&self, goes_on: &(impl Fn(Instant) -> bool + Sync)) -> io::Result<Vec<Write>> {
        let began = Instant::now();
        let all: io::Result<Vec<Vec<Write>>> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| scope.spawn(move || self.write(writer, began, goes_on)))
                .collect();
            let ended = writers.into_iter().map(|writer| {
                writer.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
            });
            ended.collect()
        });
        let mut all = all?.concat();
        all.sort_by_key(|write| write.answered);
        Ok(all)
    }

    fn write(
        &self,
        writer: u32,
        began: Instant,
        goes_on: &impl Fn(Instant) -> bool,
    ) -> io::Result<Vec<Write>> {
        // The kernel's default slack of 50 µs would make every write late by as much.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let place = writer as usize;
        let mut client =
            Client::connect(self.addresses[place % self.addresses.len()], CALL_TIMEOUT)?;
        let mut keys = self.keys.iter().cycle().skip(place).step_by(WRITERS as usize);
        let distance = |writes: u32| Duration::from_secs(1) * writes / self.rate.max(1);
        let mut due = began + distance(writer);
        let mut writes = Vec::new();
        while goes_on(due) {
            let Some(key) = keys.next() else { break };
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let answer = client.call(&[b"SET", key, self.value])?;
            let refusal = (!answer.is_ok()).then(|| answer.to_string());
            writes.push(Write { due, answered: Instant::now(), refusal });
            due += distance(WRITERS);
        }
        Ok(writes)
    }
}

/// Times in microseconds.
#[must_use]
pub fn histogram(times: impl Iterator<Item = Duration>) -> Histogram<u64> {
    let mut all = Histogram::new(3).expect("invariant: a valid number of digits");
    for time in times {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        all.record(us).expect("invariant: it grows as it must");
    }
    all
}

/// A percentile of a [`histogram`] in milliseconds.
#[must_use]
pub fn ms(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile).min(times.max()) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Answers commands that all have the same length; the one of this number late, the next with an error.
    fn serve(mut stream: TcpStream, command: usize, served: &AtomicU32, late: &Mutex<()>) {
        let mut request = vec![0; command];
        while stream.read_exact(&mut request).is_ok() {
            let answer = match served.fetch_add(1, Ordering::Relaxed) {
                40 => {
                    drop(late.lock().unwrap());
                    "+OK\r\n"
                }
                41 => "-BUSY later\r\n",
                _ => "+OK\r\n",
            };
            stream.write_all(answer.as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_late_answer_delays_what_is_due_behind_it_and_a_refusal_is_kept() {
        let (served, late) = (AtomicU32::new(0), Mutex::new(()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [listener.local_addr().unwrap()];
        let keys = [b"key".to_vec()];
        let command = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\nv\r\n".len();
        let paced = Paced { addresses: &addresses, keys: &keys, value: b"v", rate: 1000 };
        let held = Duration::from_millis(100);
        let writes = std::thread::scope(|scope| {
            let guard = late.lock().unwrap();
            let writes = scope.spawn(|| {
                let begun = AtomicU32::new(0);
                paced.run(&|_| begun.fetch_add(1, Ordering::Relaxed) < 300).unwrap()
            });
            for _ in 0..WRITERS {
                let stream = listener.accept().unwrap().0;
                let (served, late) = (&served, &late);
                scope.spawn(move || serve(stream, command, served, late));
            }
            while served.load(Ordering::Relaxed) <= 40 {
                std::thread::yield_now();
            }
            let (_open, clock) = std::sync::mpsc::channel::<()>();
            clock.recv_timeout(held).unwrap_err();
            drop(guard);
            writes.join().unwrap()
        });
        assert_eq!(writes.len(), 300, "none is left out");
        let delayed = writes.iter().filter(|write| write.latency() >= held / 2);
        assert!(delayed.count() >= 3, "one was held, and those of its connection came late");
        let refused: Vec<_> = writes.iter().filter_map(|write| write.refusal.as_deref()).collect();
        assert_eq!(refused, ["error \"BUSY later\""]);
        assert!(writes.is_sorted_by_key(|write| write.answered));
        let times = histogram(writes.iter().map(Write::latency));
        assert!(ms(&times, 1.0) >= 90.0 && ms(&times, 0.0) < ms(&times, 1.0));
    }
}
