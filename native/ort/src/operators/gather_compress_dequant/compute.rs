//! One call: indices, the rows, what becomes of them.

use std::mem::MaybeUninit;

use mcd_core::{Along, Channels, RowPart};

use super::bind::{Axis, Bound};
use super::spec::{Indices, input};
use crate::ffi::{Dims, Error, KernelContext, with_room};
use crate::operator::Kernel;
use crate::operators::operand::Columns;
use crate::pool::Pool;

impl Kernel for Bound {
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        let mut dims = Dims::new();
        let rows = self.wanted(context, &mut dims)?;
        let table = self.weight.get(context)?;
        let columns = table.columns();
        dims.push(i64::try_from(columns).expect("a container's dimensions are small"));
        let data = context.output(&dims)?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut pool = Pool::new(context.threads(), &self.helpers);
        let result = if self.form.dequantized {
            let out = Rows::<f32>::new(data.cast(), rows.len(), columns)?;
            let dims = &mut Dims::new();
            let (scale, zero_point) = (self.scale.get(context, dims)?, self.zero_point.get(context, dims)?);
            let scale = scale.unwrap_or(Columns::All(1.0));
            let zero_point = zero_point.unwrap_or(Columns::All(0.0));
            table.gather(&rows, &pool, &|part| {
                let (scale, zero_point) = (self.along(&scale, &part), self.along(&zero_point, &part));
                // SAFETY: the table tells each part once.
                let out = unsafe { out.of(&part) };
                let channels = Channels::of_columns(part.weights.len(), scale, zero_point);
                table.kernel().dequantize(part.weights, self.weight_type, channels, 0, out);
            })
        } else {
            let out = Rows::<u8>::new(data.cast(), rows.len(), columns)?;
            table.gather(&rows, &pool, &|part| {
                // SAFETY: as above.
                let out = unsafe { out.of(&part) };
                out.iter_mut().zip(part.weights).for_each(|(to, weight)| _ = to.write(*weight));
            })
        };
        // Where the pool failed, that says why.
        pool.finish().and(result.map_err(|error| self.weight.refused(&error)))
    }
}

impl Bound {
    /// The rows that a call asks for, counted from the first; reads the shape of the indices.
    fn wanted(&self, context: &KernelContext<'_>, dims: &mut Dims) -> Result<Vec<usize>, Error> {
        let value = context.input(input::INDICES)?;
        let rows = match self.form.indices {
            Indices::I64 => value.read::<i64>(dims).map(|indices| self.counted(indices.iter().copied())),
            Indices::I32 => {
                value.read::<i32>(dims).map(|indices| self.counted(indices.iter().copied().map(i64::from)))
            }
        };
        rows.map_err(|error| input::INDICES.context(error))?
    }

    fn counted(&self, indices: impl ExactSizeIterator<Item = i64>) -> Result<Vec<usize>, Error> {
        let end = i64::try_from(self.rows).expect("a container's dimensions are small");
        let row = |index: i64| {
            let row = if index < 0 { index.checked_add(end)? } else { index };
            usize::try_from(row).ok().filter(|&row| row < self.rows)
        };
        let mut rows = with_room(indices.len(), "the rows that are asked for")?;
        for index in indices {
            // In the words of onnxruntime's Gather.
            rows.push(row(index).ok_or_else(|| {
                let range = format!("[{},{}]", -end, end - 1);
                Error::invalid(format!(
                    "indices element out of data bounds, idx={index} must be within the inclusive range {range}"
                ))
            })?);
        }
        Ok(rows)
    }

    /// What of the values goes with a part of a row.
    fn along<'a>(&self, values: &'a Columns<'_, f32>, part: &RowPart<'_>) -> Along<'a> {
        match (values, self.axis) {
            (Columns::All(value), _) => Along::Whole(*value),
            (Columns::Each(values), Axis::Rows) => Along::Whole(values[part.row]),
            (Columns::Each(values), Axis::Columns) => Along::Columns(&values[part.column..]),
        }
    }
}

/// The rows of the output, of which each part is written once.
struct Rows<T> {
    data: *mut MaybeUninit<T>,
    rows: usize,
    columns: usize,
}

// SAFETY: a pointer to memory that a call has to itself; writing to it is unsafe by itself.
unsafe impl<T> Sync for Rows<T> {}

impl<T> Rows<T> {
    /// The output of a call, which has this shape: refused where its memory is not aligned, as what a caller binds to an output
    /// need not be.
    fn new(data: *mut MaybeUninit<T>, rows: usize, columns: usize) -> Result<Self, Error> {
        if data.is_null() || !data.is_aligned() {
            let alignment = align_of::<T>();
            return Err(Error::invalid(format!("the output's memory is not at a multiple of {alignment} bytes")));
        }
        Ok(Self { data, rows, columns })
    }

    /// Where a part of a row goes.
    ///
    /// # Safety
    /// The output is live and has the shape that was said, and nothing else uses this part of it.
    #[expect(clippy::mut_from_ref, reason = "the caller answers for it")]
    unsafe fn of(&self, part: &RowPart<'_>) -> &mut [MaybeUninit<T>] {
        let len = part.weights.len();
        assert!(part.position < self.rows && part.column + len <= self.columns, "inside of the output");
        // SAFETY: the assertion says that this is inside of the output; the caller answers for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(part.position * self.columns + part.column), len) }
    }
}
