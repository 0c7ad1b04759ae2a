//! Units of work, shared out among threads that come when they can.
//!
//! Each thread begins with a run of its own, so that neighbouring units stay together; one that has none left takes half
//! of what another has not begun. So a thread that wakes up late, or that the system keeps waiting, does less, and none waits
//! for it longer than for a unit.

use crate::error::{Error, refill};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The units that are left to do.
#[derive(Debug)]
pub(crate) struct WorkQueue<'a> {
    /// Those of each thread: the first in the high half, the one behind the last in the low half.
    runs: &'a [AtomicU64],
}

fn packed(units: &Range<u32>) -> u64 {
    u64::from(units.start) << 32 | u64::from(units.end)
}

fn unpacked(run: u64) -> Range<u32> {
    (run >> 32) as u32..run as u32
}

impl<'a> WorkQueue<'a> {
    /// Units 0 to `units` − 1 for some threads, in runs of about the same length; `memory` is kept from call to call.
    ///
    /// # Panics
    /// If there are 2³² units or more, or no threads.
    pub fn new(memory: &'a mut Vec<AtomicU64>, units: usize, threads: usize) -> Result<Self, Error> {
        assert!(u32::try_from(units).is_ok() && threads > 0);
        let at = |thread| (units as u64 * thread as u64 / threads as u64) as u32;
        let run = |thread| AtomicU64::new(packed(&(at(thread)..at(thread + 1))));
        refill(memory, (0..threads).map(run), "runs of threads")?;
        Ok(Self { runs: memory })
    }

    /// How many threads there is a run for.
    pub fn threads(&self) -> usize {
        self.runs.len()
    }

    /// The next unit for a thread: of its own run or, when there is none, of one that it takes from another. Every unit is given
    /// once; several threads may have the same number, one after the other.
    pub fn next(&self, thread: usize) -> Option<usize> {
        loop {
            // No order is needed: units say nothing about each other, and a run that was used up never comes back.
            let taken = self.runs[thread].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |run| {
                let units = unpacked(run);
                (!units.is_empty()).then(|| packed(&(units.start + 1..units.end)))
            });
            if let Ok(run) = taken {
                return Some(unpacked(run).start as usize);
            }
            let longest = self.runs.iter().max_by_key(|run| unpacked(run.load(Ordering::Relaxed)).len())?;
            let mut stolen = None;
            let result = longest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |run| {
                let units = unpacked(run);
                let middle = units.start + units.len() as u32 / 2;
                stolen = Some(middle..units.end);
                (!units.is_empty()).then(|| packed(&(units.start..middle)))
            });
            match (result, stolen) {
                // Nobody else writes to a run that is used up.
                (Ok(_), Some(units)) => self.runs[thread].store(packed(&units), Ordering::Relaxed),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::pool::{Parallel, Scoped};

    #[test]
    fn every_unit_is_given_once() {
        for units in [0, 1, 2, 7, 1000] {
            for threads in [1, 2, 3, 8] {
                let memory = &mut Vec::new();
                let queue = WorkQueue::new(memory, units, threads).unwrap();
                let given: Vec<AtomicU64> = (0..units).map(|_| AtomicU64::new(0)).collect();
                Scoped(threads).run(threads, &|thread| {
                    while let Some(unit) = queue.next(thread) {
                        given[unit].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(given.iter().all(|given| given.load(Ordering::Relaxed) == 1), "{units} for {threads}");
            }
        }
    }

    #[test]
    fn a_thread_begins_with_its_own_and_takes_half_of_another_s() {
        let memory = &mut Vec::new();
        let queue = WorkQueue::new(memory, 8, 2).unwrap();
        assert_eq!(queue.next(1), Some(4));
        let first: Vec<usize> = (0..4).filter_map(|_| queue.next(0)).collect();
        assert_eq!(first, [0, 1, 2, 3]);
        // Of 5, 6 and 7, the other keeps the first.
        assert_eq!(queue.next(0), Some(6));
        assert_eq!(queue.next(1), Some(5));
        assert_eq!(queue.next(1), Some(7));
        assert_eq!((queue.next(0), queue.next(1)), (None, None));
    }

    #[test]
    fn one_thread_does_what_the_others_never_come_for() {
        let memory = &mut Vec::new();
        let queue = WorkQueue::new(memory, 100, 4).unwrap();
        let mut given: Vec<usize> = std::iter::from_fn(|| queue.next(2)).collect();
        given.sort_unstable();
        assert!(given.into_iter().eq(0..100));
    }
}
