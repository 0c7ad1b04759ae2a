//! One call: shapes, operands, the multiplication, what is left to do behind it.

use std::borrow::Cow;
use std::ffi::c_void;
use std::mem::MaybeUninit;

use mcd_core::{
    Activation, Elementwise, Epilogue, Heads, MatmulCall, Output, PreparedWeight, ScalarOrPerColumn, SplitHeads,
    WeightType, ZeroPoint,
};

use super::bind::{Bound, X1};
use super::elementwise::{self, broadcast_into};
use super::layout::{self, Order};
use super::postprocess::{dequantize, reorder};
use super::spec::{Form, input};
use crate::ffi::{Dims, Error, KernelContext, Value, element_count, grow};
use crate::operator::Kernel;
use crate::operators::operand::Columns;
use crate::pool::Pool;
use crate::scratch::{Buffers, Scratch};

/// The elements of `x1`.
enum Values<'a> {
    Quantized(Activation<'a>),
    Float(Cow<'a, [f32]>),
}

/// Shapes of a call and the memory of its output.
struct Shaped<'a> {
    split: Option<SplitHeads>,
    m: usize,
    /// Of the products.
    rows_dims: Dims,
    gate: Option<elementwise::Operand<'a>>,
    residual: Option<elementwise::Operand<'a>>,
    /// Of the result, before its dimensions get another order.
    dims: Dims,
    count: usize,
    order: Option<(Order, [usize; 4])>,
    out: *mut c_void,
}

impl Kernel for Bound {
    fn compute<'a>(&self, context: &KernelContext<'a>) -> Result<(), Error> {
        let mut x1_dims = Dims::new();
        let x1 = context
            .input(input::X1)
            .and_then(|value| self.activation(&value, &mut x1_dims))
            .map_err(|error| input::X1.context(error))?;
        let weight = self.weight.get(context)?;
        weight.prefetch();
        let shaped = self.shape(context, x1_dims, (weight.k(), weight.n()))?;
        if shaped.count == 0 {
            return Ok(());
        }
        check_output(shaped.out.addr(), self.form)?;

        let mut pool = Pool::new(context.threads(), &self.helpers);
        let mut scratch = Scratch::take();
        let Buffers { results, ordered } = &mut scratch.0;
        let len = shaped.m.checked_mul(weight.n()).expect("the output exists");
        if self.form == Form::Dequantized {
            grow(results, len, "results")?;
            results.resize(results.len().max(len), 0);
        }
        let heads = shaped.heads(weight.n());
        let order = shaped.order.filter(|_| heads.is_none());
        let elementwise = shaped.elementwise(len);
        let in_place = elementwise.is_some() && order.is_none();
        let target = if in_place { shaped.out } else { uninit(ordered, len)?.as_mut_ptr().cast() };
        // SAFETY: the output has `len` elements of the type that `form` declares, at an address that `check_output` found
        // to be aligned and not null. It is fresh, or memory that the session's user bound to this output alone. Where the
        // result is reordered or broadcast, `target` is in `ordered` instead, which has `len` elements of four bytes, and
        // is only lent to what follows. `results` has `len` initialised bytes at least.
        unsafe {
            let destination = Destination { target, results: results.as_mut_ptr(), len, heads };
            self.multiply(context, weight, &x1, &shaped, destination, elementwise.unwrap_or_default(), &mut pool)?;
            if self.form == Form::Dequantized {
                self.dequantize(context, results, target, len)?;
            }
            if elementwise.is_none() {
                shaped.broadcast(target, len);
            }
            if let Some(order) = order {
                reorder(self.form, order, target, shaped.out, len, &pool);
            }
        }
        pool.finish()
    }
}

/// Where the products go.
struct Destination {
    target: *mut c_void,
    /// For those that are made float again.
    results: *mut u8,
    len: usize,
    heads: Option<Heads>,
}

impl Shaped<'_> {
    /// The heads in whose order the core can write the result; other orders are left for later.
    fn heads(&self, n: usize) -> Option<Heads> {
        match self.order {
            Some((Order::Heads, [_, rows, heads, columns])) if heads * columns == n => Some(Heads { rows, columns }),
            _ => None,
        }
    }

    /// Gate and residual, if both have as many elements as the `len` products, and so their order as well; those that
    /// have not are met when all products are there.
    fn elementwise(&self, len: usize) -> Option<Elementwise<'_>> {
        let [gate, residual] = [&self.gate, &self.residual].map(|of| of.as_ref().map(|of| &of.values[..]));
        let fits = |values: Option<&[f32]>| values.is_none_or(|values| values.len() == len);
        (len == self.count && fits(gate) && fits(residual)).then_some(Elementwise { gate, residual })
    }

    /// Brings products to the shape of the result on the way through gate and residual.
    ///
    /// # Safety
    /// `target` has `len` floats, all written, and the output has room for as many as the result has.
    unsafe fn broadcast(&self, target: *const c_void, len: usize) {
        // SAFETY: the caller's contract.
        let (from, to) = unsafe {
            (
                std::slice::from_raw_parts(target.cast::<f32>(), len),
                std::slice::from_raw_parts_mut(self.out.cast::<MaybeUninit<f32>>(), self.count),
            )
        };
        broadcast_into((from, &self.rows_dims), self.gate.as_ref(), self.residual.as_ref(), (to, &self.dims));
    }
}

