//! The one binary, `oarlock`. It does nothing but hand over to the command line.

use std::process::ExitCode;

/// Values, messages and tree nodes come and go by the million, many of them freed by a turn that did
/// not allocate them: see `docs/DEPENDENCIES.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    oarlock::cli::run(std::env::args_os())
}
