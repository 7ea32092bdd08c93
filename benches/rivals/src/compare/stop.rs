//! The wish to stop: Ctrl-C, SIGTERM, SIGHUP. Everything that waits, waits here, so that a run ends
//! soon after, and what it has started and written goes the usual way out.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Whether to stop.
pub struct Stop {
    wanted: Arc<AtomicBool>,
    told: Receiver<()>,
}

impl Stop {
    /// Listens for the signals.
    ///
    /// # Errors
    /// If that is refused.
    pub fn on_signals() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let wanted = Arc::new(AtomicBool::new(false));
        let (tell, told) = channel();
        let flag = Arc::clone(&wanted);
        std::thread::spawn(move || {
            for _ in signals.forever() {
                flag.store(true, Ordering::Relaxed);
                if tell.send(()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { wanted, told })
    }

    /// Whether it is wanted.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Goes on unless it is wanted.
    ///
    /// # Errors
    /// If it is.
    pub fn check(&self) -> io::Result<()> {
        if self.is_wanted() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// Waits so long.
    ///
    /// # Errors
    /// If a stop is wanted before.
    pub fn rest(&self, time: Duration) -> io::Result<()> {
        self.check()?;
        match self.told.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    /// Waits for a child's end; ends it if a stop is wanted.
    ///
    /// # Errors
    /// If a stop is wanted.
    pub fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if let Err(error) = self.rest(LOOK) {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        }
    }
}
