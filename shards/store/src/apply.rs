//! Carries committed entries out: order, time, request ids, watches. One store at a time.
//!
//! It must not look at anything but the store and the entry: replicas must come to the same state.

use bytes::Bytes;
use oarlock_types::{Guard, Index, WallMs};

use crate::command::{Batch, Request, Watch};
use crate::once::OnceRecord;
use crate::reply::{ErrorReply, Reply};
use crate::reply_bytes::{read_reply, write_reply};
use crate::store::Store;

/// Expired keys and overdue ids that any entry removes.
const SWEEP_MIN: usize = 16;
/// How many more it removes for each of its commands: over one, so that they go faster than they
/// can come.
const SWEEP_PER_COMMAND: usize = 2;
/// What an entry without a request removes: it was proposed for that alone. About 100 µs.
const SWEEP_EMPTY: usize = 256;

impl Store {
    /// Applies one committed entry and pushes one reply for each of its requests, in their order.
    ///
    /// The batch must come from [`crate::decode`]: keys and values are kept as they are, and a slice
    /// of a larger buffer would keep that alive.
    ///
    /// # Panics
    /// If `index` is not above [`Store::applied`]: an entry applied twice is a lost state.
    pub fn apply(&mut self, index: Index, batch: Batch, replies: &mut Vec<Reply>) {
        self.pass(index);
        self.stamp = self.stamp.max(batch.stamp);
        let commands: usize = batch.requests.iter().map(|request| request.commands.len()).sum();
        let budget = match commands {
            0 => SWEEP_EMPTY,
            commands => SWEEP_MIN + SWEEP_PER_COMMAND * commands,
        };
        self.sweep(budget);
        for request in batch.requests {
            let reply = self.carry_out(request);
            replies.push(reply);
        }
    }

    /// Passes over an entry that holds no batch. A checkpoint names the entry that it ends with.
    ///
    /// # Panics
    /// As [`Store::apply`].
    pub fn pass(&mut self, index: Index) {
        assert!(index > self.applied, "entry {index} is applied after {}", self.applied);
        self.applied = index;
    }

    /// Answers a request that changes nothing, as of `now` or the store's time if that is later.
    ///
    /// # Panics
    /// If the request is not a read ([`Request::is_read`]).
    #[must_use]
    pub fn read(&self, request: &Request, now: WallMs) -> Reply {
        assert!(request.is_read(), "a request that writes needs a log entry");
        let now = now.max(self.stamp);
        if !self.watches_hold(&request.watches, now) {
            return Reply::Nil;
        }
        let replies = request.commands.iter().map(|command| {
            self.query(command, now).expect("invariant: all commands of a read are reads")
        });
        gather(request.transaction, replies)
    }

    /// Removes what has ended, `budget` keys and as many ids at most, oldest first, and frees as
    /// many pre-images of a checkpoint that was given up.
    fn sweep(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(key) = self.expiry.first_due(self.stamp).cloned() else { break };
            self.remove(&key);
        }
        for _ in 0..budget {
            if !self.oldest_once_is_older_than(self.limits.once_keep_ms) {
                break;
            }
            self.evict_once();
        }
        self.free_debris(budget);
    }

    fn carry_out(&mut self, request: Request) -> Reply {
        let id = request.once.as_ref().filter(|_| Guard::OnceIsOnce.is_on());
        let Some(id) = id else { return self.run(request) };
        if let Some(kept) = self.once.get(id) {
            return read_reply(&kept.reply).expect("invariant: a kept reply was written by us");
        }
        if !self.make_room_for_once(id) {
            return Reply::Error(ErrorReply::OnceTableFull);
        }
        let id = id.clone();
        let reply = self.run(request);
        let mut bytes = Vec::new();
        write_reply(&reply, &mut bytes);
        self.once.push(OnceRecord { id, at: self.stamp, reply: Bytes::from(bytes) });
        reply
    }

    fn run(&mut self, request: Request) -> Reply {
        if !self.watches_hold(&request.watches, self.stamp) {
            return Reply::Nil;
        }
        let replies = request.commands.into_iter().map(|command| self.execute(command));
        gather(request.transaction, replies)
    }

    fn watches_hold(&self, watches: &[Watch], now: WallMs) -> bool {
        watches.iter().all(|watch| self.version(&watch.key, now) == watch.version)
    }

    /// Frees places for one more id as far as the promise to keep ids allows; whether there is one.
    fn make_room_for_once(&mut self, id: &[u8]) -> bool {
        loop {
            let fits = self.once.len() < self.limits.once_count_max
                && self.once.bytes() + id.len() as u64 <= self.limits.once_bytes_max;
            if fits {
                return true;
            }
            if !self.oldest_once_is_older_than(self.limits.once_keep_min_ms) {
                return false;
            }
            self.evict_once();
        }
    }

    fn oldest_once_is_older_than(&self, age_ms: u64) -> bool {
        self.once.first().is_some_and(|record| self.stamp.0 - record.at.0 >= age_ms)
    }

    fn evict_once(&mut self) {
        if let Some((sequence, record)) = self.once.pop_first()
            && let Some(checkpoint) = &mut self.checkpoint
        {
            checkpoint.before_eviction(sequence, record);
        }
    }
}

/// One reply out of the replies of a request's commands.
fn gather(transaction: bool, replies: impl Iterator<Item = Reply>) -> Reply {
    if transaction { Reply::Array(replies.collect()) } else { replies.last().unwrap_or(Reply::Nil) }
}
