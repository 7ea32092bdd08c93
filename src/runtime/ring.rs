//! A core's io_uring: what is under way in the kernel, and whom its end concerns. It must not know
//! what a socket or a log is. One per runtime.
//!
//! Where the kernel can (Linux 6.1), completions are run only when the thread enters it: nothing
//! interrupts a turn, and what has gathered is fetched at once.
#![allow(unsafe_code, reason = "hands pointers to the kernel, which the language cannot check")]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::socket::Readiness;

const ENTRIES: u32 = 256;
/// Room for what completes between two looks; more waits in the kernel.
const COMPLETIONS: u32 = 4096;
/// The token of what nobody waits for.
const NOBODY: u64 = u64::MAX;
/// How often a submission that the kernel could not take for lack of memory is offered again.
const SUBMIT_ATTEMPTS_MAX: u32 = 10_000;

/// What is under way in the kernel, and whom its completion concerns.
enum Waiting {
    /// A watched socket. The watch ends with the last completion, and the socket lives till then.
    Socket(Rc<Readiness>),
    /// One operation.
    Operation(Rc<Completion>),
    /// The eventfd by which other threads end the sleep: to return is all it does.
    Bell,
}

/// The outcome of an operation, once it is known. May serve one operation after another.
pub struct Completion {
    result: Cell<Option<i32>>,
    notify: Box<dyn Fn()>,
}

impl Completion {
    /// Calls `notify` when the outcome is known.
    pub fn new(notify: impl Fn() + 'static) -> Rc<Self> {
        Rc::new(Self { result: Cell::new(None), notify: Box::new(notify) })
    }

    /// What the kernel said: once, and nothing before.
    pub fn take(&self) -> Option<i32> {
        self.result.take()
    }
}

