//! Threads, and how work is shared out among them.

mod barrier;
mod pool;
mod queue;

pub(crate) use barrier::Barrier;
pub(crate) use pool::run_all;
pub use pool::{Parallel, Scoped, Serial};
pub(crate) use queue::WorkQueue;
