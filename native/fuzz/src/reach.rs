//! How far inputs come: a target whose inputs all stop at the first check is dead.

use std::sync::atomic::{AtomicBool, Ordering};

static REACHED: AtomicBool = AtomicBool::new(false);

/// Says that an input came as far as its target is for: behind the checks, to what is compared.
pub fn reached() {
    REACHED.store(true, Ordering::Relaxed);
}

/// Whether an input came that far since this was asked last.
pub fn was_reached() -> bool {
    REACHED.swap(false, Ordering::Relaxed)
}
