//! How the demo and the fault tests become a node's process: the child binds its life to the
//! thread that started it and turns into `oarlock serve`. No node outlives a demo that was killed.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Turns this process into a node with that configuration; comes back only if it cannot.
pub(super) fn become_node(config: &Path) -> io::Error {
    // The setting survives `exec`. If the parent died before it took effect, our parent is now
    // somebody else, and nobody would ever end us.
    let parent = rustix::process::getppid();
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if rustix::process::getppid() != parent {
        return io::Error::other("the process that started this node has ended");
    }
    match std::env::current_exe() {
        Ok(program) => Command::new(program).arg("serve").arg("--config").arg(config).exec(),
        Err(error) => error,
    }
}
