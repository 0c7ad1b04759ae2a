//! `mcd::MatmulCompressDequant`: `(x1 @ unzip(x2) + bias) * deq_scale`, and what stood around it.
//!
//! - [`spec`]: inputs, attributes, forms
//! - [`overload`]: an overload for each form: shape inference, and how its nodes are bound
//! - [`bind`]: a node's attributes and inputs, checked when its session is created
//! - [`compute`]: one call on the CPU
//! - [`ascend`]: a node on an Ascend device
//! - [`postprocess`]: what becomes of the products afterwards
//! - [`layout`], [`elementwise`]: Transpose and Reshape, Mul and Add around the multiplication

mod ascend;
mod bind;
mod compute;
mod elementwise;
mod layout;
mod overload;
mod postprocess;
mod spec;

pub use overload::OVERLOADS;
