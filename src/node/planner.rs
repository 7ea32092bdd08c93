//! A thread that makes placement's plans beside the cores, from all that is known of the ranges: with a hundred thousand
//! of them that takes as long as many turns, and the core that wants it serves ranges, too. One per node, idle on all nodes but the one that leads the
//! meta group. It decides nothing.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use oarlock_cluster::executor::{Made, Planning};
use oarlock_types::CoreId;

use super::inbox::Sender;
use super::message::CoreMessage;
use crate::abort::AbortOnPanic;

/// How far it stands behind the cores: about a ninth of a CPU's time where one of them wants all of it.
const NICENESS: i32 = 10;
/// How long it waits before it offers a plan to a full inbox again.
const REDELIVERY: Duration = Duration::from_millis(10);

/// Has plans made. The thread ends with the last of these.
#[derive(Clone, Debug)]
pub struct Planner(mpsc::Sender<Job>);

#[derive(Debug)]
enum Job {
    Make(CoreId, Box<Planning>),
    Drop(Box<Made>),
}

impl Planner {
    /// Starts the thread. Plans go back into the inboxes of the cores that want them.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(inboxes: &[Sender<CoreMessage>]) -> io::Result<Self> {
        let inboxes = inboxes.to_vec();
        let (submit, jobs) = mpsc::channel();
        std::thread::Builder::new().name("planner".to_owned()).spawn(move || {
            let _guard = AbortOnPanic::new("planner");
            // Cores that share a CPU with it come first. Without that it plans all the same.
            let _ = rustix::process::nice(NICENESS);
            for job in jobs {
                let (core, mut planning) = match job {
                    Job::Make(core, planning) => (core, planning),
                    Job::Drop(made) => {
                        drop(made);
                        continue;
                    }
                };
                let begun = Instant::now();
                planning.make();
                let mut letter = CoreMessage::Planned(planning, begun.elapsed());
                while let Err(back) = inboxes[usize::from(core.get())].send(letter) {
                    letter = back;
                    std::thread::sleep(REDELIVERY);
                }
            }
        })?;
        Ok(Self(submit))
    }

    /// Has a plan made for a core. Whoever wants one waits for it before it wants another.
    pub fn submit(&self, core: CoreId, planning: Box<Planning>) {
        // The thread ends only with its process.
        let _ = self.0.send(Job::Make(core, planning));
    }

    /// Drops one that is out of date, which takes its time as well.
    pub fn drop(&self, made: Made) {
        let _ = self.0.send(Job::Drop(Box::new(made)));
    }
}
