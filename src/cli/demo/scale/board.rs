//! Tells how far the demo is: live on the terminal, above the view of `oarlock top`, or line by line
//! where standard output is no terminal. One thread, which looks at the cluster and draws.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cli::top::View;
use crate::cli::top::look::Looker;
use crate::cli::top::picture::{Line, Size};
use crate::cli::top::screen::{Screen, Wake};

const INTERVAL: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Where stages are told.
pub(super) struct Board {
    shared: Arc<Shared>,
    /// None: line by line.
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    told: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Board {
    /// Begins to show the cluster of which one node is there. Ctrl-C comes as a key while it does, and
    /// sets `interrupted`.
    pub(super) fn open(node: SocketAddr, interrupted: &Arc<AtomicBool>) -> io::Result<Self> {
        let shared = Arc::new(Shared { told: Mutex::default(), is_over: AtomicBool::new(false) });
        if !io::stdout().is_terminal() {
            return Ok(Self { shared, thread: None });
        }
        let (ours, interrupted) = (Arc::clone(&shared), Arc::clone(interrupted));
        let body = move || {
            // Without a terminal there is nothing to be seen, and all else goes on.
            drop(ours.show(Looker::new(node, ANSWER_TIMEOUT), &interrupted));
        };
        let thread = std::thread::Builder::new().name("board".to_owned()).spawn(body)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Tells one thing more.
    pub(super) fn tell(&self, line: String) {
        if self.thread.is_none() {
            println!("{line}");
        }
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

impl Drop for Board {
    /// Gives the terminal back, with what was told.
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        drop(thread.join());
        for line in self.shared.told.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            println!("{line}");
        }
    }
}

impl Shared {
    fn show(&self, mut looker: Looker, interrupted: &AtomicBool) -> io::Result<()> {
        let first = looker.look()?;
        let mut view = View::new(looker, first);
        let screen = Screen::enter()?;
        loop {
            screen.draw(&self.lines(&view, screen.size()?))?;
            let is_over = || self.is_over.load(Ordering::Relaxed);
            match screen.wait(view.looked() + INTERVAL, &is_over)? {
                Wake::Time => view.look(),
                Wake::Resized => {}
                Wake::Quit => {
                    if !is_over() {
                        interrupted.store(true, Ordering::Relaxed);
                    }
                    return Ok(());
                }
            }
        }
    }

    fn lines(&self, view: &View, size: Size) -> Vec<Line> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = |line: &String| line.chars().take(size.width).collect();
        let newest = told.len().saturating_sub(size.height / 3);
        let mut lines: Vec<Line> =
            told[newest..].iter().map(|line| Line { text: cut(line), is_head: false }).collect();
        lines.push(Line { text: String::new(), is_head: false });
        let height = size.height.saturating_sub(lines.len());
        lines.extend(view.lines(Size { height, ..size }));
        lines
    }
}
