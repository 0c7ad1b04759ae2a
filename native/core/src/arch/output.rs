//! Where results go, and what makes them of integer sums: an output is a destination and an epilogue.

use super::operands::reach;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// fp32 values, one for all columns or one a column.
#[derive(Debug, Clone, Copy)]
pub enum ScalarOrPerColumn<'a> {
    /// The same for all columns.
    Scalar(f32),
    /// (n,).
    PerColumn(&'a [f32]),
}

impl ScalarOrPerColumn<'_> {
    /// Those of columns `j0` to `j0 + count`.
    pub fn columns(&self, j0: usize, count: usize) -> Self {
        match self {
            Self::Scalar(v) => Self::Scalar(*v),
            Self::PerColumn(v) => Self::PerColumn(&v[j0..j0 + count]),
        }
    }

    /// Copies those of the columns from `j0` on.
    #[inline(always)]
    pub fn copy_to(&self, j0: usize, to: &mut [f32]) {
        match self {
            Self::Scalar(v) => to.fill(*v),
            Self::PerColumn(v) => to.copy_from_slice(&v[j0..j0 + to.len()]),
        }
    }

    /// How many there are, if there is one a column.
    pub fn per_column(&self) -> Option<usize> {
        match self {
            Self::Scalar(_) => None,
            Self::PerColumn(v) => Some(v.len()),
        }
    }
}

/// Matrices as the output is, whose elements the float results are multiplied with and then added to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Elementwise<'a> {
    /// Factors.
    pub gate: Option<&'a [f32]>,
    /// Added behind that.
    pub residual: Option<&'a [f32]>,
}

impl<'a> Elementwise<'a> {
    /// Those from element `at` on.
    pub fn from(&self, at: usize) -> Self {
        let from = |all: &'a [f32]| &all[at..];
        Self { gate: self.gate.map(from), residual: self.residual.map(from) }
    }

    /// Whether each that is there reaches over `rows` rows of `columns` elements, `stride` apart.
    pub fn covers(&self, rows: usize, columns: usize, stride: usize) -> bool {
        let covers = |of: &[f32]| reach(rows, stride, columns).is_some_and(|reach| reach <= of.len());
        [self.gate, self.residual].into_iter().flatten().all(covers)
    }
}

/// What makes results of the integer sums. Every operation is one IEEE-754 fp32 operation.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue<'a> {
    /// Nothing does: the sums are the results, int32.
    Sums,
    /// `fp32(sum) · scale (+ addend) (· gate) (+ residual)`, as fp32 or, without gate and residual, rounded to fp16 at
    /// the end.
    Dequantize {
        /// Factor.
        scale: ScalarOrPerColumn<'a>,
        /// Added behind the multiplication.
        addend: Option<ScalarOrPerColumn<'a>>,
        /// (m, n), in the order of the output.
        elementwise: Elementwise<'a>,
    },
    /// `saturate(round_half_even(fp32(sum) · scale) + zero_point)`, as uint8 or int8.
    Requantize {
        /// Factor: x_scale · w_scale / y_scale.
        scale: ScalarOrPerColumn<'a>,
        /// Of the output.
        zero_point: i32,
    },
}

impl<'a> Epilogue<'a> {
    /// What sums are multiplied with; 1 where they are the results.
    pub fn scale(&self) -> ScalarOrPerColumn<'a> {
        match self {
            Self::Sums => ScalarOrPerColumn::Scalar(1.0),
            Self::Dequantize { scale, .. } | Self::Requantize { scale, .. } => *scale,
        }
    }

    /// What is added behind that, where something is.
    pub fn addend(&self) -> Option<ScalarOrPerColumn<'a>> {
        match self {
            Self::Dequantize { addend, .. } => *addend,
            Self::Sums | Self::Requantize { .. } => None,
        }
    }

    /// Gate and residual, where there are any.
    pub fn elementwise(&self) -> Elementwise<'a> {
        match self {
            Self::Dequantize { elementwise, .. } => *elementwise,
            Self::Sums | Self::Requantize { .. } => Elementwise::default(),
        }
    }

    /// That of the `count` columns from `j0` on, with those columns of `scale` in the place of its own, whose first element
    /// is element `at` of the output.
    pub fn part(&self, scale: ScalarOrPerColumn<'a>, j0: usize, count: usize, at: usize) -> Self {
        match self {
            Self::Sums => Self::Sums,
            Self::Dequantize { addend, elementwise, .. } => Self::Dequantize {
                scale: scale.columns(j0, count),
                addend: addend.map(|addend| addend.columns(j0, count)),
                elementwise: elementwise.from(at),
            },
            Self::Requantize { zero_point, .. } => {
                Self::Requantize { scale: scale.columns(j0, count), zero_point: *zero_point }
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sums => "integer sums",
            Self::Dequantize { elementwise: Elementwise { gate: None, residual: None }, .. } => "dequantised results",
            Self::Dequantize { .. } => "dequantised results with a gate or residual",
            Self::Requantize { .. } => "requantised results",
        }
    }
}

/// Rows of memory for results, which no one else has meanwhile; they may be uninitialised.
#[derive(Debug)]
pub struct Part<'a, T> {
    at: *mut T,
    stride: usize,
    rows: usize,
    columns: usize,
    owned: PhantomData<&'a mut [MaybeUninit<T>]>,
}

