//! Pools whose order of work is known.

use mcd_core::Parallel;

/// Pretends to have threads: the tasks run one after the other, the last one first.
#[derive(Debug, Clone, Copy)]
pub struct Backwards(pub usize);

impl Parallel for Backwards {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).rev().for_each(task);
    }
}

/// Threads that deal the tasks out like cards, so that each has some of them.
#[derive(Debug, Clone, Copy)]
pub struct Dealt(pub usize);

impl Parallel for Dealt {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for first in 0..self.0 {
                scope.spawn(move || (first..tasks).step_by(self.0).for_each(task));
            }
        });
    }
}
