//! What kernels are asked for with symbols in memory: sums, or the outputs that are made of them.

use super::block::{Accumulate, Products};
use super::epilogue::Outputs;
use crate::arch::operands::{Accumulators, Extent, Rows, Symbols};
use crate::arch::output::Output;
use crate::arch::rows::Terms;
use crate::arch::x86_64::results::{Dequantized, Requantized, Summed};

/// As [`Multiplier::multiply`](crate::arch::Multiplier::multiply).
///
/// # Safety
/// The features of [`Avx512Vnni`](super::Avx512Vnni), which all kernels of AVX-512 have.
pub(super) unsafe fn to_sums<P: Products>(
    symbols: Symbols<'_>,
    extent: Extent,
    rows: &Rows<'_>,
    acc: &mut Accumulators<'_>,
) {
    assert!(symbols.bytes.len() >= extent.weights() && P::are_covered(extent, rows));
    assert!(acc.covers(rows.m(), extent.columns()));
    let stride = acc.stride();
    let (data, overwrite) = acc.data_or_overwrite();
    let to = Accumulate { at: data.as_mut_ptr(), stride, overwrite };
    // SAFETY: the caller answers for the features; the checks above cover every address that the loops form.
    unsafe { P::multiply(symbols.bytes.as_ptr(), extent, rows, &to) };
}

/// As [`Multiplier::multiply_epilogue`](crate::arch::Multiplier::multiply_epilogue).
///
/// # Safety
/// The features of [`Avx512Vnni`](super::Avx512Vnni), which all kernels of AVX-512 have.
pub(super) unsafe fn to_outputs<P: Products>(
    symbols: Symbols<'_>,
    extent: Extent,
    rows: &Rows<'_>,
    terms: &Terms<'_>,
    out: &mut Output<'_>,
) -> bool {
    assert!(symbols.bytes.len() >= extent.weights() && P::are_covered(extent, rows));
    assert!(terms.row_sums.len() == rows.m() && terms.columns.len() <= extent.columns());
    let symbols = symbols.bytes.as_ptr();
    // SAFETY: the caller answers for the features; the checks above cover symbols and rows, and the outputs have the rows and leave
    // out columns that they do not have.
    unsafe {
        if let Some(to) = Outputs::<Dequantized<'_>>::new(terms, out) {
            P::multiply(symbols, extent, rows, &to);
        } else if let Some(to) = Outputs::<Requantized<'_>>::new(terms, out) {
            P::multiply(symbols, extent, rows, &to);
        } else if let Some(to) = Outputs::<Summed>::new(terms, out) {
            P::multiply(symbols, extent, rows, &to);
        } else {
            return false;
        }
    }
    true
}
