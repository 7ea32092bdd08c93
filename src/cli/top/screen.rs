//! The terminal while a live view is on it: a screen of its own, keys as they are pressed. It is given
//! back as it was when this goes out of scope.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{execute, queue};

use super::picture::{Line, Size};

/// How long at most a wait for a key lasts before somebody is asked whether to go on.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// The terminal is ours.
#[derive(Debug)]
pub(crate) struct Screen(());

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The time has come.
    Time,
    /// The terminal has another size.
    Resized,
    /// q, Esc or Ctrl-C was pressed, or the end was asked for otherwise.
    Quit,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on whatever fails gives it back.
        let screen = Self(());
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Its size now.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(crate) fn size(&self) -> io::Result<Size> {
        let (width, height) = terminal::size()?;
        Ok(Size { width: width.into(), height: height.into() })
    }

    /// Shows these lines and nothing else.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(crate) fn draw(&self, lines: &[Line]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for (row, line) in (0..).zip(lines) {
            queue!(out, MoveTo(0, row))?;
            if line.is_head {
                queue!(out, SetAttribute(Attribute::Bold))?;
            }
            // What is written over is not cleared before, so that nothing flickers.
            write!(out, "{}", line.text)?;
            queue!(out, SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
        }
        let below = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        queue!(out, MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// Waits for the time or a key.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(crate) fn wait(&self, until: Instant, is_over: &dyn Fn() -> bool) -> io::Result<Wake> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if is_over() {
                return Ok(Wake::Quit);
            }
            if !event::poll(left.min(KEY_WAIT))? {
                if left.is_zero() {
                    return Ok(Wake::Time);
                }
                continue;
            }
            let event = event::read()?;
            if matches!(event, Event::Resize(..)) {
                return Ok(Wake::Resized);
            }
            if event.as_key_press_event().is_some_and(quits) {
                return Ok(Wake::Quit);
            }
        }
    }
}

/// The terminal sends no signal for Ctrl-C while keys come as they are pressed.
fn quits(key: KeyEvent) -> bool {
    let with_ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    [KeyCode::Char('q'), KeyCode::Esc].contains(&key.code)
        || (key.code == KeyCode::Char('c') && with_ctrl)
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to tell if the terminal is gone.
        drop(execute!(io::stdout(), Show, LeaveAlternateScreen));
        drop(terminal::disable_raw_mode());
    }
}
