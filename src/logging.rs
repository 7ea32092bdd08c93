//! The log: lines on standard error, for people or for machines. One per process, set up once.
//!
//! Standard output belongs to what a command was asked for. Must not be called before the
//! configuration is checked: a bad filter is refused there, with its place.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogSection};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configuration's check refuses such a filter.
    #[error("log_level \"{0}\" is no filter: {1}")]
    Filter(String, tracing_subscriber::filter::ParseError),
    /// Set up twice.
    #[error("the log is set up already")]
    Twice,
}

/// Sends this process's log to standard error as `log` says, coloured for a terminal.
pub fn init(log: &LogSection) -> Result<(), LogError> {
    let dispatch = dispatch(log, std::io::stderr, std::io::stderr().is_terminal())?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LogError::Twice)
}

/// What formats and filters, apart from the process it is installed in.
fn dispatch<W>(log: &LogSection, writer: W, colour: bool) -> Result<tracing::Dispatch, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.log_level)
        .map_err(|error| LogError::Filter(log.log_level.clone(), error))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match log.log_format {
        LogFormat::Human => lines.with_ansi(colour).finish().into(),
        LogFormat::Json => lines.json().flatten_event(true).finish().into(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let log = LogSection { log_format: format, log_level: level.to_owned() };
        let lines = Lines::default();
        let writer = lines.clone();
        let dispatch = dispatch(&log, move || writer.clone(), false).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(group = 7, "a leader was elected");
            tracing::debug!("detail");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_for_people_carry_their_fields() {
        let text = logged(LogFormat::Human, "info");
        assert!(text.contains("INFO") && text.contains("a leader was elected group=7"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn lines_for_machines_are_json_objects() {
        let text = logged(LogFormat::Json, "info");
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "a leader was elected");
        assert_eq!(line["group"], 7);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn the_level_is_a_filter() {
        assert_eq!(logged(LogFormat::Human, "warn"), "");
        assert_eq!(logged(LogFormat::Human, "trace").lines().count(), 2);
        let log = LogSection { log_level: "oarlock=loud".to_owned(), ..LogSection::default() };
        assert!(matches!(init(&log), Err(LogError::Filter(..))));
    }
}
