//! Timers of one thread: a sorted map that the loop looks at before it sleeps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{Core, current};

/// When, and a number that tells apart those of one instant.
type Key = (Instant, u64);

/// The timers that have not yet gone off.
#[derive(Default)]
pub(super) struct Timers {
    wakers: RefCell<BTreeMap<Key, Waker>>,
    next: Cell<u64>,
}

impl Timers {
    fn add(&self, due: Instant, waker: Waker) -> Key {
        let key = (due, self.next.get());
        self.next.set(key.1 + 1);
        self.wakers.borrow_mut().insert(key, waker);
        key
    }

    /// When the first goes off.
    pub(super) fn next(&self) -> Option<Instant> {
        self.wakers.borrow().first_key_value().map(|(key, _)| key.0)
    }

    pub(super) fn wake_due(&self, now: Instant) {
        while self.next().is_some_and(|due| due <= now) {
            let first = self.wakers.borrow_mut().pop_first();
            if let Some((_, waker)) = first {
                waker.wake();
            }
        }
    }

    pub(super) fn take(&self) -> BTreeMap<Key, Waker> {
        self.wakers.take()
    }
}

/// A wait that [`sleep`] began. Dropping it ends it.
pub struct Sleep {
    core: Rc<Core>,
    due: Instant,
    key: Option<Key>,
}

/// Waits for a time, of the monotonic clock. Nothing is exact: it may take longer, never less.
///
/// # Panics
/// When the thread runs no runtime.
#[must_use]
pub fn sleep(time: Duration) -> Sleep {
    Sleep { core: current(), due: Instant::now() + time, key: None }
}

impl Sleep {
    fn forget(&mut self) {
        if let Some(key) = self.key.take() {
            self.core.timers.wakers.borrow_mut().remove(&key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.forget();
        if self.due <= Instant::now() {
            return Poll::Ready(());
        }
        self.key = Some(self.core.timers.add(self.due, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("due", &self.due).finish_non_exhaustive()
    }
}
