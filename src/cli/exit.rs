//! How a command ends, in one place: every command returns one of these.

use std::process::ExitCode;

/// The exit codes, as scripts and service managers see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked for.
    Ok,
    /// It ran, and the answer is no: an acknowledged write was lost, a log is damaged, a
    /// configuration file has errors, a server does not answer, a benchmark's condition does not hold.
    Failed,
    /// It did not run: the command line or the configuration is wrong.
    Usage,
    /// A node could not start, or had to stop: a port is taken, a directory is locked, a disk
    /// failed. Standard error has the reason.
    CannotStart,
    /// Somebody ended it with Ctrl-C before it was done.
    Interrupted,
}

/// What `--help` says of the codes.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  failed: an acknowledged write lost, a log damaged, a file with errors, no answer, a condition
     that does not hold
  2  the command line or the configuration is wrong
  3  a node could not start, or had to stop: standard error has the reason
  130  interrupted";

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::CannotStart => 3,
            // As shells number the end by SIGINT.
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_code() {
        for exit in [Exit::Ok, Exit::Failed, Exit::Usage, Exit::CannotStart, Exit::Interrupted] {
            assert!(HELP.contains(&format!("\n  {}  ", exit.code())));
        }
    }
}
