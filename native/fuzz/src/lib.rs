//! What the fuzz targets do with their bytes. Each target is a function that panics where a promise is broken.

use std::sync::atomic::{AtomicBool, Ordering};

pub mod aclnn;
pub mod at_open;
pub mod decoder;
pub mod elements;
mod input;
pub mod nodes;
pub mod operator;
pub mod parser;
pub mod round_trip;

/// A target.
pub type Target = fn(&[u8]);

static REACHED: AtomicBool = AtomicBool::new(false);

/// Says that an input came as far as its target is for: behind the checks, to what is compared.
fn reached() {
    REACHED.store(true, Ordering::Relaxed);
}

/// Whether an input came that far since this was asked last.
pub fn was_reached() -> bool {
    REACHED.swap(false, Ordering::Relaxed)
}

/// The targets by name, as their binaries and corpora are called.
pub const TARGETS: &[(&str, Target)] = &[
    ("aclnn", aclnn::check),
    ("at_open", at_open::check),
    ("decoder", decoder::check),
    ("elements", elements::check),
    ("nodes", nodes::check),
    ("operator", operator::check),
    ("parser", parser::check),
    ("round_trip", round_trip::check),
];
