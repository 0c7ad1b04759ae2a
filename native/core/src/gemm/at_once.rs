//! A small multiplication that one thread does in three steps: it quantises all rows, corrects the columns, and has the kernel
//! multiply all panels and write the outputs.
//!
//! What other paths need to share work among threads takes as long as the products of a few rows by a weight in the first cache.

use super::activation::{Activation, SHIFT, uninit};
use super::call::MatmulCall;
use super::columns::Columns;
use super::epilogue::{SharedOutput, corrections};
use super::prepared::PreparedWeight;
use crate::arch::{CallMemory, Extent, Rows, TileKernel};
use crate::decoder::Bound;
use crate::error::{Error, resize};
use crate::geometry::{FRACTAL_K, PANEL};
use crate::quantize::Quantizer;

/// Multiply-adds up to which one thread is as fast as two, of which one has to be woken.
pub(super) const WORK: usize = 1 << 19;

/// Activations that stay in the first cache beside a panel.
const MOST: usize = 1 << 14;

/// Whether a multiplication is done like this, if one thread does it.
pub(super) fn fits(weight: &PreparedWeight, kernel: &dyn TileKernel, call: &MatmulCall<'_>) -> bool {
    weight.is_decoded()
        && kernel.epilogue_of_any_width()
        && matches!(call.x, Activation::U8(_) | Activation::F32(_, None))
        && call.x.len() <= MOST
        && weight.k().is_multiple_of(FRACTAL_K)
        && call.heads.is_none()
        && weight.multiplies_bytes(SHIFT, call.operands.w_zero_point)
}

/// Multiplies. Where the kernel has no way to do so for this output, nothing is done and the answer is `false`.
pub(super) fn run(
    weight: Bound<'_, PreparedWeight>,
    kernel: &'static dyn TileKernel,
    columns: Columns,
    call: &MatmulCall<'_>,
    output: &SharedOutput<'_>,
    CallMemory { packed, row_sums, terms, .. }: &mut CallMemory,
) -> Result<bool, Error> {
    let (m, k) = (call.m, weight.k());
    let (bytes, quantizer) = match call.x {
        Activation::F32(values, None) => {
            packed.reset(values.len(), "quantised activations")?;
            // SAFETY: the layout is the same.
            let bytes = unsafe { &mut *(std::ptr::from_mut(&mut packed[..]) as *mut [u8]) };
            let quantizer = Quantizer::from(kernel.rows().range(values));
            (&*kernel.rows().quantize(quantizer, values, uninit(bytes)), Some(quantizer))
        }
        Activation::U8(x) => (x, None),
        _ => return Ok(false),
    };
    // SAFETY: the layout is the same.
    let data = unsafe { &*(std::ptr::from_ref(bytes) as *const [i8]) };
    resize(row_sums, m, "sums of rows")?;
    let (correction, scales) = corrections(kernel, terms, &weight, columns, call, output.scale(), quantizer)?;
    let symbols = weight.decoded(&weight.geometry().tile(columns.strip * weight.geometry().tiles_k()));
    let Some(symbols) = symbols else { return Ok(false) };
    let extent = Extent::new(columns.count.div_ceil(PANEL), k / FRACTAL_K);
    let terms = correction.terms(0..columns.count, &row_sums[..m]);
    // SAFETY: this call has the output, of these rows and columns, to itself.
    let mut out = unsafe { output.block(0..m, 0..columns.count, scales.or(output.scale())) };
    let mut done = false;
    kernel.within(&mut || {
        done = kernel.multiply_epilogue(symbols, extent, Rows::new(data, k, m, k), &terms, &mut out);
    });
    Ok(done)
}
