//! `oarlock completions SHELL`: prints what makes a shell complete the commands and flags.

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::Exit;

/// Prints a completion script for a shell.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  oarlock completions bash > /etc/bash_completion.d/oarlock")]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the script for `command`.
pub fn run(args: &CompletionsArgs, mut command: Command) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "oarlock", &mut script);
    super::print(&String::from_utf8_lossy(&script));
    Exit::Ok
}
