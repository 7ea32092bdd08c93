//! Loads that have a name: the six core workloads of YCSB, the benchmark that key-value stores are
//! compared by, and writes alone. Pure.

use super::keys::Distribution;
use super::values::ValueBytes;
use super::workload::Shares;

/// A named load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Half reads, half writes, zipfian keys.
    YcsbA,
    /// 95 % reads, 5 % writes, zipfian keys.
    YcsbB,
    /// Reads alone, zipfian keys.
    YcsbC,
    /// 95 % reads of the latest keys, 5 % inserts.
    YcsbD,
    /// 95 % scans of 1 to 100 keys, 5 % inserts, zipfian keys. Runs against Oarlock only: it scans
    /// with OARLOCK SCAN.
    YcsbE,
    /// Half reads, half reads that a write of the same key follows as an operation of its own,
    /// zipfian keys.
    YcsbF,
    /// Writes alone, uniform keys.
    WriteOnly,
}

impl Preset {
    /// What its operations are.
    #[must_use]
    pub fn shares(self) -> Shares {
        let none = Shares::default();
        match self {
            Self::YcsbA => Shares { read: 0.5, ..none },
            Self::YcsbB => Shares { read: 0.95, ..none },
            Self::YcsbC => Shares { read: 1.0, ..none },
            Self::YcsbD => Shares { read: 0.95, insert: 0.05, ..none },
            Self::YcsbE => Shares { scan: 0.95, insert: 0.05, ..none },
            Self::YcsbF => Shares { read: 0.5, modify: 0.5, ..none },
            Self::WriteOnly => none,
        }
    }

    /// How it draws keys.
    #[must_use]
    pub fn distribution(self) -> Distribution {
        match self {
            Self::YcsbD => Distribution::Latest,
            Self::YcsbA | Self::YcsbB | Self::YcsbC | Self::YcsbE | Self::YcsbF => {
                Distribution::Zipfian
            }
            Self::WriteOnly => Distribution::Uniform,
        }
    }

    /// The size of its records, if it says: YCSB's have ten fields of a hundred bytes.
    #[must_use]
    pub fn value_bytes(self) -> Option<ValueBytes> {
        (self != Self::WriteOnly).then(|| ValueBytes::from(1000))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_preset_is_known_by_its_name_and_adds_up() {
        let names: Vec<String> = Preset::value_variants()
            .iter()
            .map(|preset| preset.to_possible_value().unwrap().get_name().to_owned())
            .collect();
        let ycsb = ["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f", "write-only"];
        assert_eq!(names, ycsb);
        for (preset, writes) in
            Preset::value_variants().iter().zip([0.5, 0.05, 0.0, 0.0, 0.0, 0.0, 1.0])
        {
            let Shares { read, modify, insert, scan } = preset.shares();
            let left = 1.0 - (read + modify + insert + scan);
            assert!((left - writes).abs() < 1e-9, "{preset:?} leaves {left}");
        }
    }
}
