//! The exported functions, with the names, types and status codes of Ascend's headers.
//!
//! Each checks what it is given before it uses it, and none unwinds. Pointers that a caller owns (names, dimensions, host
//! memory, places for results) cannot be checked beyond null: they are valid for the call, or, for
//! [`aclrtMemcpyAsync`], until the stream is synchronised. That is each function's safety contract.
#![allow(non_snake_case, reason = "the names are Ascend's")]
#![allow(clippy::missing_safety_doc, reason = "the contract is the module's")]

mod context;
mod descriptors;
mod device;
mod memory;
mod operator;
mod own;
mod pointers;

pub use context::*;
pub use descriptors::*;
pub use device::*;
pub use memory::*;
pub use operator::*;
pub use own::*;
