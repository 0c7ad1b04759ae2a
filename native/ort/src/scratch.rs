//! Memory that a thread keeps from call to call, so that a call neither allocates nor touches fresh pages.

use std::cell::RefCell;

/// The buffers of one call; empty when they are taken, but for one.
#[derive(Debug, Default)]
pub struct Buffers {
    /// Scales of one call.
    pub scales: Vec<f32>,
    /// Activations that the call has quantised.
    pub activations: Vec<u8>,
    /// Requantised results that are made float again; holds what it held before.
    pub results: Vec<u8>,
    /// Activations that the call has quantised, in another order; holds what it held before.
    pub reordered: Vec<u8>,
    /// Results that are about to be brought into another order; holds what it held before.
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
        let mut buffers = KEPT.take();
        buffers.scales.clear();
        buffers.activations.clear();
        Self(buffers)
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
    fn memory_is_kept_and_its_contents_are_not() {
        let mut scratch = Scratch::take();
        scratch.0.scales.extend([1.0; 100]);
        let address = scratch.0.scales.as_ptr();
        let nested = Scratch::take();
        assert_eq!(nested.0.scales.capacity(), 0);
        drop(nested);
        drop(scratch);
        let scratch = Scratch::take();
        assert!(scratch.0.scales.is_empty());
        assert_eq!(scratch.0.scales.as_ptr(), address);
    }
}
