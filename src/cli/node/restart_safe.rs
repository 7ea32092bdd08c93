//! `oarlock node restart-safe`: asks all nodes whether one of them may be restarted now, once or until it may.
//! Reads only.

use std::io;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use super::verdict::{Verdict, judge};
use crate::bench::processes::poll;
use crate::bench::run::resolve;
use crate::cli::asked::{Asked, REQUEST_TIMEOUT};
use crate::cli::exit::Exit;
use crate::cli::top::look::Looker;

/// Tell whether a node may be restarted now without a range losing its quorum.
///
/// It may if every node answers and, for each range with a replica on it (the meta group too), somebody leads, and a
/// majority of the voters is there without it: reached by the leader, up to date, and not just started itself. While a
/// range's members change that goes for the old and the new ones. What is not known counts against it. Without --wait
/// it ends at once; with it, as soon as the node may be restarted.
///
/// Ends with 0 if it may, with 1 if not, and says which nodes and ranges speak against it. The answer is of this
/// moment: restart the node right after, and one node at a time.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A rolling restart, from a host that reaches all nodes; it stops where a node does not come back well:

  for id in 1 2 3; do
    oarlock node restart-safe $id --addr node-1:6379 --wait || exit 1
    ssh node-$id systemctl restart oarlock
  done
  oarlock node restart-safe 1 --addr node-1:6379 --wait

The last line waits until the last node is back, too. If the node that --addr names is the one being
restarted, --wait asks it again until it answers.")]
pub(super) struct RestartSafeArgs {
    /// The node that is to be restarted.
    #[arg(value_name = "NODE")]
    node: u64,
    #[command(flatten)]
    asked: Asked,
    /// Wait until it may be restarted.
    #[arg(long)]
    wait: bool,
    /// How long to wait with --wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout_s: u64,
    /// Print JSON, with all reasons.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(args: &RestartSafeArgs) -> Exit {
    let judged = if args.wait { wait(args) } else { Asker::new(args).and_then(|mut a| a.ask()) };
    match judged {
        Ok(verdict) => {
            let text = if args.json { format!("{:#}\n", verdict.json()) } else { verdict.text() };
            crate::cli::print(&text);
            if verdict.is_safe() { Exit::Ok } else { Exit::Failed }
        }
        Err(error) => {
            eprintln!("oarlock node restart-safe: {}: {error}", args.asked.address);
            Exit::Failed
        }
    }
}

struct Asker {
    looker: Looker,
    node: u64,
}

impl Asker {
    fn new(args: &RestartSafeArgs) -> io::Result<Self> {
        let looker = Looker::new(resolve(&args.asked.address)?, REQUEST_TIMEOUT);
        Ok(Self { looker, node: args.node })
    }

    fn ask(&mut self) -> io::Result<Verdict> {
        let look = self.looker.look()?;
        let none = || {
            let text = format!("the cluster has no node {}", self.node);
            io::Error::new(io::ErrorKind::NotFound, text)
        };
        judge(&look, self.node).ok_or_else(none)
    }
}

/// The last verdict when it is safe, or the time has passed.
fn wait(args: &RestartSafeArgs) -> io::Result<Verdict> {
    let mut asker = Asker::new(args)?;
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut last = None;
    let what = format!("node {} to be safe to restart", args.node);
    let waited = poll(&what, Duration::from_secs(args.timeout_s), || {
        let why = match asker.ask() {
            Ok(verdict) if verdict.is_safe() => return Ok(Ok(verdict)),
            Ok(verdict) => {
                let why = verdict.brief();
                last = Some(verdict);
                why
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            // Whoever is asked first may be the one that is starting.
            Err(error) => error.to_string(),
        };
        bar.set_message(format!("node {} must not be restarted yet: {why}", args.node));
        Ok(Err(why))
    });
    bar.finish_and_clear();
    match (waited, last) {
        (Err(error), Some(verdict)) if error.kind() == io::ErrorKind::TimedOut => Ok(verdict),
        (waited, _) => waited,
    }
}
