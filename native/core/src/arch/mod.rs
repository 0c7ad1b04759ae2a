//! One kernel a processor family, all with the same results.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod feature;
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_imports, dead_code, reason = "other kernels need less of it"))]
pub mod generic;
pub mod kernel;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other kernels need less of it"))]
pub mod operands;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other kernels need less of it"))]
pub mod output;
pub mod pairs;
pub mod portable;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other kernels need less of it"))]
pub mod rows;
#[cfg(test)]
mod tests;
pub mod transposition;
pub mod workspace;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

pub use feature::Feature;
pub use kernel::{Multiplier, Refused, RowKernel, TileKernel};
pub use operands::{
    Accumulators, ByteRows, Coded, Extent, PIECE_K, PanelSteps, Pieces, Rows, Stores, Symbols, TileCode,
};
pub use workspace::{CallMemory, Places, Scratch, TermMemory, Workspace};
