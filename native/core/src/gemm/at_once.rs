//! A small multiplication that one thread does in three steps: it quantises all rows, unless they are multiplied where they are,
//! corrects the columns, and has the kernel multiply all panels and write the outputs.
//!
//! What other paths need to share work among threads takes as long as the products of a few rows by a weight in the first cache.

use super::activation::{Activation, InPlace, uninit};
use super::call::MatmulCall;
use super::columns::Columns;
use super::epilogue::{SharedOutput, corrections};
use super::prepared::PreparedWeight;
use crate::arch::{CallMemory, Extent, TileKernel};
use crate::decoder::Bound;
use crate::error::{Error, resize};
use crate::geometry::{FRACTAL_K, PANEL};
use crate::quantize::Quantizer;

/// Multiply-adds up to which one thread is as fast as two, of which one has to be woken.
pub(super) const WORK: usize = 1 << 19;

/// Activations that stay in the first cache beside a panel, where they are quantised; others are multiplied where they are.
const QUANTISED: usize = 1 << 14;
const IN_PLACE: usize = 1 << 17;

/// Whether a multiplication is done like this, if one thread does it, and its activations can be multiplied where they are.
pub(super) fn fits(weight: &PreparedWeight, kernel: &dyn TileKernel, call: &MatmulCall<'_>) -> bool {
    let most = match call.x {
        Activation::F32(_, None) if weight.k().is_multiple_of(FRACTAL_K) => QUANTISED,
        Activation::U8(_) | Activation::Rows(_) => IN_PLACE,
        _ => return false,
    };
    weight.is_decoded()
        && kernel.epilogue_of_any_width()
        && call.x.len() <= most
        && call.heads.is_none()
        && weight.multiplies_bytes(call.x.shift())
}

/// Multiplies. Where activations cannot be multiplied where they are, or the kernel has no way to make such an output, nothing is
/// done and the answer is `false`.
pub(super) fn run(
    weight: Bound<'_, PreparedWeight>,
    kernel: &'static dyn TileKernel,
    columns: Columns,
    call: &MatmulCall<'_>,
    output: &SharedOutput<'_>,
    CallMemory { packed, row_sums, places, terms, .. }: &mut CallMemory,
) -> Result<bool, Error> {
    let (m, k) = (call.m, weight.k());
    resize(row_sums, m, "sums of rows")?;
    let (in_place, quantizer) = match call.x {
        Activation::F32(values, None) => {
            packed.reset(values.len(), "quantised activations")?;
            // SAFETY: the layout is the same.
            let bytes = unsafe { &mut *(std::ptr::from_mut(&mut packed[..]) as *mut [u8]) };
            let quantizer = Quantizer::from(kernel.rows().range(values));
            let bytes = &*kernel.rows().quantize(quantizer, values, uninit(bytes));
            (InPlace { bytes, stride: k, pieces: None }, Some(quantizer))
        }
        x => match x.in_place(k, true, places)? {
            Some(in_place) => (in_place, None),
            None => return Ok(false),
        },
    };
    let extent = Extent::new(columns.count.div_ceil(PANEL), k.div_ceil(FRACTAL_K));
    if weight.needs_sums(call.operands.w_zero_point) {
        kernel.rows().sums(in_place.packed(&[]).rows(0..m, 0, extent), k, row_sums);
    }
    let rows = in_place.packed(row_sums);
    let (correction, scales) = corrections(kernel, terms, &weight, columns, call, output.scale(), quantizer)?;
    let symbols = weight.decoded(&weight.geometry().tile(columns.strip * weight.geometry().tiles_k()));
    let Some(symbols) = symbols else { return Ok(false) };
    let terms = correction.terms(0..columns.count, &rows.sums[..m]);
    // SAFETY: this call has the output, of these rows and columns, to itself.
    let mut out = unsafe { output.block(0..m, 0..columns.count, scales.or(output.scale())) };
    let mut done = false;
    kernel.within(&mut || {
        done = kernel.multiply_epilogue(symbols, extent, rows.rows(0..m, 0, extent), &terms, &mut out);
    });
    Ok(done)
}
