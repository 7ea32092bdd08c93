//! `oarlock config`: checks a file, shows what is effective and whence, prints the example.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit::Exit;
use super::settings::SettingsArgs;
use crate::config::{self, ConfigError, Loaded, Sources};

/// Checks and shows the configuration.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Check FILE alone: prints `ok` and every value, or everything that is wrong (exit 1).
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Show what the file, the environment and the flags amount to, and where each value came from.
    Show(SettingsArgs),
    /// Print an example file that documents every key with its default.
    Example,
}

/// Does what was asked. Answers go to standard output, what is wrong to standard error.
pub fn run(args: &ConfigArgs) -> Exit {
    match &args.verb {
        Verb::Check { file } => {
            let loaded =
                Sources::from_file(&file.to_string_lossy()).and_then(|sources| sources.load());
            tell(loaded, "ok\n\n", Exit::Failed)
        }
        Verb::Show(settings) => tell(settings.load(), "", Exit::Usage),
        Verb::Example => {
            super::print(&config::example());
            Exit::Ok
        }
    }
}

fn tell(loaded: Result<Loaded, ConfigError>, before: &str, otherwise: Exit) -> Exit {
    match loaded {
        Ok(loaded) => {
            super::print(&format!("{before}{}", config::effective(&loaded)));
            Exit::Ok
        }
        Err(error) => {
            eprintln!("{error}");
            otherwise
        }
    }
}
