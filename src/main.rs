//! The one binary, `oarlock`. It does nothing but hand over to the command line.

use std::process::ExitCode;

/// Values, messages and tree nodes come and go by the million, many of them freed by a turn that did
/// not allocate them: see `docs/DEPENDENCIES.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Whoever first touches a huge page waits until all of it is cleared: a node's clients with its core, and the load
    // generator with what it is to send (docs/decisions/0020). A kernel without huge pages may refuse.
    rustix::thread::disable_transparent_huge_pages(true).ok();
    oarlock::cli::run(std::env::args_os())
}
