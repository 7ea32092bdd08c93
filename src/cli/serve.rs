//! `oarlock serve`: reads the configuration, opens the log, and becomes a node.
//!
//! Must not know how a node works: it is handed the function that runs one.

use std::fmt::Display;

use clap::Args;

use super::exit::Exit;
use super::settings::SettingsArgs;
use crate::config::Config;
use crate::logging;

/// Runs one node until it is told to stop.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  oarlock serve --config /etc/oarlock.toml
  oarlock serve --config cluster.toml --node-id 2 --data-dir /var/lib/oarlock-2
  oarlock serve --node-id 1 --data-dir ./data     a cluster of one node, on port 6379

Every flag is also a key of the file and a variable: `oarlock config example` explains them.")]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs `node` with the configuration; what is wrong goes to standard error.
pub fn run<E: Display>(args: &ServeArgs, node: impl FnOnce(Config) -> Result<(), E>) -> Exit {
    let config = match args.settings.load() {
        Ok(loaded) => loaded.config,
        Err(error) => {
            eprintln!("oarlock: {error}");
            return Exit::Usage;
        }
    };
    if let Err(error) = logging::init(&config.log) {
        eprintln!("oarlock: {error}");
        return Exit::CannotStart;
    }
    match node(config) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("oarlock: {error}");
            Exit::CannotStart
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(flags: &[(&str, &str)]) -> ServeArgs {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        let flags = flags.iter().map(own).collect();
        ServeArgs { settings: SettingsArgs { file: None, flags } }
    }

    #[test]
    fn a_bad_configuration_starts_no_node() {
        let never = |_: Config| -> Result<(), String> { unreachable!("it must not be started") };
        assert_eq!(run(&args(&[("node_id", "0")]), never), Exit::Usage);
    }

    #[test]
    fn a_node_that_can_not_start_is_told_apart_from_a_bad_configuration() {
        let good = args(&[("node_id", "1"), ("data_dir", "/d"), ("log_level", "error")]);
        let refuse = |config: Config| -> Result<(), String> {
            assert_eq!(config.node.node_id.0, 1);
            Err("the port is taken".to_owned())
        };
        assert_eq!(run(&good, refuse), Exit::CannotStart);
    }
}
