//! `libmcd_aclnn.so`: a CPU stand-in for the part of Ascend's runtime that `aclnnMatmulCompressDequant` needs.
//!
//! A program written for the device compiles against our headers, links with this library and runs: device memory is
//! ordinary memory, a stream is a thread, and the operator is the project's own kernel on weights of the open codec.
//! What a device would answer with undefined behaviour is an error here, for every handle and every address is looked
//! up before it is used.
//!
//! - [`abi`]: the exported functions; the only file that touches a caller's pointers
//! - [`status`]: status codes, and the text that `aclGetRecentErrMsg` returns
//! - [`guard`]: what stands around every exported function
//! - [`mode`]: whether the document or the public implementation is followed where they differ; silence
//! - [`state`]: all live objects, handles that are never used twice, leaks
//! - [`memory`]: allocations, and which queued work uses them
//! - [`overflow`]: guard bytes behind host memory
//! - [`stream`]: work in order on a thread of its own
//! - [`tensor`]: descriptions of memory
//! - [`view`]: elements at strides, and matrices in fractals
//! - [`plan`]: what the first phase settles for the second
//! - [`arguments`]: the first phase's arguments, and the tensors behind them
//! - [`document`], [`implementation`]: what either allows
//! - [`operator`], [`launch`], [`compute`]: first phase, second phase, and the work on the stream
//! - [`scales`]: the words of `deqScale`
//! - [`inject`]: failures on request, for tests of a program's own error handling

pub mod abi;
mod arguments;
mod compute;
mod document;
mod guard;
mod implementation;
mod inject;
mod launch;
mod memory;
mod mode;
mod operator;
mod overflow;
mod plan;
mod scales;
mod state;
mod status;
mod stream;
mod tensor;
mod view;

const _: () = assert!(usize::BITS == 64, "handles carry their kind in the upper half");
