//! Enough of onnxruntime's C API for operators to be registered, created, inferred and run, with a node and tensors that are
//! described freely. What onnxruntime promises of pointers and sizes holds; what it promises of values need not.

mod inference;
mod kernel_context;
mod kernel_info;
mod lent;
mod node;
mod operator;
mod registration;
mod status;
mod table;
mod tensor;
mod threads;

pub use node::{Node, NodeInput, Tensor, size_of_element};
pub use operator::{Kernel, Operator, RegisterCustomOps, register};
pub use status::message;
pub use table::{ParallelFor, Version, bare_base, base, table_with_pool};
pub use threads::{in_turn, no_threads, two_threads};
