//! One call: shapes, operands, the multiplication, what is left to do behind it.

use std::borrow::Cow;
use std::ffi::c_void;
use std::mem::MaybeUninit;

use mcd_core::{Activation, Elementwise, Heads, MatmulCall, SplitHeads, WeightType};

use super::bind::{Bound, X1};
use super::elementwise::{self, broadcast_into};
use super::layout::{self, Order};
use super::postprocess::{dequantize, reorder};
use super::spec::{Form, input};
use crate::ffi::{Dims, Error, KernelContext, Value, element_count, grow};
use crate::operator::{Kernel, Signature};
use crate::operators::output::{check_address, elements};
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
        check_address(shaped.out.addr(), self.form.output())?;
        let values = self.operands.get(context)?;
        let heads = shaped.heads(weight.n());
        let x = match &x1 {
            Values::Quantized(x) => *x,
            Values::Float(values) => Activation::F32(values, shaped.split),
        };
        let call = MatmulCall { x, m: shaped.m, operands: values.operands(), heads };

        let mut pool = Pool::new(context.threads(), &self.helpers);
        let mut scratch = Scratch::take();
        let Buffers { results, ordered } = &mut scratch.0;
        let len = shaped.m.checked_mul(weight.n()).expect("the output exists");
        let order = shaped.order.filter(|_| heads.is_none());
        let elementwise = shaped.elementwise(len);
        let in_place = elementwise.is_some() && order.is_none();
        let target = if in_place { shaped.out } else { uninit(ordered, len)?.as_mut_ptr().cast() };
        let products =
            if self.form == Form::Dequantized { uninit(results, len)?.as_mut_ptr().cast() } else { target };
        // SAFETY: the output has `len` elements of the type that `form` declares, at an address that was found to be aligned and
        // not null. It is fresh, or memory that the session's user bound to this output alone. Where the result is reordered or
        // broadcast, `target` is in `ordered` instead, which has `len` elements of four bytes, and is only lent to what follows.
        // So is `products` in `results` where bytes are made float again; that has `len` initialised bytes at least.
        unsafe {
            let made = self.form.results(self.requantized);
            let output = made.output(products, len, &values, elementwise.unwrap_or_default());
            // Where the pool failed, that says why.
            let result = weight.run(&call, output, &pool).map_err(|error| Error::invalid(error.to_string()));
            pool.finish().and(result)?;
            if self.form == Form::Dequantized {
                let y_scale = self.y_scale.scalar(context, &mut Dims::new())?.unwrap_or(1.0);
                let out = elements(target, len);
                dequantize((results, self.requantized), values.y_zero_point, y_scale, out);
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

/// The first elements of a buffer that grows if it must, to be written.
fn uninit<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> Result<&mut [MaybeUninit<T>], Error> {
    grow(buffer, len, "results on their way")?;
    buffer.resize(buffer.len().max(len), T::default());
    let first = &mut buffer[..len];
    // SAFETY: same layout; what is written through it is a `T` again.
    Ok(unsafe { std::slice::from_raw_parts_mut(first.as_mut_ptr().cast(), len) })
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
            assert_eq!(check_address(address, form.output()).is_ok(), accepted, "{address} {form:?}");
        }
    }
}
