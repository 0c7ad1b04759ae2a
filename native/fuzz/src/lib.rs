//! What the fuzz targets do with their bytes. Each target is a function that panics where a promise is broken.

pub mod aclnn;
pub mod at_open;
pub mod decoder;
pub mod elements;
mod input;
pub mod nodes;
pub mod operator;
pub mod parser;
mod reach;
pub mod round_trip;

pub use reach::was_reached;

/// A target.
pub type Target = fn(&[u8]);

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
