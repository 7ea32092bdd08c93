//! What is put on a system, and for how long: the same for all, by `oarlock bench`.

use serde::{Deserialize, Serialize};

use super::system::System;

/// Bytes of a value.
pub const VALUE_BYTES: u32 = 128;
/// Keys that are drawn from, evenly.
const KEYS: u32 = 100_000;
/// Keys of the load that reads, which are all written before.
const KEYS_READ: u32 = 10_000;
/// Connections wherever the load's name says nothing else.
const CLIENTS: u32 = 64;
/// After which an operation counts as failed; what is still due then is not waited for any longer.
const TIMEOUT_S: u32 = 5;
/// The bound of the load that looks for a rate.
pub const HIGHEST_P99_US: f64 = 5_000.0;
/// Most runs of that search.
pub const SEARCH_TRIES: u32 = 9;

/// One load.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Open loop, 5,000 writes per second.
    #[value(name = "open-5k")]
    #[serde(rename = "open-5k")]
    Open5k,
    /// Open loop, 20,000 writes per second.
    #[value(name = "open-20k")]
    #[serde(rename = "open-20k")]
    Open20k,
    /// Closed loop, 64 connections, one write in flight on each.
    #[value(name = "closed-64")]
    #[serde(rename = "closed-64")]
    Closed64,
    /// Closed loop, 256 connections, one write in flight on each.
    #[value(name = "closed-256")]
    #[serde(rename = "closed-256")]
    Closed256,
    /// The highest rate of an open loop of writes whose p99 is under 5 ms.
    HighestRate,
    /// Open loop, 20,000 reads and 5,000 writes per second.
    Mixed,
    /// Oarlock alone: writes at 5,000 per second while a node that was killed comes back by snapshot.
    NodeReturn,
}

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// A run's window.
    pub window_s: f64,
    /// Before it.
    pub warmup_s: f64,
    /// The window of one try of a search.
    pub try_s: f64,
    /// Before it.
    pub try_warmup_s: f64,
}

impl Times {
    /// For figures.
    pub const FULL: Self = Self { window_s: 5.0, warmup_s: 1.0, try_s: 2.0, try_warmup_s: 0.5 };
    /// To see that everything runs.
    pub const QUICK: Self = Self { window_s: 2.0, warmup_s: 0.5, try_s: 1.0, try_warmup_s: 0.3 };
}

impl Load {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 7] = [
        Self::Open5k,
        Self::Open20k,
        Self::Closed64,
        Self::Closed256,
        Self::HighestRate,
        Self::Mixed,
        Self::NodeReturn,
    ];

    /// How the tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open5k => "open loop, 5k writes/s",
            Self::Open20k => "open loop, 20k writes/s",
            Self::Closed64 => "closed loop, 64 connections",
            Self::Closed256 => "closed loop, 256 connections",
            Self::HighestRate => "highest rate with p99 under 5 ms",
            Self::Mixed => "20k reads/s and 5k writes/s",
            Self::NodeReturn => "a node comes back by snapshot",
        }
    }

    /// Operations that are due per second, in an open loop of a known rate.
    pub fn rate(self) -> Option<f64> {
        match self {
            Self::Open5k => Some(5_000.0),
            Self::Open20k => Some(20_000.0),
            Self::Mixed => Some(25_000.0),
            Self::Closed64 | Self::Closed256 | Self::HighestRate | Self::NodeReturn => None,
        }
    }

    /// Whether a system is put under this load.
    pub fn is_for(self, system: System) -> bool {
        match self {
            Self::Mixed => system.takes_reads(),
            Self::NodeReturn => system == System::OarlockAny,
            Self::Open5k | Self::Open20k | Self::Closed64 | Self::Closed256 | Self::HighestRate => {
                true
            }
        }
    }

    /// About how long it takes on one system that runs, in seconds.
    pub fn run_s(self, times: &Times) -> f64 {
        let one = times.warmup_s + times.window_s;
        match self {
            Self::Open5k | Self::Closed64 | Self::Closed256 => one + 0.5,
            // Most of the rivals do not sustain it, and are waited for.
            Self::Open20k => one + 2.5,
            Self::Mixed => one + 3.0,
            Self::HighestRate => 4.0 * (times.try_s + times.try_warmup_s + 0.5),
            Self::NodeReturn => one + 25.0,
        }
    }

    /// The arguments of `oarlock bench`, without those that name the servers; a search gives the rate
    /// that it tries.
    pub fn bench_args(self, times: &Times, round: u32, tried: Option<f64>) -> Vec<String> {
        let (clients, keys) = match self {
            Self::Closed256 => (256, KEYS),
            Self::Mixed => (CLIENTS, KEYS_READ),
            Self::Open5k
            | Self::Open20k
            | Self::Closed64
            | Self::HighestRate
            | Self::NodeReturn => (CLIENTS, KEYS),
        };
        let (seconds, warmup) = match self {
            Self::HighestRate => (times.try_s, times.try_warmup_s),
            Self::Open5k
            | Self::Open20k
            | Self::Closed64
            | Self::Closed256
            | Self::Mixed
            | Self::NodeReturn => (times.window_s, times.warmup_s),
        };
        let mut line = format!(
            "--clients {clients} --keys {keys} --value-bytes {VALUE_BYTES} --seconds {seconds} \
             --warmup-seconds {warmup} --timeout-seconds {TIMEOUT_S} --seed {round} --allow-errors"
        );
        if let Some(rate) = tried.or(self.rate()) {
            line += &format!(" --rate {rate}");
        }
        if self == Self::Mixed {
            line += " --read-share 0.8 --fill";
        }
        line.split(' ').map(str::to_owned).collect()
    }
}
