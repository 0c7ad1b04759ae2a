//! `aclrtStream`: work done in order, on a thread of its own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::status::{Checked, FAILURE, Failure, fail, panic_text, report};

/// A piece of work.
pub type Task = Box<dyn FnOnce() -> Checked<()> + Send>;

#[derive(Default)]
struct Progress {
    waiting: VecDeque<Task>,
    /// Pieces done or skipped.
    done: u64,
    closing: bool,
    /// The first failure since the last wait; what follows it is skipped, for it would work with wrong data.
    failure: Option<Failure>,
}

/// What a stream and its thread share.
#[derive(Default)]
pub struct Queue {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ticket` pieces are done; a failure since the last wait is told once.
    pub fn wait(&self, ticket: u64) -> Checked<()> {
        let mut progress = self.lock();
        while progress.done < ticket {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.failure.take().map_or(Ok(()), Err)
    }

    fn work(&self) {
        let mut progress = self.lock();
        loop {
            let Some(task) = progress.waiting.pop_front() else {
                if progress.closing {
                    return;
                }
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let skip = progress.failure.is_some();
            drop(progress);
            let result = if skip { Ok(()) } else { run(task) };
            progress = self.lock();
            if let Err(failure) = result {
                report(&format!("work on a stream failed: {}", failure.message));
                progress.failure = Some(failure);
            }
            progress.done += 1;
            self.changed.notify_all();
        }
    }
}

fn run(task: Task) -> Checked<()> {
    catch_unwind(AssertUnwindSafe(task))
        .unwrap_or_else(|payload| fail(FAILURE, format!("internal error: {}", panic_text(payload.as_ref()))))
}

/// The caller's end of a stream.
pub struct Stream {
    pub queue: Arc<Queue>,
    worker: JoinHandle<()>,
    /// Pieces queued so far, which is the number of the last one.
    pub submitted: u64,
}

impl Stream {
    /// Starts the thread.
    pub fn new() -> Checked<Self> {
        let queue = Arc::new(Queue::default());
        let shared = Arc::clone(&queue);
        let worker = Builder::new().name("aclrt stream".into()).spawn(move || shared.work());
        match worker {
            Ok(worker) => Ok(Self { queue, worker, submitted: 0 }),
            Err(error) => fail(FAILURE, format!("a thread for the stream cannot be started: {error}")),
        }
    }

    /// Queues a piece and returns its number.
    pub fn submit(&mut self, task: Task) -> u64 {
        self.queue.lock().waiting.push_back(task);
        self.queue.changed.notify_all();
        self.submitted += 1;
        self.submitted
    }

    /// Does what is queued and ends the thread.
    pub fn close(self) {
        self.queue.lock().closing = true;
        self.queue.changed.notify_all();
        // The thread cannot have panicked: its tasks are caught.
        let _ = self.worker.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_in_order() {
        let mut stream = Stream::new().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for i in 0..100 {
            let seen = Arc::clone(&seen);
            stream.submit(Box::new(move || {
                seen.lock().unwrap().push(i);
                Ok(())
            }));
        }
        stream.queue.wait(100).unwrap();
        assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
        stream.close();
    }

    #[test]
    fn a_failure_skips_what_follows_and_is_told_once() {
        let mut stream = Stream::new().unwrap();
        let ran = Arc::new(Mutex::new(false));
        stream.submit(Box::new(|| panic!("bad luck")));
        let flag = Arc::clone(&ran);
        let last = stream.submit(Box::new(move || {
            *flag.lock().unwrap() = true;
            Ok(())
        }));
        let failure = stream.queue.wait(last).unwrap_err();
        assert!(failure.message.contains("bad luck"));
        assert!(!*ran.lock().unwrap());
        let last = stream.submit(Box::new(|| Ok(())));
        stream.queue.wait(last).unwrap();
        stream.close();
    }

    #[test]
    fn closing_finishes_the_work() {
        let mut stream = Stream::new().unwrap();
        let count = Arc::new(Mutex::new(0));
        for _ in 0..10 {
            let count = Arc::clone(&count);
            stream.submit(Box::new(move || {
                *count.lock().unwrap() += 1;
                Ok(())
            }));
        }
        stream.close();
        assert_eq!(*count.lock().unwrap(), 10);
    }
}
