//! A run of several drivers, each on a thread of its own, and the thread that waits for them:
//! splits the load, watches, stops early, joins the figures. One per run.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::driver::{DriverOptions, Pace, Shared, drive};
use super::report::Measured;
use super::routes::Routes;
use super::schedule::{Arrival, Schedule};
use super::workload::Workload;

/// The load of a whole run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Connections are spread over these in turn.
    pub addresses: Vec<SocketAddr>,
    /// Sends each operation to the node that leads its key, by these; each client has a connection
    /// to every node then, and `addresses` does not matter.
    pub routes: Option<Arc<Routes>>,
    /// Clients of all drivers.
    pub clients: usize,
    /// Most operations in flight per client.
    pub pipeline: usize,
    /// Operations per second of all drivers; `None`: closed loop.
    pub rate: Option<f64>,
    /// How an open loop's operations lie in time.
    pub arrival: Arrival,
    /// See [`DriverOptions::warmup`].
    pub warmup: Duration,
    /// See [`DriverOptions::window`].
    pub window: Option<Duration>,
    /// See [`DriverOptions::timeout`].
    pub timeout: Duration,
    /// The same seed gives the same operations.
    pub seed: u64,
}

impl RunOptions {
    fn share(&self, share: usize, shares: usize) -> DriverOptions {
        let number = |n: usize| u32::try_from(n).expect("invariant: few drivers");
        let clients = (share..self.clients.max(shares)).step_by(shares);
        let connections = match &self.routes {
            Some(routes) => clients.flat_map(|_| routes.addresses()).copied().collect(),
            None => clients.map(|at| self.addresses[at % self.addresses.len()]).collect(),
        };
        let seed = self.seed.wrapping_add(share as u64);
        let pace = self.rate.map_or(Pace::Closed, |rate| {
            Pace::Open(Schedule::new(rate, self.arrival, number(share), number(shares), seed))
        });
        DriverOptions {
            connections,
            routes: self.routes.clone(),
            pipeline: self.pipeline,
            pace,
            warmup: self.warmup,
            window: self.window,
            timeout: self.timeout,
        }
    }
}

/// Drivers at work.
#[derive(Debug)]
pub struct Running<W> {
    threads: Vec<JoinHandle<io::Result<(W, Measured)>>>,
    shared: Vec<Arc<Shared>>,
}

/// What carries a workload to servers: [`drive`] speaks the Redis protocol.
pub type Carrier<W> = fn(DriverOptions, W, &Shared) -> io::Result<(W, Measured)>;

/// Starts one driver per workload.
///
/// # Errors
/// If a thread cannot be started.
pub fn start<W: Workload + 'static>(
    options: &RunOptions,
    workloads: Vec<W>,
) -> io::Result<Running<W>> {
    start_with(options, workloads, drive)
}

/// The same by another carrier.
///
/// # Errors
/// If a thread cannot be started.
pub fn start_with<W: Workload + 'static>(
    options: &RunOptions,
    workloads: Vec<W>,
    carry: Carrier<W>,
) -> io::Result<Running<W>> {
    assert!(!workloads.is_empty() && !options.addresses.is_empty() && options.pipeline > 0);
    let shares = workloads.len();
    let mut running = Running { threads: Vec::new(), shared: Vec::new() };
    for (share, workload) in workloads.into_iter().enumerate() {
        let shared = Arc::new(Shared::default());
        running.shared.push(Arc::clone(&shared));
        let options = options.share(share, shares);
        let name = format!("driver-{share}");
        let body = move || carry(options, workload, &shared);
        running.threads.push(std::thread::Builder::new().name(name).spawn(body)?);
    }
    Ok(running)
}

impl<W> Running<W> {
    /// Operations that ended without an error so far.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.shared.iter().map(|shared| shared.completed.load(Ordering::Relaxed)).sum()
    }

    /// Errors so far.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.shared.iter().map(|shared| shared.errors.load(Ordering::Relaxed)).sum()
    }

    /// Tells the drivers to send nothing more.
    pub fn stop(&self) {
        for shared in &self.shared {
            shared.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Whether all drivers have ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the drivers' end; returns their workloads and the joined figures.
    ///
    /// # Errors
    /// If a driver failed or panicked.
    pub fn join(self) -> io::Result<(Vec<W>, Measured)> {
        let mut workloads = Vec::new();
        let mut measured = Measured::default();
        for thread in self.threads {
            let ended = thread.join().map_err(|_| io::Error::other("a load driver panicked"))?;
            let (workload, part) = ended?;
            workloads.push(workload);
            measured.merge(&part);
        }
        Ok((workloads, measured))
    }
}

/// The address of a `host:port` text.
///
/// # Errors
/// If it names none.
pub fn resolve(text: &str) -> io::Result<SocketAddr> {
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("\"{text}\" is no address (host:port): {error}"))
    };
    let mut addresses = text.to_socket_addrs().map_err(explain)?;
    addresses.next().ok_or_else(|| explain(io::Error::other("the name has no address")))
}
