//! The end of each demo: every key that was written is read back, and judged.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::DemoError;
use crate::bench::ledger::Ledger;
use crate::bench::run::{self, RunOptions};
use crate::bench::schedule::Arrival;
use crate::bench::verify::{Findings, ReadBack};

const CONNECTIONS: usize = 48;

/// What was read back.
#[derive(Default)]
pub(super) struct ReadAll {
    /// Acknowledged writes in all.
    pub(super) acknowledged: u64,
    /// Keys that were read back.
    pub(super) keys: u64,
    /// What was wrong.
    pub(super) findings: Findings,
}

impl ReadAll {
    /// Reads all keys of a ledger back, through these nodes.
    pub(super) fn read(
        &mut self,
        ledger: Ledger,
        addresses: Vec<SocketAddr>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(), DemoError> {
        self.acknowledged += ledger.acked_total();
        self.keys += ledger.acked_keys() as u64;
        let options = RunOptions {
            routes: None,
            addresses,
            clients: CONNECTIONS.min(ledger.len()),
            pipeline: 16,
            rate: None,
            arrival: Arrival::Poisson,
            warmup: Duration::ZERO,
            window: None,
            timeout: Duration::from_secs(6),
            seed: 1,
        };
        let running = run::start(&options, vec![ReadBack::new(ledger)])?;
        while !running.is_finished() {
            if interrupted() {
                running.stop();
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let (mut workloads, _) = running.join()?;
        let read_back = workloads.remove(0);
        if read_back.unread() > 0 {
            let what = format!("{} keys could not be read back", read_back.unread());
            return Err(io::Error::other(what).into());
        }
        self.findings.merge(read_back.findings);
        Ok(())
    }

    /// Says what was found.
    pub(super) fn tell(&self) -> Result<(), DemoError> {
        if self.findings.count == 0 {
            println!(
                "read back: all {} acknowledged writes, over {} keys, are there or were \
                 overwritten by later ones",
                self.acknowledged, self.keys
            );
            return Ok(());
        }
        for violation in &self.findings.first {
            println!("  wrong: {}: {}", violation.key, violation.what);
        }
        Err(DemoError::Lost(format!("{} keys or reads are wrong", self.findings.count)))
    }
}
