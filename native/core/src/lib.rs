//! Lossless codec for int8 weights and the matrix multiplication that runs from the compressed form.
//!
//! [`container`] writes and parses the three tensors of a compressed weight, [`codec`] is the entropy code,
//! [`gemm`] multiplies, [`quantize`] makes activations of floats, [`arch`] holds one kernel a processor family and
//! [`dispatch`] chooses among them. The crate knows neither Python nor onnxruntime.

mod aligned;
mod arch;
pub mod codec;
pub mod container;
mod conv;
mod decoder;
mod decompress;
mod dequantize;
pub mod dispatch;
pub mod error;
mod floats;
mod gather;
pub mod gemm;
pub mod geometry;
pub mod parallel;
pub mod quantize;
mod shared;
mod transpose;

pub use codec::{Histogram, Profile, WeightType};
pub use container::{CompressedWeight, EncodedWeight, WeightView, encode, encode_packed};
pub use conv::{ConvCall, Image, Order, Padding, Window};
pub use decoder::Bound;
pub use decompress::{Layout, VerifiedWeight, unpack, unpack_into};
pub use dequantize::{Along, Channels};
pub use dispatch::Kernel;
pub use error::Error;
pub use gather::RowPart;
pub use gemm::{
    Activation, Destination, Elementwise, Epilogue, Heads, MatmulCall, Operands, Output, PrepareOptions,
    PreparedWeight, Residency, Room, RowSource, ScalarOrPerColumn, SplitHeads, ZeroPoint,
};
pub use geometry::Tiling;
pub use parallel::{Parallel, Serial};
pub use transpose::{Matrix, transpose};