/// The ring.
pub struct Ring {
    ring: RefCell<IoUring>,
    waiting: RefCell<Slab<Waiting>>,
    completed: RefCell<Vec<cqueue::Entry>>,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp().dontfork();
        let mut deferred = builder.clone();
        deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let mut cooperative = builder.clone();
        cooperative.setup_coop_taskrun().setup_taskrun_flag();
        let ring = deferred
            .build(ENTRIES)
            .or_else(|_| cooperative.build(ENTRIES))
            .or_else(|_| builder.build(ENTRIES))?;
        let completed = RefCell::new(Vec::with_capacity(ring.params().cq_entries() as usize));
        Ok(Self { ring: RefCell::new(ring), waiting: RefCell::default(), completed })
    }

    /// Gives the kernel files that operations name by their place, -1 for none yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn register_files(&self, files: &[i32]) -> io::Result<()> {
        self.ring.borrow().submitter().register_files(files)
    }

    /// Exchanges a registered file.
    ///
    /// # Errors
    /// The kernel's.
    pub fn exchange_file(&self, place: u32, file: i32) -> io::Result<()> {
        self.ring.borrow().submitter().register_files_update(place, &[file]).map(drop)
    }

    /// Gives the kernel buffers that operations name by their place.
    ///
    /// # Errors
    /// The kernel's, such as that no more memory may be locked.
    ///
    /// # Safety
    /// The buffers stay where they are until [`Ring::unregister`].
    pub unsafe fn register_buffers(&self, buffers: &[libc::iovec]) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.borrow().submitter().register_buffers(buffers) }
    }

    /// Takes files and buffers back. What was not registered is no error.
    pub fn unregister(&self) {
        let ring = self.ring.borrow();
        let _ = ring.submitter().unregister_files();
        let _ = ring.submitter().unregister_buffers();
    }

    /// Queues an operation; `completion` learns its outcome.
    ///
    /// # Safety
    /// What the operation points to stays there until the outcome is known.
    pub unsafe fn start(&self, entry: squeue::Entry, completion: Rc<Completion>) {
        let token = self.waiting.borrow_mut().insert(Waiting::Operation(completion));
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry.user_data(token as u64)) };
    }

    /// Watches a socket until [`Ring::forget`]; gives the watch's token.
    pub(super) fn watch(&self, readiness: Rc<Readiness>) -> usize {
        let fd = readiness.fd();
        let token = self.waiting.borrow_mut().insert(Waiting::Socket(readiness));
        self.poll(fd, token, libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP);
        token
    }

    /// Ends the sleep whenever `fd` is written to.
    pub(super) fn watch_bell(&self, fd: i32) {
        let token = self.waiting.borrow_mut().insert(Waiting::Bell);
        self.poll(fd, token, libc::POLLIN);
    }

    fn poll(&self, fd: i32, token: usize, events: i16) {
        let entry = opcode::PollAdd::new(types::Fd(fd), events.cast_unsigned().into()).multi(true);
        // SAFETY: a poll points to no memory.
        unsafe { self.push(&entry.build().user_data(token as u64)) };
    }

    /// Ends a watch.
    pub(super) fn forget(&self, token: usize) {
        // Not a removal, which refuses while the poll is about to tell something.
        let entry = opcode::AsyncCancel::new(token as u64).build().user_data(NOBODY);
        // SAFETY: it points to no memory.
        unsafe { self.push(&entry) };
    }

    unsafe fn push(&self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.borrow_mut().submission().push(entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Hands the kernel what was queued, without waiting.
    pub(super) fn submit(&self) {
        for _ in 0..SUBMIT_ATTEMPTS_MAX {
            let ring = &mut *self.ring.borrow_mut();
            if ring.submission().is_empty() && !ring.submission().taskrun() {
                return;
            }
            match ring.submitter().submit() {
                Ok(_) if ring.submission().is_empty() => return,
                Ok(_) => {}
                Err(error) => tolerate(&error),
            }
        }
        panic!("io_uring takes no submission");
    }

    /// Hands the kernel what was queued, and sleeps until something completes: without a limit
    /// for `Some(None)`, for a time for `Some(Some(_))`, not at all for `None`.
    pub(super) fn enter(&self, wait: Option<Option<Duration>>) {
        let Some(limit) = wait else { return self.submit() };
        let ring = self.ring.borrow();
        let result = match limit {
            None => ring.submitter().submit_and_wait(1),
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                let args = types::SubmitArgs::new().timespec(&limit);
                ring.submitter().submit_with_args(1, &args)
            }
        };
        match result {
            Err(error) if error.raw_os_error() != Some(libc::ETIME) => tolerate(&error),
            Ok(_) | Err(_) => {}
        }
    }

    /// Tells everyone whose matter has completed.
    pub(super) fn reap(&self) {
        let mut completed = std::mem::take(&mut *self.completed.borrow_mut());
        completed.extend(self.ring.borrow_mut().completion());
        for entry in completed.drain(..) {
            self.complete(&entry);
        }
        *self.completed.borrow_mut() = completed;
    }

    fn complete(&self, entry: &cqueue::Entry) {
        if entry.user_data() == NOBODY {
            return;
        }
        let token = usize::try_from(entry.user_data()).expect("invariant: it was made of one");
        let is_last = !cqueue::more(entry.flags());
        // Nothing is borrowed while whoever waits is told.
        let told = match &self.waiting.borrow()[token] {
            Waiting::Socket(readiness) => Told::Socket(Rc::clone(readiness)),
            Waiting::Operation(completion) => Told::Operation(Rc::clone(completion)),
            Waiting::Bell => Told::Bell,
        };
        if is_last {
            drop(self.waiting.borrow_mut().remove(token));
        }
        match told {
            Told::Bell if is_last => panic!("the bell's watch ended: {}", entry.result()),
            Told::Bell => {}
            Told::Operation(completion) => {
                completion.result.set(Some(entry.result()));
                (completion.notify)();
            }
            Told::Socket(readiness) => {
                if is_last && !readiness.is_forgotten() {
                    readiness.set_token(self.watch(Rc::clone(&readiness)));
                }
                readiness.became(entry.result());
            }
        }
    }

    /// Takes the wakers of all that wait, so that their tasks go.
    pub(super) fn take_wakers(&self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (_, waiting) in &*self.waiting.borrow() {
            match waiting {
                Waiting::Socket(readiness) => wakers.extend(readiness.take_wakers()),
                Waiting::Operation(_) | Waiting::Bell => {}
            }
        }
        wakers
    }

    /// Sleeps until an operation has completed: for whoever must not leave before.
    pub fn wait_for(&self, completion: &Completion) -> i32 {
        loop {
            if let Some(result) = completion.take() {
                return result;
            }
            self.enter(Some(None));
            self.reap();
        }
    }
}

/// A share of a [`Waiting`].
type Told = Waiting;

/// Goes on after what passes; ends the thread, and with it the node, at what does not.
fn tolerate(error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::EINTR | libc::EBUSY) => {}
        Some(libc::EAGAIN) => std::thread::yield_now(),
        _ => panic!("io_uring does not work any more: {error}"),
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("waiting", &self.waiting.borrow().len()).finish()
    }
}
