//! Memory that a thread keeps from call to call, so that a call neither allocates nor touches fresh pages.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// The buffers of one call; empty when they are taken, whatever they held before.
#[derive(Debug, Default)]
pub struct Buffers {
    /// Scales of one call.
    pub scales: Vec<f32>,
}

thread_local! {
    static KEPT: RefCell<Buffers> = RefCell::default();
}

/// The thread's buffers for the time of a call; another call on the same thread meanwhile gets new ones.
#[derive(Debug)]
pub struct Scratch(Buffers);

impl Scratch {
    pub fn take() -> Self {
        let mut buffers = KEPT.take();
        buffers.scales.clear();
        Self(buffers)
    }
}

impl Deref for Scratch {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Buffers {
        &mut self.0
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
        scratch.scales.extend([1.0; 100]);
        let address = scratch.scales.as_ptr();
        let nested = Scratch::take();
        assert_eq!(nested.scales.capacity(), 0);
        drop(nested);
        drop(scratch);
        let scratch = Scratch::take();
        assert!(scratch.scales.is_empty());
        assert_eq!(scratch.scales.as_ptr(), address);
    }
}
