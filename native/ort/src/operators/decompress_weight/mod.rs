//! `mcd::DecompressWeight`: a constant of bytes, decoded for whatever operator reads it.
//!
//! It stands where the constant stood; the operators that read it are not touched. It runs once a run, however many they are.
//! The session config entry `mcd.residency` means nothing to it: its output is memory that onnxruntime gives it anew at every
//! run, so a decoded copy would have to be copied, which takes about as long as decoding does, and twice the memory.
//!
//! - [`spec`]: inputs, attributes, output, as onnxruntime is told them
//! - [`overload`]: shape inference, and how its nodes are bound
//! - [`bind`]: a node's attributes and inputs, checked when its session is created
//! - [`compute`]: one call

mod bind;
mod compute;
mod overload;
mod spec;

pub use overload::OVERLOADS;
