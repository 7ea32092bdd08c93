//! When an operation is due. One per driver. It never looks at a clock and never waits for
//! anybody: what is due is due, however late the sender or the server is. A latency that starts
//! here leaves nothing out.

use oarlock_types::Random;

/// How the intended send times of an open loop lie on the line of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrival {
    /// At equal distances.
    #[default]
    Fixed,
    /// Independent of each other (a Poisson process): many users who do not know of each other.
    Poisson,
}

/// A sequence of intended send times in nanoseconds since the driver's start.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate_per_s: f64,
    arrival: Arrival,
    start_ns: u64,
    count: u64,
    elapsed_ns: f64,
    random: Random,
}

impl Schedule {
    /// The schedule of driver number `share` of `shares`, which together send `rate_per_s`.
    /// Drivers of a fixed schedule are evenly out of phase.
    #[must_use]
    pub fn new(rate_per_s: f64, arrival: Arrival, share: u32, shares: u32, seed: u64) -> Self {
        assert!(rate_per_s > 0.0 && share < shares);
        let phase_ns = f64::from(share) * 1e9 / rate_per_s;
        let mut schedule = Self {
            rate_per_s: rate_per_s / f64::from(shares),
            arrival,
            start_ns: whole_ns(phase_ns),
            count: 0,
            elapsed_ns: 0.0,
            random: Random::new(seed),
        };
        if arrival == Arrival::Poisson {
            schedule.start_ns = 0;
            schedule.advance();
        }
        schedule
    }

    /// When the next operation is due.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        self.start_ns + whole_ns(self.elapsed_ns)
    }

    /// Goes on to the operation after it.
    pub fn advance(&mut self) {
        self.count += 1;
        match self.arrival {
            // From the count, not by adding: rounding must not drift over a long run.
            Arrival::Fixed => self.elapsed_ns = self.count as f64 * 1e9 / self.rate_per_s,
            Arrival::Poisson => {
                self.elapsed_ns -= (1.0 - unit(&mut self.random)).ln() * 1e9 / self.rate_per_s;
            }
        }
    }
}

/// A number in `0..1` with 53 random bits.
pub(crate) fn unit(random: &mut Random) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[allow(clippy::cast_possible_truncation, reason = "a run of 2^53 ns is 104 days")]
fn whole_ns(ns: f64) -> u64 {
    ns as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut schedule: Schedule, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        for _ in 0..count {
            times.push(schedule.due_ns());
            schedule.advance();
        }
        times
    }

    #[test]
    fn a_fixed_schedule_has_equal_distances_and_does_not_drift() {
        let times = times(Schedule::new(3000.0, Arrival::Fixed, 0, 1, 1), 3_000_001);
        assert_eq!(times[0], 0);
        assert_eq!(times[3000], 1_000_000_000);
        assert_eq!(times[3_000_000], 1_000_000_000_000);
        assert!(times.windows(2).all(|pair| (333_332..=333_334).contains(&(pair[1] - pair[0]))));
    }

    #[test]
    fn drivers_that_share_a_rate_fill_each_others_gaps() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|share| times(Schedule::new(1000.0, Arrival::Fixed, share, 4, 1), 250))
            .collect();
        all.sort_unstable();
        assert_eq!(all, times(Schedule::new(1000.0, Arrival::Fixed, 0, 1, 1), 1000));
    }

    #[test]
    fn a_poisson_schedule_keeps_its_rate_with_exponential_gaps() {
        let times = times(Schedule::new(10_000.0, Arrival::Poisson, 0, 1, 7), 200_001);
        let mean = *times.last().unwrap() as f64 / 200_000.0;
        assert!((mean - 100_000.0).abs() < 1_000.0, "mean gap {mean} ns");
        let longer = times.windows(2).filter(|pair| pair[1] - pair[0] > 100_000).count();
        let share = longer as f64 / 200_000.0;
        assert!((share - (-1.0f64).exp()).abs() < 0.01, "share of gaps over the mean: {share}");
    }
}
