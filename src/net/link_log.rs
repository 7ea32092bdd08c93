//! Keeps a failure that repeats from flooding the log: its first line is written, then one every
//! half minute with how many were left out. It must not decide what is worth saying. One wherever
//! links fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(30);
/// Different lines remembered; beyond it the oldest is forgotten and may be written again.
const LINES_MAX: usize = 64;

#[derive(Debug)]
struct Line {
    written_at: Instant,
    left_out: u64,
}

/// What has been written of late.
#[derive(Debug, Default)]
pub struct RepeatedLog {
    lines: BTreeMap<String, Line>,
}

impl RepeatedLog {
    /// Whether `line` is to be written now; if so, how often it was left out since the last time.
    pub fn admit(&mut self, now: Instant, line: &str) -> Option<u64> {
        if let Some(known) = self.lines.get_mut(line) {
            if now.duration_since(known.written_at) < INTERVAL {
                known.left_out += 1;
                return None;
            }
            known.written_at = now;
            return Some(std::mem::take(&mut known.left_out));
        }
        if self.lines.len() == LINES_MAX {
            let oldest = self.lines.iter().min_by_key(|(_, line)| line.written_at);
            if let Some(oldest) = oldest.map(|(text, _)| text.clone()) {
                self.lines.remove(&oldest);
            }
        }
        self.lines.insert(line.to_owned(), Line { written_at: now, left_out: 0 });
        Some(0)
    }

    /// Writes a warning unless it was written just now.
    pub fn warn(&mut self, line: &str) {
        match self.admit(Instant::now(), line) {
            Some(0) => tracing::warn!("{line}"),
            Some(left_out) => tracing::warn!(left_out, "{line}"),
            None => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_line_is_written_once_and_then_now_and_then() {
        let (mut log, start) = (RepeatedLog::default(), Instant::now());
        assert_eq!(log.admit(start, "a"), Some(0));
        assert_eq!(log.admit(start, "b"), Some(0));
        assert_eq!(log.admit(start + Duration::from_secs(1), "a"), None);
        assert_eq!(log.admit(start + Duration::from_secs(29), "a"), None);
        assert_eq!(log.admit(start + INTERVAL, "a"), Some(2));
        assert_eq!(log.admit(start + INTERVAL + INTERVAL, "a"), Some(0));
    }

    #[test]
    fn many_different_lines_take_bounded_room() {
        let (mut log, start) = (RepeatedLog::default(), Instant::now());
        for n in 0..1000 {
            assert_eq!(log.admit(start + Duration::from_millis(n), &n.to_string()), Some(0));
        }
        assert_eq!(log.lines.len(), LINES_MAX);
        assert!(log.lines.contains_key("999") && !log.lines.contains_key("0"));
    }
}
