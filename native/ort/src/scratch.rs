//! Memory that a thread keeps from call to call, so that a call neither allocates nor touches fresh pages.

use std::cell::RefCell;

/// The buffers of one call; they hold what they held before.
#[derive(Debug, Default)]
pub struct Buffers {
    /// Requantised results that are made float again.
    pub results: Vec<u8>,
    /// Results that are about to be brought into another order.
    pub ordered: Vec<u32>,
}

thread_local! {
    static KEPT: RefCell<Buffers> = RefCell::default();
}

/// The thread's buffers for the time of a call; another call on the same thread meanwhile gets new ones.
#[derive(Debug)]
pub struct Scratch(pub Buffers);

impl Scratch {
    pub fn take() -> Self {
        Self(KEPT.take())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        KEPT.set(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_and_no_two_calls_have_the_same() {
        let mut scratch = Scratch::take();
        scratch.0.results.extend([1; 100]);
        let address = scratch.0.results.as_ptr();
        let nested = Scratch::take();
        assert_eq!(nested.0.results.capacity(), 0);
        drop(nested);
        drop(scratch);
        assert_eq!(Scratch::take().0.results.as_ptr(), address);
    }
}
