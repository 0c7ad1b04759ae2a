//! A step that must be complete before the next one begins, within one visit of the threads: waking them costs more than
//! most steps take.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Looks at an unfinished unit before a thread lets others have its processor: some microseconds.
const SPIN_LIMIT: usize = 1 << 10;

/// The units of a step, done by whichever threads are there.
#[derive(Debug)]
pub(crate) struct Barrier {
    units: usize,
    next: AtomicUsize,
    done: AtomicUsize,
}

/// Counts a unit as done, even where it panics: then whoever ran the thread says so.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Barrier {
    pub fn new(units: usize) -> Self {
        Self { units, next: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Does units until none is left, and returns when all are done: those that other threads have begun are waited for, and no
    /// others, so that nothing waits for a thread that never comes. What was written for them is visible then.
    pub fn share(&self, mut unit: impl FnMut(usize)) {
        loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            if next >= self.units {
                break;
            }
            let _counted = Counted(&self.done);
            unit(next);
        }
        let mut looks = 0;
        while self.done.load(Ordering::Acquire) < self.units {
            looks += 1;
            if looks < SPIN_LIMIT {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::pool::{Parallel, Scoped};

    #[test]
    fn a_step_ends_when_all_of_it_is_done() {
        for units in [0, 1, 5, 100] {
            for threads in [1, 2, 5] {
                let (first, second) = (Barrier::new(units), Barrier::new(units));
                let done: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
                Scoped(threads).run(threads, &|_| {
                    first.share(|unit| _ = done[unit].fetch_add(1, Ordering::Relaxed));
                    assert!(done.iter().all(|done| done.load(Ordering::Relaxed) >= 1));
                    second.share(|unit| _ = done[unit].fetch_add(1, Ordering::Relaxed));
                    assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 2));
                });
            }
        }
    }

    #[test]
    fn a_unit_that_panics_keeps_no_one_waiting() {
        let step = Barrier::new(3);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            step.share(|unit| assert!(unit != 1, "unit 1 is unlucky"));
        }));
        assert!(result.is_err());
        step.share(|_| {});
        assert_eq!(step.done.into_inner(), 3);
    }
}
