//! The two clocks of a node. Everything below `shards/` is handed their readings.

use std::time::{SystemTime, UNIX_EPOCH};

use oarlock_types::{Mono, WallMs};
use rustix::time::{ClockId, clock_gettime};

/// Reads the clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Now, for decisions: `CLOCK_BOOTTIME`, which goes on while the machine is suspended, so that
    /// promises run out although nobody was there to see it.
    #[must_use]
    pub fn mono(self) -> Mono {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Mono(seconds * 1_000_000 + nanos / 1000)
    }

    /// Now, for stamps.
    #[must_use]
    pub fn wall(self) -> WallMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMs(u64::try_from(since.as_millis()).unwrap_or(0))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn wall_us(self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(0)
    }

    /// Both.
    #[must_use]
    pub fn read(self) -> (Mono, WallMs) {
        (self.mono(), self.wall())
    }
}
