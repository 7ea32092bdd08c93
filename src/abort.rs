//! A panic on a thread that the node cannot do without ends the process: half a node is worse than
//! none. It must not be used where a panic is caught. One guard per such thread.

/// Ends the process when it is dropped by a panic.
#[derive(Debug)]
pub struct AbortOnPanic {
    thread: String,
}

impl AbortOnPanic {
    /// Guards the thread on whose stack it lies until its end.
    #[must_use]
    pub fn new(thread: impl Into<String>) -> Self {
        Self { thread: thread.into() }
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("oarlock: the thread {} panicked, so the node ends", self.thread);
            std::process::abort();
        }
    }
}
