//! The one binary, `oarlock`. It does nothing but hand over to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    oarlock::cli::run(std::env::args_os())
}
