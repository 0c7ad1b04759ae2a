//! `mcd::ConvCompressDequant`: a convolution with a compressed kernel, and the requantisation or dequantisation behind it.
//!
//! - [`spec`]: inputs, attributes, forms
//! - [`overload`]: an overload for each form: shape inference, and how its nodes are bound
//! - [`shape`]: how the kernel goes over an image, as the attributes say it
//! - [`bind`]: a node's attributes and inputs, checked when its session is created
//! - [`compute`]: one call

mod bind;
mod compute;
mod overload;
mod shape;
mod spec;

pub use overload::OVERLOADS;
