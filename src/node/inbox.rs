//! Inboxes: how cores, and the threads beside them, hand each other messages. Bounded, without a
//! lock, and no wake is lost. It must not look into a message. One inbox per core.
//!
//! Why no wake is lost. The receiver, before it sleeps, (a) leaves its waker, (b) sets `asleep`,
//! (c) fences, (d) looks at the queue once more. A sender (1) pushes, (2) fences, (3) looks at
//! `asleep`, and if it was set, clears it and wakes the waker that it finds. Both fences are
//! sequentially consistent, so one of them is first. If (c) is, then (3) sees what (b) wrote,
//! unless another sender has cleared it since, and that sender wakes. If (2) is, then (d) sees what
//! (1) pushed, and the receiver does not sleep. A sender that finds `asleep` set but no waker has
//! been overtaken by another that took the waker after it was left, (a) being before (b): that one
//! wakes the receiver, which then goes through (a) to (d) again, after both pushes or beside them,
//! and the argument holds anew.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Waker};

use crossbeam_queue::ArrayQueue;

/// Wakes the task that waits at an inbox, without a message: for tasks that leave their results
/// elsewhere on the same core. Any thread may ring.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    is_rung: AtomicBool,
    is_asleep: AtomicBool,
    /// The waker of the sleeping task: a queue of one, so that taking it needs no lock.
    waker: ArrayQueue<Waker>,
}

impl Doorbell {
    fn new() -> Self {
        Self(Arc::new(Bell {
            is_rung: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
            waker: ArrayQueue::new(1),
        }))
    }

    /// Makes the present or next [`Receiver::wait`] return.
    pub fn ring(&self) {
        self.0.is_rung.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.is_asleep.load(Ordering::Relaxed)
            && self.0.is_asleep.swap(false, Ordering::AcqRel)
            && let Some(waker) = self.0.waker.pop()
        {
            waker.wake();
        }
    }

    fn poll_wait(&self, context: &Context<'_>, has_message: impl Fn() -> bool) -> Poll<()> {
        if has_message() || self.0.is_rung.swap(false, Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.0.waker.force_push(context.waker().clone());
        self.0.is_asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if has_message() || self.0.is_rung.swap(false, Ordering::Acquire) {
            self.0.is_asleep.store(false, Ordering::Relaxed);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// The end at which messages go in. Any thread, any number of them.
#[derive(Debug)]
pub struct Sender<T> {
    queue: Arc<ArrayQueue<T>>,
    bell: Doorbell,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue), bell: self.bell.clone() }
    }
}

impl<T> Sender<T> {
    /// Hands a message over and wakes the receiver if it sleeps.
    ///
    /// # Errors
    /// The inbox is full: the message comes back, and the sender must hold its own input back until
    /// it goes in. It may try again each turn.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.queue.push(message)?;
        self.bell.wake();
        Ok(())
    }

    /// The bell of this inbox.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.bell.clone()
    }
}

/// The end at which messages come out, in the order in which each sender sent them.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: Arc<ArrayQueue<T>>,
    bell: Doorbell,
}

impl<T> Receiver<T> {
    /// Adds what is waiting to `into`, but no more than the inbox holds at once, so that a turn
    /// ends even while others keep sending. Returns how many came.
    pub fn receive_many(&mut self, into: &mut Vec<T>) -> usize {
        let before = into.len();
        into.extend(std::iter::from_fn(|| self.queue.pop()).take(self.queue.capacity()));
        into.len() - before
    }

    /// Returns when a message is waiting or the bell was rung. Safe to drop half-way.
    pub async fn wait(&mut self) {
        poll_fn(|context| self.bell.poll_wait(context, || !self.queue.is_empty())).await;
    }

    /// The bell of this inbox.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.bell.clone()
    }
}

