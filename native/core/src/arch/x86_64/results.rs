//! What outputs are made with of the sums of a block, and where they go, for vectors of any width.

use crate::arch::output::{Destination, Elementwise, Epilogue, Output, ScalarOrPerColumn};
use crate::arch::rows::{Terms, WeightTerm};

/// What sums are corrected by: `sum + column − weight · row sum`.
pub(super) struct Corrections<'a> {
    /// What does not depend on the row.
    pub columns: &'a [i32],
    /// What the kernels' weights exceed the true ones by.
    pub weight: i32,
    pub row_sums: &'a [i32],
}

impl<'a> Corrections<'a> {
    /// If there is one zero point for all columns of the weight.
    ///
    /// # Panics
    /// If the terms are of other rows or columns than the output, of `shape`.
    fn new(shape: (usize, usize), terms: &'a Terms<'_>) -> Option<Self> {
        let WeightTerm::Scalar(weight) = terms.weight else { return None };
        assert!(shape == (terms.row_sums.len(), terms.columns.len()));
        Some(Self { columns: terms.columns, weight, row_sums: terms.row_sums })
    }

    /// What is taken off the sums of a row.
    ///
    /// # Safety
    /// The row exists.
    #[inline(always)]
    pub unsafe fn row_term(&self, row: usize) -> i32 {
        // SAFETY: the caller's contract; there is a sum for each row.
        unsafe { self.weight.wrapping_mul(*self.row_sums.get_unchecked(row)) }
    }
}

/// A kind of outputs.
pub(super) trait Kind<'a>: Sized {
    /// What makes them, and rows and columns that there are, if the outputs are of this kind.
    ///
    /// # Panics
    /// If there are scales or anything else of other rows or columns.
    fn of(out: &'a mut Output<'_>) -> Option<((usize, usize), Self)>;

    /// The same, with what their sums are corrected by, if that is a number for each column and row.
    ///
    /// # Panics
    /// As there; or if the terms are of other rows or columns.
    fn corrected(terms: &'a Terms<'_>, out: &'a mut Output<'_>) -> Option<(Corrections<'a>, Self)> {
        let (shape, kind) = Self::of(out)?;
        Some((Corrections::new(shape, terms)?, kind))
    }
}

/// Sums are the results.
pub(super) struct Summed {
    pub out: *mut i32,
    pub stride: usize,
}

impl<'a> Kind<'a> for Summed {
    fn of(out: &'a mut Output<'_>) -> Option<((usize, usize), Self)> {
        let (Destination::I32(to), Epilogue::Sums) = (&mut out.destination, &out.epilogue) else { return None };
        let (shape, stride) = ((to.rows(), to.columns()), to.stride());
        Some((shape, Self { out: to.as_mut_ptr(), stride }))
    }
}

/// Sums become floats: `scaled (+ addend) (· gate) (+ residual)`.
pub(super) struct Dequantized<'a> {
    pub out: *mut f32,
    pub stride: usize,
    pub scale: ScalarOrPerColumn<'a>,
    pub addend: Option<ScalarOrPerColumn<'a>>,
    /// For all rows, in lines as those of the output.
    pub elementwise: Elementwise<'a>,
}

impl<'a> Kind<'a> for Dequantized<'a> {
    fn of(out: &'a mut Output<'_>) -> Option<((usize, usize), Self)> {
        let (Destination::F32(to), Epilogue::Dequantize { scale, addend, elementwise }) =
            (&mut out.destination, out.epilogue)
        else {
            return None;
        };
        let (rows, columns, stride) = (to.rows(), to.columns(), to.stride());
        assert!(elementwise.covers(rows, columns, stride));
        assert!([Some(scale), addend].into_iter().flatten().all(|values| fits(values, columns)));
        Some(((rows, columns), Self { out: to.as_mut_ptr(), stride, scale, addend, elementwise }))
    }
}

/// Sums become bytes: scaled, clamped, rounded half to even, and the zero point added. NaN becomes the lowest value.
pub(super) struct Requantized<'a> {
    pub out: *mut u8,
    pub stride: usize,
    pub scale: ScalarOrPerColumn<'a>,
    /// Whether the output is int8.
    pub signed: bool,
    /// Of the output type, and what its upper limit is less the zero point.
    pub zero_point: i32,
    pub highest: f32,
}

impl<'a> Kind<'a> for Requantized<'a> {
    fn of(out: &'a mut Output<'_>) -> Option<((usize, usize), Self)> {
        let Epilogue::Requantize { scale, zero_point } = out.epilogue else { return None };
        let (out, stride, shape, lowest) = match &mut out.destination {
            Destination::U8(out) => (out.as_mut_ptr(), out.stride(), (out.rows(), out.columns()), 0),
            Destination::I8(out) => (out.as_mut_ptr().cast(), out.stride(), (out.rows(), out.columns()), -128),
            _ => return None,
        };
        assert!(fits(scale, shape.1));
        let (signed, highest) = (lowest < 0, (lowest + 255 - zero_point) as f32);
        Some((shape, Self { out, stride, scale, signed, zero_point, highest }))
    }
}

/// Whether there is a value for each column.
fn fits(values: ScalarOrPerColumn<'_>, columns: usize) -> bool {
    values.per_column().is_none_or(|each| each == columns)
}
