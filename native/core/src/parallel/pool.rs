//! Threads belong to the caller: a session's own pool, rayon, or none.

use crate::error::Error;
use std::sync::{Mutex, PoisonError};

/// Runs tasks, maybe at the same time.
pub trait Parallel: Sync {
    /// Tasks that can run at the same time, at least 1.
    fn threads(&self) -> usize;
    /// Calls `task(0)` to `task(tasks − 1)`, each once, in any order, and returns when all have returned. A task may wait for
    /// what one that has begun on another thread has in hand: once begun, each must be left to run.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// As [`Parallel::run`], of tasks that may fail: all of them are run; an error of one is returned.
pub(crate) fn run_all(
    pool: &dyn Parallel,
    tasks: usize,
    task: impl Fn(usize) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    if tasks == 1 {
        return task(0);
    }
    let failure = Mutex::new(None);
    pool.run(tasks, &|i| {
        if let Err(error) = task(i) {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// A fresh set of threads for each run: for loading and for tests, too slow to start for a multiplication.
#[derive(Debug, Clone, Copy)]
pub struct Scoped(pub usize);

impl Parallel for Scoped {
    fn threads(&self) -> usize {
        self.0.max(1)
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || {
            loop {
                let t = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if t >= tasks {
                    break;
                }
                task(t);
            }
        };
        std::thread::scope(|scope| {
            let mut others = Vec::new();
            for _ in 1..self.threads().min(tasks) {
                // A thread that the system refuses, for want of memory say, is done without.
                if others.try_reserve(1).is_err() {
                    break;
                }
                match std::thread::Builder::new().spawn_scoped(scope, work) {
                    Ok(other) => others.push(other),
                    Err(_) => break,
                }
            }
            work();
            // The scope waits for their work only; a thread that is still ending is in this library's code.
            for other in others {
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }
}
