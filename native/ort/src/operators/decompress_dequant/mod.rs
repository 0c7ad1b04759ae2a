//! `mcd::DecompressDequant`: a constant of bytes, decoded and dequantised, for whatever operator reads the floats.
//!
//! It stands where a DequantizeLinear of a constant stood, and takes no longer: the bytes are never in memory as a whole, and
//! the session's threads share the work, which onnxruntime's own operator does on one.
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
