//! What tests, fuzzers and benchmarks share: one reference product, one generator of numbers, forged containers, one
//! stand-in for onnxruntime. No library is built with it.

pub mod content;
pub mod failing;
pub mod forge;
pub mod model_file;
#[cfg(feature = "onnxruntime")]
pub mod onnxruntime;
pub mod pools;
pub mod product;
mod rng;
pub mod ways;

pub use rng::Rng;
