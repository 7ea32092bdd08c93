//! What a core's tasks run on: one thread, one io_uring. The ring tells which sockets are ready,
//! carries the log's writes, and is the only place where the thread sleeps. One [`Runtime`] per
//! core.
//!
//! A pass of its loop: take the wakes of other threads, run what is ready, wake what is due, then
//! enter the kernel once, to hand over what was queued and to fetch, or sleep for, what has
//! completed. So a pass costs one system call besides those of the sockets themselves. Why it is
//! our own and not a crate's: `docs/decisions/0006-one-ring-per-core.md`.
//!
//! It must not know what its tasks do, and nothing here decides. All of it belongs to one thread,
//! but for `Remote`, by which other threads wake tasks.

mod remote;
mod ring;
mod socket;
mod timer;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use async_task::{Runnable, Task};

use remote::Remote;
use timer::Timers;

pub use ring::{Completion, Ring};
pub use socket::{TcpListener, TcpStream};
pub use timer::{Sleep, sleep};

/// Tasks that run before the kernel is asked again: a task that never rests must not keep the
/// others from their input.
const TASKS_PER_PASS: usize = 256;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// A thread's tasks, ring and timers.
pub(crate) struct Core {
    ready: RefCell<VecDeque<Runnable>>,
    pub(crate) ring: Rc<Ring>,
    timers: Timers,
    remote: Arc<Remote>,
    passes: Cell<u64>,
    /// Those that go on with the next pass.
    paused: RefCell<Vec<Waker>>,
}

/// Makes the runtime the thread's own while it lives.
struct Entered;

impl Entered {
    fn new(core: &Rc<Core>) -> Self {
        CURRENT.with(|current| {
            let before = current.borrow_mut().replace(Rc::clone(core));
            assert!(before.is_none(), "a runtime does not run within another");
        });
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // What hangs on the runtime may look for it while it goes.
        drop(CURRENT.with(|current| current.borrow_mut().take()));
    }
}

/// The runtime of this thread.
///
/// # Panics
/// When the thread runs none.
pub(crate) fn current() -> Rc<Core> {
    let core = CURRENT.with(|current| current.borrow().clone());
    core.expect("only the tasks of a runtime may call this")
}

/// Runs tasks on this thread. To be made and used on one thread.
pub struct Runtime {
    core: Rc<Core>,
}

impl Runtime {
    /// A runtime without tasks.
    ///
    /// # Errors
    /// When the kernel gives no ring or no eventfd.
    pub fn new() -> io::Result<Self> {
        let ring = Rc::new(Ring::new()?);
        let remote = Arc::new(Remote::new()?);
        let core = Rc::new(Core {
            ready: RefCell::default(),
            ring,
            timers: Timers::default(),
            remote,
            passes: Cell::new(0),
            paused: RefCell::default(),
        });
        Ok(Self { core })
    }

    /// Runs `root`, and all that it spawns, until `root` is done. Tasks that are left then are
    /// dropped.
    ///
    /// # Panics
    /// When a task panics, or the ring breaks.
    pub fn run<F>(self, root: F) -> F::Output
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let core = self.core;
        let _entered = Entered::new(&core);
        core.ring.watch_bell(core.remote.bell());
        let root = core.spawn(root);
        loop {
            core.run_ready();
            if root.is_finished() {
                break;
            }
            core.rest();
        }
        // Tasks own sockets, and both know the runtime: they go before it does.
        core.drop_tasks();
        futures_lite::future::block_on(root)
    }
}

impl Core {
    fn spawn<F>(self: &Rc<Self>, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let remote = Arc::clone(&self.remote);
        let (runnable, task) = async_task::spawn_local(future, move |task| {
            schedule(&remote, task);
        });
        runnable.schedule();
        task
    }

    fn run_ready(&self) {
        self.passes.set(self.passes.get() + 1);
        self.remote.take(|task| self.ready.borrow_mut().push_back(task));
        for _ in 0..TASKS_PER_PASS {
            let Some(task) = self.next_ready() else { break };
            task.run();
        }
    }

    /// Enters the kernel, to sleep there if there is nothing to do, and wakes whom it concerns.
    fn rest(&self) {
        let now = Instant::now();
        self.timers.wake_due(now);
        let is_quiet = self.ready.borrow().is_empty() && self.paused.borrow().is_empty();
        let is_idle = is_quiet && self.remote.fall_asleep();
        let wait =
            is_idle.then(|| self.timers.next().map(|due| due.saturating_duration_since(now)));
        self.ring.enter(wait);
        self.remote.wake_up();
        self.ring.reap();
        self.paused.borrow_mut().drain(..).for_each(Waker::wake);
    }

    fn next_ready(&self) -> Option<Runnable> {
        self.ready.borrow_mut().pop_front()
    }

    /// Drops all tasks: those that are ready, and those that wait, whose last waker goes and that
    /// are then scheduled to be dropped.
    fn drop_tasks(&self) {
        loop {
            drop(self.timers.take());
            drop(self.ring.take_wakers());
            drop(self.paused.take());
            self.remote.take(|task| self.ready.borrow_mut().push_back(task));
            let Some(task) = self.next_ready() else { return };
            drop(task);
        }
    }
}

/// Puts a task where its thread finds it.
fn schedule(remote: &Arc<Remote>, task: Runnable) {
    let mut task = Some(task);
    // The thread may be on its way out: then nothing local is left to be found.
    let _ = CURRENT.try_with(|current| {
        if let Some(core) = current.borrow().as_ref()
            && Arc::ptr_eq(&core.remote, remote)
        {
            core.ready.borrow_mut().extend(task.take());
        }
    });
    if let Some(task) = task {
        remote.send(task);
    }
}

/// Runs a future on this thread's runtime, beside the caller. Dropping the task ends it;
/// [`Task::detach`] lets it go on.
///
/// # Panics
/// When the thread runs no runtime.
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    current().spawn(future)
}

/// Hands what was queued for the kernel over now, and not only when the thread next rests: for a
/// write that should be under way while the caller goes on.
///
/// # Panics
/// When the thread runs no runtime, or the ring breaks.
pub fn flush() {
    current().ring.submit();
}

/// This thread's ring, for operations that the runtime does not offer.
///
/// # Panics
/// When the thread runs no runtime.
#[must_use]
pub fn ring() -> Rc<Ring> {
    Rc::clone(&current().ring)
}

/// Goes on with the next pass: for a task that has more to do than it may at once. All others that are ready have their
/// turn before it, and the kernel has: a task that were ready again at once would run many times before anybody heard
/// of what has come in.
///
/// # Panics
/// When the thread runs no runtime.
pub async fn next_pass() {
    let core = current();
    let begun = core.passes.get();
    poll_fn(|context| {
        if core.passes.get() > begun {
            return Poll::Ready(());
        }
        core.paused.borrow_mut().push(context.waker().clone());
        Poll::Pending
    })
    .await;
}

/// How often this thread's loop went round.
///
/// # Panics
/// When the thread runs no runtime.
#[must_use]
pub fn passes() -> u64 {
    current().passes.get()
}

#[cfg(test)]
mod tests;