impl Bound {
    /// Checks the shapes of a call, and gets the output's memory.
    fn shape<'a>(
        &self,
        context: &KernelContext<'a>,
        mut dims: Dims,
        (k, n): (usize, usize),
    ) -> Result<Shaped<'a>, Error> {
        let mut split = None;
        if let Some(layout) = &self.x1_layout {
            let from = layout::four(&dims).map_err(|error| input::X1.context(error))?;
            dims = layout.shape(context, &layout::dims(layout.order.of(from)))?;
            let [_, heads, rows, columns] = from;
            split = Some(SplitHeads { heads, rows, columns });
        }
        // The result has the shape of x1, with n in the place of k.
        let (columns, leading) = dims.split_last_mut().ok_or_else(|| wrong_shape(&[], k))?;
        if usize::try_from(*columns) != Ok(k) {
            return Err(wrong_shape(&dims, k));
        }
        let m = element_count(leading)?;
        *columns = i64::try_from(n).expect("a container's dimensions are small");
        // Shapes are small; most nodes have neither of the two.
        let rows_dims = dims.clone();
        let mut operand = |present: bool, input| {
            if present { elementwise::Operand::read(context, input, &mut dims).map(Some) } else { Ok(None) }
        };
        let (gate, residual) = (operand(self.gate, input::GATE)?, operand(self.residual, input::RESIDUAL)?);
        let count = element_count(&dims)?;
        let (order, out) = match &self.y_layout {
            None => (None, context.output(&dims)?),
            Some(layout) => {
                let from = layout.shape(context, &dims).and_then(|dims| layout::four(&dims))?;
                (Some((layout.order, from)), context.output(&layout::dims(layout.order.of(from)))?)
            }
        };
        Ok(Shaped { split, m, rows_dims, gate, residual, dims, count, order, out })
    }

    /// Multiplies, and dequantises or requantises as the form says.
    ///
    /// # Safety
    /// Destination is as [`Self::output`] wants it.
    #[expect(clippy::too_many_arguments, reason = "what one call consists of")]
    unsafe fn multiply<'a>(
        &self,
        context: &KernelContext<'a>,
        weight: mcd_core::Bound<'_, PreparedWeight>,
        x1: &Values<'_>,
        shaped: &Shaped<'a>,
        destination: Destination,
        elementwise: Elementwise<'_>,
        pool: &mut Pool<'_>,
    ) -> Result<(), Error> {
        let dims = &mut Dims::new();
        let (x, x_zero_point, x_scale) = match x1 {
            Values::Quantized(x) => {
                (*x, self.x1_zero_point.scalar(context, dims)?.unwrap_or(0), self.x1_scale.scalar(context, dims)?)
            }
            Values::Float(values) => (Activation::F32(values, shaped.split), 0, None),
        };
        let w_zero_point = self.w_zero_point.get(context, dims)?;
        let bias = self.bias.get(context, dims)?;
        let call = MatmulCall {
            x,
            m: shaped.m,
            x_zero_point,
            x_scale,
            w_zero_point: match &w_zero_point {
                None => ZeroPoint::None,
                Some(Columns::All(zero_point)) => ZeroPoint::Scalar(*zero_point),
                Some(Columns::Each(zero_points)) => ZeroPoint::PerColumn(zero_points),
            },
            bias: match &bias {
                Some(Columns::Each(bias)) => Some(bias),
                _ => None,
            },
            heads: destination.heads,
        };
        let deq_scale = self.deq_scale.get(context, dims)?;
        let scale = deq_scale.as_ref().map_or(ScalarOrPerColumn::Scalar(1.0), scalar_or_per_column);
        let addend = self.addend.get(context, dims)?;
        let addend = addend.as_ref().map(scalar_or_per_column);
        let zero_point = self.y_zero_point.scalar(context, dims)?.unwrap_or(0);
        // SAFETY: the caller's contract.
        let output = unsafe { self.output(&destination, scale, addend, elementwise, zero_point) };
        // Where the pool failed, that says why.
        let result = weight.run(&call, output, pool).map_err(|error| Error::invalid(error.to_string()));
        pool.finish().and(result)
    }

    /// What the core is to make of the sums, and where.
    ///
    /// # Safety
    /// `target` has room for `len` elements of the type that the form declares, aligned, and `results` for as many bytes;
    /// nothing else uses them while the output lives.
    unsafe fn output<'b>(
        &self,
        &Destination { target, results, len, .. }: &Destination,
        scale: ScalarOrPerColumn<'b>,
        addend: Option<ScalarOrPerColumn<'b>>,
        elementwise: Elementwise<'b>,
        zero_point: i32,
    ) -> Output<'b> {
        /// # Safety
        /// As above.
        unsafe fn memory<'b, T>(data: *mut c_void, len: usize) -> &'b mut [MaybeUninit<T>] {
            // SAFETY: the caller's contract.
            unsafe { std::slice::from_raw_parts_mut(data.cast(), len) }
        }
        let dequantize = Epilogue::Dequantize { scale, addend, elementwise };
        let requantize = Epilogue::Requantize { scale, zero_point };
        // SAFETY: the caller's contract.
        unsafe {
            match (self.form, self.requantized) {
                (Form::Raw, _) => Output::new(memory::<i32>(target, len), Epilogue::Sums),
                (Form::Float, _) => Output::new(memory::<f32>(target, len), dequantize),
                (Form::Strict | Form::Half, _) => {
                    // Which have neither gate nor residual.
                    Output::new(memory::<u16>(target, len), dequantize)
                }
                (Form::RequantU8, _) => Output::new(memory::<u8>(target, len), requantize),
                (Form::RequantI8, _) => Output::new(memory::<i8>(target, len), requantize),
                (Form::Dequantized, WeightType::U8) => Output::new(memory::<u8>(results.cast(), len), requantize),
                (Form::Dequantized, WeightType::I8) => Output::new(memory::<i8>(results.cast(), len), requantize),
            }
        }
    }

    /// Makes requantised results float again.
    ///
    /// # Safety
    /// `target` has room for `len` floats, aligned, and is not in use elsewhere.
    unsafe fn dequantize(
        &self,
        context: &KernelContext<'_>,
        results: &[u8],
        target: *mut c_void,
        len: usize,
    ) -> Result<(), Error> {
        let dims = &mut Dims::new();
        let zero_point = self.y_zero_point.scalar(context, dims)?.unwrap_or(0);
        let y_scale = self.y_scale.scalar(context, dims)?.unwrap_or(1.0);
        // SAFETY: the caller's contract.
        let out = unsafe { std::slice::from_raw_parts_mut(target.cast::<MaybeUninit<f32>>(), len) };
        match self.requantized {
            WeightType::U8 => dequantize(results, i32::from, zero_point, y_scale, out),
            WeightType::I8 => dequantize(results, |byte| i32::from(byte.cast_signed()), zero_point, y_scale, out),
        }
        Ok(())
    }

    /// The activations, in place.
    fn activation<'a>(&self, value: &Value<'a>, dims: &mut Dims) -> Result<Values<'a>, Error> {
        Ok(match self.x1 {
            X1::Quantized(WeightType::U8) => Values::Quantized(Activation::U8(value.read_bytes::<u8>(dims)?)),
            X1::Quantized(WeightType::I8) => Values::Quantized(Activation::I8(value.read_bytes::<i8>(dims)?)),
            X1::Dynamic => Values::Float(value.read::<f32>(dims)?),
        })
    }
}

