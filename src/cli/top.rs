//! `oarlock top`: a live view of a cluster in the terminal, or one look as plain tables. Reads only.
//!
//! Map: `look` asks the nodes, `picture` makes lines of what they say, `screen` has the terminal; the
//! demo uses them, too.

pub(crate) mod look;
pub(crate) mod picture;
pub(crate) mod screen;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::asked::Asked;
use super::exit::Exit;
use crate::bench::run::resolve;
use look::{Look, Looker};
use picture::{Line, Picture, Size};
use screen::{Screen, Wake};

/// How long a node may take for an answer before it counts as down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Watch a cluster: nodes, cores, the busiest ranges, what moves, throughput and latency.
///
/// Asks all nodes again and again, those that join meanwhile, too, and shows what happened between two
/// looks. q, Esc or Ctrl-C ends it. Where standard output is no terminal it prints plain tables once, as with
/// --once.
///
/// Of each node: whether it answers and whether it is to be emptied (draining) or given up (removed), its zone,
/// its replicas and leaders, in all and of each core, the requests that it answered as a leader, and what 99 of
/// 100 writes of its own clients took at most, from the read of the command to the reply (each node times one
/// write in sixteen). A dash: nothing was counted between the looks.
///
/// Placement: what `oarlock placement plan` says. Of the ranges the busiest: requests per second as their
/// leaders count them, keys, and bytes of keys and values. `oarlock status` shows all ranges.
///
/// Ends with 0, and with 1 if no node answers.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    asked: Asked,
    /// How long to wait between two looks.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub interval_ms: u64,
    /// Look twice, print what happened in between as plain tables, and end.
    #[arg(long)]
    pub once: bool,
}

/// Runs it.
#[must_use]
pub fn run(args: &TopArgs) -> Exit {
    match watch(args) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("oarlock top: {}: {error}", args.asked.address);
            Exit::Failed
        }
    }
}

fn watch(args: &TopArgs) -> io::Result<()> {
    let interval = Duration::from_millis(args.interval_ms);
    let mut looker = Looker::new(resolve(&args.asked.address)?, ANSWER_TIMEOUT);
    let first = looker.look()?;
    if args.once || !io::stdout().is_terminal() {
        std::thread::sleep(interval);
        let lines = Picture::new(&first, &looker.look()?).lines(None);
        super::print(&text(&lines));
        return Ok(());
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let screen = Screen::enter()?;
    let mut view = View::new(looker, first);
    loop {
        screen.draw(&view.lines(screen.size()?))?;
        match screen.wait(view.looked + interval, &|| ended.load(Ordering::Relaxed))? {
            Wake::Time => view.look(),
            Wake::Resized => {}
            Wake::Quit => return Ok(()),
        }
    }
}

/// The lines as they are printed.
fn text(lines: &[Line]) -> String {
    lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect()
}

/// The newest two looks, and what went wrong since.
pub(crate) struct View {
    looker: Looker,
    before: Look,
    now: Look,
    looked: Instant,
    trouble: Option<io::Error>,
}

impl View {
    /// Begins with a first look.
    pub(crate) fn new(looker: Looker, first: Look) -> Self {
        let looked = Instant::now();
        Self { looker, before: first.clone(), now: first, looked, trouble: None }
    }

    /// Looks again. A cluster of which nobody answers may come back.
    pub(crate) fn look(&mut self) {
        match self.looker.look() {
            Ok(look) => {
                self.before = std::mem::replace(&mut self.now, look);
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(error),
        }
        self.looked = Instant::now();
    }

    /// When the newest look was over.
    pub(crate) fn looked(&self) -> Instant {
        self.looked
    }

    /// What is to be seen.
    pub(crate) fn lines(&self, size: Size) -> Vec<Line> {
        let mut lines = Picture::new(&self.before, &self.now).lines(Some(size));
        if let (Some(trouble), Some(first)) = (&self.trouble, lines.first_mut()) {
            first.text = format!("{trouble} (seen last {:.0?} ago)", self.now.at.elapsed());
        }
        lines
    }
}
