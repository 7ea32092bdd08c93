//! Where a core's driver finds what its peer links brought: frames, and which links came or went.
//!
//! One per core, shared by `Rc` between the driver and the link tasks of that core. It must not
//! look into a frame. What waits here is bounded: a reader that finds no room stops reading its
//! connection, and TCP holds the sender back.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use oarlock_codec::Frame;
use oarlock_types::{CoreAddr, Incarnation, Mono, NodeId};

use crate::net::link_log::RepeatedLog;
use crate::node::inbox::Doorbell;

/// A frame that came in.
#[derive(Debug)]
pub struct Incoming {
    /// Which core of which peer sent it.
    pub from: CoreAddr,
    /// The peer's incarnation that it belongs to.
    pub incarnation: Incarnation,
    /// The frame: messages, forwarded requests, their outcomes, or what times the link.
    pub frame: Frame,
    /// When its last bytes were read.
    pub came: Mono,
}

/// A link came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// This core can send to the peer.
    OutgoingUp {
        /// The peer.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// It no longer can, and what it sent of late may be lost: its groups must probe again.
    OutgoingDown {
        /// The peer.
        node: NodeId,
    },
    /// A peer's core can send to this core.
    IncomingUp {
        /// The peer's core.
        from: CoreAddr,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// It no longer can.
    IncomingDown {
        /// The peer's core.
        from: CoreAddr,
    },
}

#[derive(Debug, Default)]
struct Waiting {
    frames: Vec<Incoming>,
    bytes: usize,
    events: Vec<LinkEvent>,
    /// Readers that found no room.
    readers: Vec<Waker>,
    log: RepeatedLog,
}

/// The hub.
#[derive(Debug)]
pub struct LinkHub {
    waiting: RefCell<Waiting>,
    bell: Doorbell,
    bytes_max: usize,
}

impl LinkHub {
    /// An empty hub that rings `bell` when something has come. Readers stop at `bytes_max`; what
    /// one read of theirs brought, and the frame that it completed, goes beyond it.
    #[must_use]
    pub fn new(bell: Doorbell, bytes_max: usize) -> Rc<Self> {
        Rc::new(Self { waiting: RefCell::default(), bell, bytes_max })
    }

    /// Moves all that waits to the driver and lets readers go on.
    pub fn take(&self, frames: &mut Vec<Incoming>, events: &mut Vec<LinkEvent>) {
        let mut waiting = self.waiting.borrow_mut();
        frames.append(&mut waiting.frames);
        events.append(&mut waiting.events);
        waiting.bytes = 0;
        waiting.readers.drain(..).for_each(Waker::wake);
    }

    /// Bytes of frames that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.borrow().bytes
    }

    pub(crate) fn push(&self, incoming: Incoming, bytes: usize) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.frames.push(incoming);
        waiting.bytes += bytes;
        self.bell.ring();
    }

    pub(crate) fn event(&self, event: LinkEvent) {
        self.waiting.borrow_mut().events.push(event);
        self.bell.ring();
    }

    /// Writes a line to the log unless it was written just now.
    pub(crate) fn warn(&self, line: &str) {
        self.waiting.borrow_mut().log.warn(line);
    }

    /// Returns when less than the bound waits.
    pub(crate) async fn room(&self) {
        poll_fn(|context| {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.bytes < self.bytes_max {
                return Poll::Ready(());
            }
            waiting.readers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