fn wrong_shape(dims: &[i64], k: usize) -> Error {
    input::X1.context(Error::invalid(format!("has shape {dims:?} instead of (..., {k})")))
}

/// Refuses an address where no slice of a form's outputs may begin. onnxruntime's own memory is aligned; what a caller
/// binds to an output need not be.
fn check_output(address: usize, form: Form) -> Result<(), Error> {
    let alignment = match form {
        Form::Raw => align_of::<i32>(),
        Form::Float | Form::Dequantized => align_of::<f32>(),
        Form::Strict | Form::Half => align_of::<u16>(),
        Form::RequantU8 | Form::RequantI8 => 1,
    };
    if address == 0 || !address.is_multiple_of(alignment) {
        return Err(Error::invalid(format!("the output's memory is not at a multiple of {alignment} bytes")));
    }
    Ok(())
}

/// The first elements of a buffer that grows if it must, to be written.
fn uninit<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> Result<&mut [MaybeUninit<T>], Error> {
    grow(buffer, len, "results in another order")?;
    buffer.resize(buffer.len().max(len), T::default());
    let first = &mut buffer[..len];
    // SAFETY: same layout; what is written through it is a `T` again.
    Ok(unsafe { std::slice::from_raw_parts_mut(first.as_mut_ptr().cast(), len) })
}

fn scalar_or_per_column<'a>(columns: &'a Columns<'_, f32>) -> ScalarOrPerColumn<'a> {
    match columns {
        Columns::All(value) => ScalarOrPerColumn::Scalar(*value),
        Columns::Each(values) => ScalarOrPerColumn::PerColumn(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_that_are_not_aligned_are_refused() {
        for (address, form, accepted) in [
            (64, Form::Float, true),
            (66, Form::Float, false),
            (66, Form::Half, true),
            (65, Form::Strict, false),
            (65, Form::RequantI8, true),
            (66, Form::Raw, false),
            (65, Form::Dequantized, false),
            (0, Form::RequantU8, false),
        ] {
            assert_eq!(check_output(address, form).is_ok(), accepted, "{address} {form:?}");
        }
    }
}
