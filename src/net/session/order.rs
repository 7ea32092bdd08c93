//! Which commands of one connection may be under way together. One per connection.
//!
//! A client that pipelines must see its commands take effect in the order in which it sent them.
//! The backend keeps the order of writes to one range; reads take another way and may overtake or
//! be overtaken. So a read waits for the writes that are under way on its keys, and a write for the
//! reads. Commands on different keys do not wait for each other: a client sees no order between
//! those, as long as it does not compare with what another client sees meanwhile.

use oarlock_store::{Command, Keys};
use oarlock_types::FastMap;

/// What a command does to which keys. Keys are known by hashes: two that collide wait for each
/// other, which is needless and harmless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    #[default]
    None,
    /// Reads or writes one key.
    One { key: u64, write: bool },
    /// Reads or writes several keys.
    Many { keys: Vec<u64>, write: bool },
    /// Reads every key.
    Everything,
}

/// Seeds of the keys' hashes: any will do.
const SEEDS: [u64; 4] = [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344];

fn hash(key: &[u8]) -> u64 {
    ahash::RandomState::with_seeds(SEEDS[0], SEEDS[1], SEEDS[2], SEEDS[3]).hash_one(key)
}

impl Access {
    /// What one command does.
    pub(super) fn of(command: &Command) -> Self {
        let write = !command.is_read();
        match command.keys() {
            Keys::One(key) => Self::One { key: hash(key), write },
            Keys::Many(_) | Keys::Pairs(_) => Self::of_all([command]),
            Keys::None => Self::Everything,
        }
    }

    /// What several commands do that are carried out as one.
    pub(super) fn of_all<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut hashes = Vec::new();
        let mut write = false;
        for command in commands {
            write |= !command.is_read();
            hashes.extend(command.keys().iter().map(|key| hash(key)));
        }
        Self::several(hashes, write)
    }

    /// Reads of keys.
    pub(super) fn reads<'a>(read: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::several(read.into_iter().map(hash).collect(), false)
    }

    /// This, and reads of more keys.
    pub(super) fn and_reads<'a>(self, read: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut hashes, write) = match self {
            Self::Many { keys, write } => (keys, write),
            Self::One { key, write } => (vec![key], write),
            Self::None | Self::Everything => (Vec::new(), false),
        };
        hashes.extend(read.into_iter().map(hash));
        Self::several(hashes, write)
    }

    fn several(mut keys: Vec<u64>, write: bool) -> Self {
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() { Self::None } else { Self::Many { keys, write } }
    }
}

/// Commands under way on one key.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    reads: u32,
    writes: u32,
}

/// The commands under way.
#[derive(Debug, Default)]
pub(super) struct Order {
    lanes: FastMap<u64, Lane>,
    /// Commands under way that write something.
    writes: u32,
    /// Commands under way that read everything.
    everything: u32,
}

impl Order {
    /// Whether a command may start now.
    pub(super) fn admits(&self, access: &Access) -> bool {
        match access {
            Access::None => true,
            Access::One { key, write } => self.admits_key(*key, *write),
            Access::Many { keys, write } => keys.iter().all(|key| self.admits_key(*key, *write)),
            Access::Everything => self.writes == 0,
        }
    }

    fn admits_key(&self, key: u64, write: bool) -> bool {
        let lane = self.lanes.get(&key).copied().unwrap_or_default();
        if write { lane.reads == 0 && self.everything == 0 } else { lane.writes == 0 }
    }

    /// Notes that a command has started.
    pub(super) fn enter(&mut self, access: &Access) {
        match access {
            Access::None => {}
            Access::One { key, write } => {
                self.enter_key(*key, *write);
                self.writes += u32::from(*write);
            }
            Access::Many { keys, write } => {
                keys.iter().for_each(|key| self.enter_key(*key, *write));
                self.writes += u32::from(*write);
            }
            Access::Everything => self.everything += 1,
        }
    }

    fn enter_key(&mut self, key: u64, write: bool) {
        let lane = self.lanes.entry(key).or_default();
        *(if write { &mut lane.writes } else { &mut lane.reads }) += 1;
    }

    /// Notes that a command has ended.
    pub(super) fn leave(&mut self, access: &Access) {
        match access {
            Access::None => {}
            Access::One { key, write } => {
                self.leave_key(*key, *write);
                self.writes -= u32::from(*write);
            }
            Access::Many { keys, write } => {
                keys.iter().for_each(|key| self.leave_key(*key, *write));
                self.writes -= u32::from(*write);
            }
            Access::Everything => self.everything -= 1,
        }
    }

    fn leave_key(&mut self, key: u64, write: bool) {
        let lane = self.lanes.get_mut(&key).expect("invariant: a command leaves where it entered");
        *(if write { &mut lane.writes } else { &mut lane.reads }) -= 1;
        if lane.reads == 0 && lane.writes == 0 {
            self.lanes.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &[u8], write: bool) -> Access {
        Access::One { key: hash(key), write }
    }

    #[test]
    fn reads_and_writes_of_a_key_exclude_each_other() {
        let mut order = Order::default();
        order.enter(&one(b"a", true));
        assert!(order.admits(&one(b"a", true)));
        assert!(!order.admits(&one(b"a", false)));
        assert!(order.admits(&one(b"b", false)));
        assert!(!order.admits(&Access::Everything));
        assert!(!order.admits(&Access::reads([b"b".as_slice(), b"a"])));
        order.leave(&one(b"a", true));
        order.enter(&Access::reads([b"a".as_slice(), b"a", b"b"]));
        assert!(order.admits(&Access::Everything));
        assert!(!order.admits(&one(b"b", true)));
        order.leave(&Access::reads([b"a".as_slice(), b"a", b"b"]));
        order.enter(&Access::Everything);
        assert!(!order.admits(&one(b"c", true)));
        order.leave(&Access::Everything);
        assert!(order.admits(&one(b"c", true)));
        assert!(order.lanes.is_empty());
    }
}
