//! Wakes from other threads: a queue of tasks and an eventfd that ends the sleep of their thread.
//!
//! Why no wake is lost. The sleeper (a) sets `is_asleep`, (b) fences, (c) looks at the queue once
//! more. A waker (1) pushes, (2) fences, (3) takes `is_asleep`, and if it was set, rings. Both
//! fences are sequentially consistent, so one is first: if (b) is, (3) sees what (a) wrote; if (2)
//! is, (c) sees what (1) pushed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use async_task::Runnable;
use crossbeam_queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};

/// The part of a runtime that other threads reach.
pub(super) struct Remote {
    /// Unbounded, yet never longer than there are tasks: a task that is scheduled is not scheduled
    /// again before it ran.
    queue: SegQueue<Runnable>,
    is_asleep: AtomicBool,
    event: OwnedFd,
}

impl Remote {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { queue: SegQueue::new(), is_asleep: AtomicBool::new(false), event })
    }

    /// Queues a task and ends its thread's sleep. Any thread may call it.
    pub(super) fn send(&self, task: Runnable) {
        self.queue.push(task);
        fence(Ordering::SeqCst);
        if self.is_asleep.load(Ordering::Relaxed) && self.is_asleep.swap(false, Ordering::AcqRel) {
            // It takes one more unless it is near overflow, and then it is readable anyway.
            let _ = rustix::io::write(&self.event, &1_u64.to_le_bytes());
        }
    }

    /// Takes the tasks that were woken from elsewhere.
    pub(super) fn take(&self, mut each: impl FnMut(Runnable)) {
        // As many as there were at first: wakers that never rest must not hold the loop.
        for _ in 0..self.queue.len() {
            let Some(task) = self.queue.pop() else { return };
            each(task);
        }
    }

    /// Whether the thread may sleep; from here on a waker rings.
    pub(super) fn fall_asleep(&self) -> bool {
        self.is_asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.queue.is_empty()
    }

    pub(super) fn wake_up(&self) {
        self.is_asleep.store(false, Ordering::Relaxed);
    }

    /// The eventfd that is written to when the thread's sleep must end. Nobody reads it: the ring
    /// tells each write.
    pub(super) fn bell(&self) -> i32 {
        self.event.as_raw_fd()
    }
}

impl Drop for Remote {
    /// What was woken after its thread had ended must not be dropped on another: it stays.
    fn drop(&mut self) {
        while let Some(task) = self.queue.pop() {
            std::mem::forget(task);
        }
    }
}
