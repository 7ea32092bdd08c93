//! Runs a target over inputs that the engine makes, or over one from a file. Keeps what is new in
//! the corpus and what breaks a target among the crashes.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use oarlock_fuzz::engine::Engine;
use oarlock_fuzz::{Target, corpus, targets};

/// Fuzzes one target. Exit code 0: nothing broke it; 1: an input did, and is kept.
#[derive(Debug, Parser)]
struct Cli {
    /// resp, frame, wal, checkpoint, config or map.
    target: String,
    /// How long.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// What the inputs are drawn from; another one than yesterday's finds other things.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this input alone.
    #[arg(long)]
    input: Option<PathBuf>,
}

/// An input that takes longer breaks its target, too.
const RUN_MAX: Duration = Duration::from_secs(20);
const REPORT_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(target) = targets::named(&cli.target) else {
        let names: Vec<_> = oarlock_fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("there is no target {}; there are {}", cli.target, names.join(", "));
        return ExitCode::from(2);
    };
    let outcome = match &cli.input {
        Some(path) => replay(target, path),
        None => fuzz(target, &cli),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

fn replay(target: &Target, path: &Path) -> std::io::Result<ExitCode> {
    let input = fs::read(path)?;
    let outcome = (target.run)(&input);
    println!("{}: {} bytes held what must hold (outcome {outcome:016x})", target.name, input.len());
    Ok(ExitCode::SUCCESS)
}

fn fuzz(target: &'static Target, cli: &Cli) -> std::io::Result<ExitCode> {
    let end = Instant::now() + Duration::from_secs_f64(cli.minutes * 60.0);
    let crashes = corpus::crashes(target.name);
    fs::create_dir_all(&crashes)?;
    // What runs stands in a file, so that it is known even if the process is killed over it.
    let running = crashes.join("running");
    let mut engine = Engine::new(target, cli.seed);
    for (path, input) in corpus::load(&corpus::folder(target.name))? {
        fs::write(&running, &input)?;
        if catch_unwind(AssertUnwindSafe(|| engine.seed(input))).is_err() {
            eprintln!("{} breaks {}", path.display(), target.name);
            return Ok(ExitCode::FAILURE);
        }
    }
    let (mut runs, mut kept, mut reported) = (0_u64, 0_u64, Instant::now());
    while Instant::now() < end {
        let input = engine.choose().to_vec();
        fs::write(&running, &input)?;
        let begun = Instant::now();
        let found = catch_unwind(AssertUnwindSafe(|| engine.run().map(<[u8]>::to_vec)));
        runs += 1;
        if found.is_err() || begun.elapsed() > RUN_MAX {
            let path = corpus::keep(&crashes, &input)?;
            fs::remove_file(&running)?;
            eprintln!(
                "an input broke {} (or took over {RUN_MAX:?}): {}",
                target.name,
                path.display()
            );
            return Ok(ExitCode::FAILURE);
        }
        if let Ok(Some(input)) = found {
            corpus::keep(&corpus::folder(target.name), &input)?;
            kept += 1;
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            let outcomes = engine.outcomes_count();
            println!(
                "{}: {runs} runs, {outcomes} kinds of outcome, {kept} inputs kept",
                target.name
            );
        }
    }
    fs::remove_file(&running)?;
    println!("{}: {runs} runs, nothing broke it, {kept} inputs kept", target.name);
    Ok(ExitCode::SUCCESS)
}
