//! Algorithms that several kernels share, written once over the registers of each.
//!
//! Everything here is inlined into functions that have the features of a kernel, which alone makes its instructions fast: a
//! trait tells what those are, and the kernel's folder has the instance. What a processor does in another way stays in that
//! folder: AVX2, which can neither expand bytes by a mask nor look up 128 of them, counts steps in bit planes and looks
//! ranks up in a pass of its own; each kernel cuts root fields out by other instructions, and has its own order of steps.

mod group;
mod levels;
mod ranks;

pub use group::{Expand, Group, LookUp};
pub use levels::{Interleaved, continuations};
pub use ranks::{ByDistance, LookedUp, Ranks, ToBeLookedUp};

/// Evaluates an expression with the width of root fields as a constant.
macro_rules! with_root_bits {
    ($bits:expr, $name:ident => $value:expr) => {{
        macro_rules! width {
            ($width:literal) => {{
                const $name: usize = $width;
                $value
            }};
        }
        match $bits {
            1 => width!(1),
            2 => width!(2),
            3 => width!(3),
            4 => width!(4),
            5 => width!(5),
            6 => width!(6),
            _ => width!(7),
        }
    }};
}
pub(crate) use with_root_bits;