impl<T> Part<'_, T> {
    /// # Safety
    /// `rows` rows of `columns` elements, `stride` apart from `at` on, can be written, and no one else has them for 'a.
    unsafe fn new(at: *mut T, stride: usize, rows: usize, columns: usize) -> Self {
        Self { at, stride, rows, columns, owned: PhantomData }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
    /// Length of rows.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }
    /// Distance of rows.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
    /// The first element of the first row.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.at
    }
    /// Row `i`.
    #[inline(always)]
    pub(crate) fn row(&mut self, i: usize) -> &mut [MaybeUninit<T>] {
        assert!(i < self.rows);
        // SAFETY: the row exists and is ours, as `new` was promised; the borrow of `self` keeps a second one away.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(i * self.stride).cast(), self.columns) }
    }
}

impl<'a, T> From<&'a mut [MaybeUninit<T>]> for Part<'a, T> {
    /// One row of all elements.
    fn from(all: &'a mut [MaybeUninit<T>]) -> Self {
        let len = all.len();
        // SAFETY: the slice is borrowed exclusively for 'a.
        unsafe { Self::new(all.as_mut_ptr().cast(), len, 1, len) }
    }
}

impl<'a, T> From<&'a mut [T]> for Part<'a, T> {
    /// One row of all elements.
    fn from(all: &'a mut [T]) -> Self {
        let len = all.len();
        // SAFETY: the slice is borrowed exclusively for 'a; nothing but elements is written to it.
        unsafe { Self::new(all.as_mut_ptr(), len, 1, len) }
    }
}

/// Memory for results, by their type. It may be uninitialised: a multiplication that succeeds has written all of it, and
/// nothing is read before it is written.
#[derive(Debug)]
pub enum Destination<'a> {
    /// int32.
    I32(Part<'a, i32>),
    /// fp32.
    F32(Part<'a, f32>),
    /// fp16, as bits.
    F16(Part<'a, u16>),
    /// uint8.
    U8(Part<'a, u8>),
    /// int8.
    I8(Part<'a, i8>),
}

/// Conversions from the memory of an output, whose type says which.
macro_rules! destinations {
    ($($type:ident to $variant:ident),*) => {
        $(
            impl<'a> From<&'a mut [$type]> for Destination<'a> {
                fn from(all: &'a mut [$type]) -> Self {
                    Self::$variant(all.into())
                }
            }
            impl<'a> From<&'a mut [MaybeUninit<$type>]> for Destination<'a> {
                fn from(all: &'a mut [MaybeUninit<$type>]) -> Self {
                    Self::$variant(all.into())
                }
            }
        )*
    };
}
destinations!(i32 to I32, f32 to F32, u16 to F16, u8 to U8, i8 to I8);

/// Evaluates an expression for the part of a destination, whatever its type.
macro_rules! of_any_type {
    ($destination:expr, $part:ident => $value:expr) => {
        match $destination {
            Destination::I32($part) => $value,
            Destination::F32($part) => $value,
            Destination::F16($part) => $value,
            Destination::U8($part) => $value,
            Destination::I8($part) => $value,
        }
    };
}

impl Destination<'_> {
    /// Elements.
    pub fn len(&self) -> usize {
        of_any_type!(self, part => part.rows * part.columns)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Distance of its rows, if it has rows of `columns` elements; all of it in one is rows without gaps.
    pub(crate) fn row_stride(&self, columns: usize) -> usize {
        of_any_type!(self, part => if part.columns == columns { part.stride } else { columns })
    }

    /// Rows of it.
    ///
    /// # Safety
    /// `rows` rows of `columns` elements, `stride` apart from element `at` on, are inside of it, and no one else has them
    /// as long as what this gives.
    pub(crate) unsafe fn part(&self, at: usize, stride: usize, rows: usize, columns: usize) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Self::I32(all) => Self::I32(Part::new(all.at.add(at), stride, rows, columns)),
                Self::F32(all) => Self::F32(Part::new(all.at.add(at), stride, rows, columns)),
                Self::F16(all) => Self::F16(Part::new(all.at.add(at), stride, rows, columns)),
                Self::U8(all) => Self::U8(Part::new(all.at.add(at), stride, rows, columns)),
                Self::I8(all) => Self::I8(Part::new(all.at.add(at), stride, rows, columns)),
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::I32(_) => "int32",
            Self::F32(_) => "fp32",
            Self::F16(_) => "fp16",
            Self::U8(_) => "uint8",
            Self::I8(_) => "int8",
        }
    }
}

/// What becomes of the sums of a multiplication: all (m, n), row-major.
#[derive(Debug)]
pub struct Output<'a> {
    /// Where the results go.
    pub destination: Destination<'a>,
    /// What makes them.
    pub epilogue: Epilogue<'a>,
}

impl<'a> Output<'a> {
    /// Results in the memory of a slice.
    pub fn new(destination: impl Into<Destination<'a>>, epilogue: Epilogue<'a>) -> Self {
        Self { destination: destination.into(), epilogue }
    }

    /// Type and results, where that type cannot hold what the epilogue makes.
    pub(crate) fn mismatch(&self) -> Option<(&'static str, &'static str)> {
        let fits = match (&self.destination, &self.epilogue) {
            (Destination::I32(_), Epilogue::Sums)
            | (Destination::F32(_), Epilogue::Dequantize { .. })
            | (Destination::U8(_) | Destination::I8(_), Epilogue::Requantize { .. }) => true,
            (Destination::F16(_), Epilogue::Dequantize { elementwise, .. }) => {
                elementwise.gate.is_none() && elementwise.residual.is_none()
            }
            _ => false,
        };
        (!fits).then(|| (self.destination.name(), self.epilogue.name()))
    }
}
