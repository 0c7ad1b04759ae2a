//! The core's parallelism on the intra-op threads of the session, so that a process has no second pool.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use mcd_core::Parallel;

use crate::ffi::{Error, Threads};
use crate::guard::panic_message;

/// What earlier calls of a node tell about the session's threads.
///
/// onnxruntime tells a custom op neither the size of its pool nor whether it has one. A session without helpers runs every
/// task on the calling thread; cutting its work into parts only costs it. So after some calls in which no other thread took
/// a task, the work is left whole, but for a try now and then: helpers may just have been busy.
#[derive(Debug, Default)]
pub struct Helpers {
    /// Calls in a row in which the caller did everything.
    alone: AtomicU32,
}

impl Helpers {
    /// Calls in a row without help after which none is expected.
    ///
    /// Short calls are often over before a helper is awake, and one that is busy with another session misses some: of helpers that
    /// come to every second call, 16 misses in a row are one call in 65,000, where 8 would be one in 250, and with the calls
    /// that are then left whole a fifth of all. A session without helpers pays for the first 16 calls of a node.
    const MISSED: u32 = 16;
    /// Calls that are left whole between two tries, so that a session without helpers pays for one in so many.
    const WHOLE: u32 = 64;

    /// Whether the next call should be cut into parts.
    fn expected(&self) -> bool {
        let alone = self.alone.load(Ordering::Relaxed);
        if alone < Self::MISSED {
            return true;
        }
        self.alone
            .store(if alone < Self::MISSED + Self::WHOLE { alone + 1 } else { Self::MISSED }, Ordering::Relaxed);
        alone == Self::MISSED + Self::WHOLE
    }

    /// Notes whether anyone helped with a call that was cut.
    fn note(&self, helped: bool) {
        if helped {
            self.alone.store(0, Ordering::Relaxed);
        } else if self.alone.load(Ordering::Relaxed) < Self::MISSED {
            self.alone.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// onnxruntime's threads, for the time of one call.
pub struct Pool<'a> {
    threads: Threads<'a>,
    helpers: &'a Helpers,
    failure: Mutex<Option<Error>>,
}

impl<'a> Pool<'a> {
    pub fn new(threads: Threads<'a>, helpers: &'a Helpers) -> Self {
        Self { threads, helpers, failure: Mutex::new(None) }
    }

    /// The first failure since the last call of a task or of onnxruntime's pool: after one, the output is not complete.
    pub fn finish(&mut self) -> Result<(), Error> {
        match self.failure.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// What a task needs; lives on the stack of the caller, who waits for all tasks.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    pool: &'a Pool<'a>,
    caller: thread::ThreadId,
    helped: AtomicBool,
}

/// # Safety
///
/// `job` points to a [`Job`] that outlives the call.
unsafe extern "system" fn run_task(job: *mut c_void, index: usize) {
    // SAFETY: the caller's contract.
    let job = unsafe { &*job.cast::<Job<'_>>() };
    if thread::current().id() != job.caller {
        job.helped.store(true, Ordering::Relaxed);
    }
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (job.task)(index))) {
        job.pool.fail(Error::internal(panic_message(payload.as_ref())));
    }
}

/// Processors that this process may use.
pub fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

impl Parallel for Pool<'_> {
    /// The processors this process may use, or one where no help is expected.
    ///
    /// More tasks than threads cost little, because a thread takes the next task by itself.
    fn threads(&self) -> usize {
        if self.helpers.expected() { processors() } else { 1 }
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        const fn shareable<T: Sync>() {}
        const { shareable::<Job<'static>>() };
        if tasks <= 1 {
            // Not worth a call, and a panic reaches the guard around the kernel.
            (0..tasks).for_each(task);
            return;
        }
        let mut job = Job { task, pool: self, caller: thread::current().id(), helped: AtomicBool::new(false) };
        // SAFETY: `job` lives until `parallel_for` returns, which is after the last task; `run_task` does not unwind,
        // and a `Job` may be shared between threads, as is asserted above.
        let result = unsafe { self.threads.parallel_for(run_task, tasks, (&raw mut job).cast()) };
        self.helpers.note(job.helped.into_inner());
        if let Err(error) = result {
            self.fail(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::{Api, KernelContext};
    use mcd_testkit::Rng;
    use mcd_testkit::onnxruntime::{ParallelFor, no_threads, table_with_pool, two_threads};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Calls `body` with the context of a kernel whose session has this pool.
    fn with_context<R>(pool: ParallelFor, body: impl FnOnce(&KernelContext<'_>) -> R) -> R {
        let table = table_with_pool(pool);
        // SAFETY: the table outlives the API, and its pool does not look at the context.
        body(&unsafe { KernelContext::new(Api::from_table(&table), std::ptr::null_mut()) })
    }

    #[test]
    fn every_task_runs_once() {
        with_context(two_threads, |context| {
            for tasks in [0, 1, 2, 7, 100] {
                let runs: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                let helpers = Helpers::default();
                let mut pool = Pool::new(context.threads(), &helpers);
                pool.run(tasks, &|i| {
                    runs[i].fetch_add(1, Ordering::Relaxed);
                });
                pool.finish().unwrap();
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{tasks}");
            }
        });
    }

    #[test]
    fn a_panic_in_a_task_is_an_error_and_the_others_run() {
        with_context(two_threads, |context| {
            let runs = AtomicU32::new(0);
            let helpers = Helpers::default();
            let mut pool = Pool::new(context.threads(), &helpers);
            pool.run(10, &|i| {
                assert!(i != 3, "task {i} is unlucky");
                runs.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(pool.finish().unwrap_err().to_string(), "internal error: task 3 is unlucky");
            assert_eq!(runs.into_inner(), 9);
        });
    }

    #[test]
    fn a_pool_that_fails_is_an_error() {
        with_context(no_threads, |context| {
            let helpers = Helpers::default();
            let mut pool = Pool::new(context.threads(), &helpers);
            pool.run(2, &|_| {});
            assert_eq!(pool.finish().unwrap_err().to_string(), "no threads today");
        });
    }

    #[test]
    fn a_pool_that_never_helps_is_asked_now_and_then() {
        let helpers = Helpers::default();
        for _ in 0..Helpers::MISSED {
            assert!(helpers.expected());
            helpers.note(false);
        }
        let mut tries = 0;
        for _ in 0..Helpers::WHOLE * 10 {
            if helpers.expected() {
                helpers.note(false);
                tries += 1;
            }
        }
        assert!((8..=11).contains(&tries), "{tries}");
        helpers.note(true);
        assert!(helpers.expected() && helpers.expected());
    }

    #[test]
    fn helpers_that_miss_every_second_call_are_expected() {
        let (helpers, mut rng) = (Helpers::default(), Rng::new(7));
        let mut whole = 0;
        for _ in 0..100_000 {
            if helpers.expected() {
                helpers.note(rng.below(2) == 0);
            } else {
                whole += 1;
            }
        }
        assert!(whole < 1000, "{whole} calls in 100,000 were left whole");
    }
}
