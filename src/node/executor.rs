//! Starts the pinned executors, one thread each. It must not know what runs on them. Once per
//! process.
//!
use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use oarlock_types::CoreId;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::abort::AbortOnPanic;
use crate::runtime::Runtime;

/// Why the executors could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The CPUs that the process may use cannot be told.
    #[error("cannot ask which CPUs this process may use: {0}")]
    Affinity(#[source] std::io::Error),
    /// The configuration names a CPU that the process may not use.
    #[error(
        "CPU {cpu} is configured but this process may only use CPUs {available:?}; name others, or \
         none to use them all, or widen the process's CPU set (taskset, cpuset cgroup)"
    )]
    NoSuchCpu {
        /// The CPU that was asked for.
        cpu: usize,
        /// Those that there are.
        available: Vec<usize>,
    },
    /// A thread could not be started.
    #[error("cannot start the thread of core {core}: {source}")]
    Thread {
        /// Whose thread.
        core: CoreId,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A thread could not be pinned.
    #[error("cannot pin core {core} to CPU {cpu}: {source}")]
    Pin {
        /// Whose thread.
        core: CoreId,
        /// The CPU.
        cpu: usize,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kernel gave no ring.
    #[error("cannot set up the io_uring of {core}: {source}")]
    Ring {
        /// Whose.
        core: CoreId,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The running executors.
#[derive(Debug)]
pub struct Executors {
    threads: Vec<JoinHandle<()>>,
}

impl Executors {
    /// Waits until every executor's body has returned.
    pub fn join(self) {
        for thread in self.threads {
            // A panic in an executor has ended the process already.
            let _ = thread.join();
        }
    }
}

/// The CPUs that this process may use.
///
/// # Errors
/// When the system does not tell.
pub fn cpus_available() -> Result<Vec<usize>, ExecutorError> {
    let set = sched_getaffinity(None).map_err(|e| ExecutorError::Affinity(e.into()))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// A CPU for each of `cores`: those `configured`, or, when none are, those `available`, in order.
/// More cores than CPUs share them in turn.
///
/// # Errors
/// When a configured CPU is not available.
pub fn assign_cpus(
    cores: u16,
    configured: &[usize],
    available: &[usize],
) -> Result<Vec<usize>, ExecutorError> {
    if let Some(&cpu) = configured.iter().find(|cpu| !available.contains(cpu)) {
        return Err(ExecutorError::NoSuchCpu { cpu, available: available.to_vec() });
    }
    let cpus = if configured.is_empty() { available } else { configured };
    Ok(cpus.iter().copied().cycle().take(usize::from(cores)).collect())
}

/// Starts an executor on each of `cpus`, and on each the body that `bodies` makes for its core.
/// No body runs unless every executor could be set up. The threads are named `<name>-<core>`.
///
/// A panic in any of them ends the process: half a node is worse than none.
///
/// # Errors
/// When any executor cannot be set up; then none is left.
pub fn spawn_pinned<B, F>(
    cpus: &[usize],
    name: &str,
    mut bodies: impl FnMut(CoreId) -> B,
) -> Result<Executors, ExecutorError>
where
    B: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let (ready, readiness) = mpsc::channel();
    let mut threads = Vec::with_capacity(cpus.len());
    let mut starts = Vec::with_capacity(cpus.len());
    for (core, &cpu) in (0u16..).map(CoreId).zip(cpus) {
        let (start, started) = mpsc::channel::<()>();
        let (ready, body) = (ready.clone(), bodies(core));
        let thread = std::thread::Builder::new()
            .name(format!("{name}-{}", core.get()))
            .spawn(move || {
                let _guard = AbortOnPanic::new(core.to_string());
                let runtime = match set_up(core, cpu) {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                // The starter may have gone: another executor failed, and nothing is to run.
                if ready.send(Ok(())).is_ok() && started.recv().is_ok() {
                    runtime.run(body());
                }
            })
            .map_err(|source| ExecutorError::Thread { core, source })?;
        threads.push(thread);
        starts.push(start);
    }
    drop(ready);
    let executors = Executors { threads };
    if let Err(error) = readiness.into_iter().take(cpus.len()).collect::<Result<(), _>>() {
        drop(starts);
        executors.join();
        return Err(error);
    }
    for start in starts {
        // A thread that has gone by now has panicked, and the process with it.
        let _ = start.send(());
    }
    Ok(executors)
}

fn set_up(core: CoreId, cpu: usize) -> Result<Runtime, ExecutorError> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|source| ExecutorError::Pin {
        core,
        cpu,
        source: source.into(),
    })?;
    Runtime::new().map_err(|source| ExecutorError::Ring { core, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_cores_than_cpus_wrap_around() {
        assert_eq!(assign_cpus(5, &[], &[2, 3]).unwrap(), [2, 3, 2, 3, 2]);
        assert_eq!(assign_cpus(3, &[3], &[2, 3]).unwrap(), [3, 3, 3]);
        assert!(assign_cpus(0, &[], &[2]).unwrap().is_empty());
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        let error = assign_cpus(1, &[9], &[0, 1]).unwrap_err();
        assert!(error.to_string().starts_with("CPU 9 is configured"), "{error}");
    }
}
