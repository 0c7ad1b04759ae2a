//! onnxruntime's C API, as far as the operators use it, behind types that are safe to use; nothing else dereferences
//! onnxruntime's pointers.
//!
//! Functions up to API version 20 (onnxruntime 1.20) are always there. Some of API version 24 are used where the running
//! onnxruntime has them: to borrow a tensor's shape without an allocation, to read session config entries from a kernel,
//! and to tell an unknown shape from a scalar's.
//!
//! - [`error`]: why a session cannot be created or a run cannot go on
//! - [`element`]: element types and shapes
//! - [`api`]: the function table of the running onnxruntime
//! - [`value`]: a tensor
//! - [`tensor`]: tensors that this library gives to onnxruntime
//! - [`kernel_info`]: a node, while its kernel is created
//! - [`kernel_context`]: one call of a kernel
//! - [`log`]: the log of a session
//! - [`shape_context`]: a node, while the shape of its output is inferred

mod api;
mod element;
mod error;
mod kernel_context;
mod kernel_info;
mod log;
mod shape_context;
mod tensor;
mod value;

pub use api::{API_VERSION, Api};
pub use element::{Dims, Element, ElementType, element_count};
pub use error::{Error, grow, with_room};
pub use kernel_context::{KernelContext, Threads};
pub use kernel_info::KernelInfo;
pub use shape_context::ShapeContext;
pub use tensor::ByteTensor;
pub use value::Value;
