//! `mcd::GatherCompressDequant`: rows of a compressed table, and the dequantisation that followed.
//!
//! - [`spec`]: inputs, attributes, forms
//! - [`overload`]: an overload for each form: shape inference, and how its nodes are bound
//! - [`bind`]: a node's attributes and inputs, checked when its session is created
//! - [`compute`]: one call

mod bind;
mod compute;
mod overload;
mod spec;

pub use overload::OVERLOADS;
