//! `mcd::DecompressDequant`: a constant of bytes, decoded and dequantised, for whatever operator reads the floats.
//!
//! It stands where a DequantizeLinear of a constant stood, and takes no longer: the session's threads share the work, which
//! onnxruntime's own operator does on one, and the bytes are in memory as a whole only where they are decoded more slowly than
//! they are read.
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