/// An inbox that holds at most `capacity` messages.
#[must_use]
pub fn inbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity));
    let bell = Doorbell::new();
    (Sender { queue: Arc::clone(&queue), bell: bell.clone() }, Receiver { queue, bell })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_lite::future::block_on;

    use super::*;

    /// Far beyond what a loaded machine needs; only a lost wake takes longer.
    const LIMIT: Duration = Duration::from_secs(60);

    /// Runs `body` on a thread and panics when it takes longer than [`LIMIT`].
    fn within_limit<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || done.send(body()));
        result.recv_timeout(LIMIT).expect("a wake was lost, or the body panicked")
    }

    fn send_when_there_is_room<T>(sender: &Sender<T>, mut message: T) {
        while let Err(back) = sender.send(message) {
            message = back;
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_full_inbox_gives_the_message_back() {
        let (sender, mut receiver) = inbox(2);
        assert_eq!(sender.send(1), Ok(()));
        assert_eq!(sender.send(2), Ok(()));
        assert_eq!(sender.send(3), Err(3));
        let mut got = Vec::new();
        assert_eq!(receiver.receive_many(&mut got), 2);
        assert_eq!(got, [1, 2]);
        assert_eq!(sender.send(3), Ok(()));
    }

    #[test]
    fn no_wake_is_lost_among_a_million_messages_of_four_senders() {
        const SENDERS: usize = 4;
        const EACH: usize = 250_000;
        let last = within_limit(|| {
            let (sender, mut receiver) = inbox(64);
            for id in 0..SENDERS {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    (0..EACH).for_each(|n| send_when_there_is_room(&sender, (id, n)));
                });
            }
            block_on(async move {
                let (mut next, mut got) = ([0; SENDERS], Vec::new());
                while next.iter().sum::<usize>() < SENDERS * EACH {
                    receiver.wait().await;
                    receiver.receive_many(&mut got);
                    for (id, n) in got.drain(..) {
                        let slot = &mut next[id];
                        assert_eq!(n, *slot, "the messages of one sender stay in order");
                        *slot += 1;
                    }
                }
                next
            })
        });
        assert_eq!(last, [EACH; SENDERS]);
    }

    /// Each message is sent at another moment of the receiver's way from its last one to sleep.
    #[test]
    fn no_wake_is_lost_at_any_moment_of_falling_asleep() {
        const MESSAGES: usize = 500_000;
        const MOMENTS: usize = 256;
        let received = within_limit(|| {
            let (sender, mut receiver) = inbox(1);
            let received = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&received);
            std::thread::spawn(move || {
                for n in 0..MESSAGES {
                    while seen.load(Ordering::Acquire) < n {
                        std::hint::spin_loop();
                    }
                    // A few nanoseconds a step, where a spin-loop hint takes a hundred cycles.
                    (0..n % MOMENTS).for_each(|step| assert!(std::hint::black_box(step) < MOMENTS));
                    sender.send(n).expect("the one before was taken out");
                }
            });
            block_on(async move {
                let mut got = Vec::new();
                while got.len() < MESSAGES {
                    receiver.wait().await;
                    receiver.receive_many(&mut got);
                    received.store(got.len(), Ordering::Release);
                }
                got
            })
        });
        assert!(received.into_iter().eq(0..MESSAGES));
    }

    #[test]
    fn the_bell_wakes_once_without_a_message() {
        let rings = within_limit(|| {
            let (sender, mut receiver) = inbox::<()>(1);
            let (bell, answers) = (receiver.doorbell(), mpsc::channel());
            std::thread::spawn(move || {
                for _ in 0..1000 {
                    bell.ring();
                    answers.1.recv().unwrap();
                }
                // What was rung for has been answered: now only a message can wake.
                sender.send(()).unwrap();
            });
            block_on(async move {
                let (mut rings, mut got) = (0, Vec::new());
                loop {
                    receiver.wait().await;
                    if receiver.receive_many(&mut got) > 0 {
                        return rings;
                    }
                    rings += 1;
                    answers.0.send(()).unwrap();
                }
            })
        });
        assert_eq!(rings, 1000);
    }
}
