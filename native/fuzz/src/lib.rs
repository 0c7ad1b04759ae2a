//! What the fuzz targets do with their bytes. Each target is a function that panics where a promise is broken.

pub mod decoder;
mod forge;
mod input;
mod multiply;
pub mod parser;
pub mod round_trip;

/// A target.
pub type Target = fn(&[u8]);

/// The targets by name, as their binaries and corpora are called.
pub const TARGETS: &[(&str, Target)] =
    &[("decoder", decoder::check), ("parser", parser::check), ("round_trip", round_trip::check)];
