//! One node of a session: what it has is checked and prepared when it is created, and then called.

use std::borrow::Cow;
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;

use mcd_core::{
    Activation, Elementwise, Heads, MatmulCall, Output, QuantOut, SplitHeads, Vector, WeightType, ZeroPoint,
};

use crate::elementwise::{Beside, spread};
use crate::ffi::{Api, Dims, ElementType, Error, KernelContext, KernelInfo, Value, element_count};
use crate::layout::{self, Layout, Moved, Order};
use crate::operand::{Columns, Operand, Read, about, bias, float_bits, floats, halves, small_integers};
use crate::operator::{Form, input};
use crate::options::Options;
use crate::pool::{Helpers, Pool};
use crate::scratch::{Buffers, Scratch};
use crate::weight::Weight;

const OFFSET_X: &CStr = c"offset_x";
const OUTPUT_TYPE: &CStr = c"output_type";
const X1_PERM: &CStr = c"x1_perm";
const Y_PERM: &CStr = c"y_perm";

/// A node.
pub struct Kernel {
    api: Api,
    /// What errors are about: the operator and the node's name.
    label: String,
    form: Form,
    weight: Weight,
    x1: X1,
    x1_zero_point: Operand<i32>,
    w_zero_point: Operand<i32>,
    bias: Operand<i32>,
    deq_scale: Operand<f32>,
    x1_scale: Operand<f32>,
    addend: Operand<f32>,
    y_zero_point: Operand<i32>,
    y_scale: Operand<f32>,
    /// Type of a requantised result that is made float again.
    requantised: WeightType,
    x1_layout: Option<Layout>,
    y_layout: Option<Layout>,
    /// Whether there is one, and which is in the place.
    gate: bool,
    residual: bool,
    helpers: Helpers,
}

impl Kernel {
    /// Checks a node and all of its weight. An error names the node, and the weight when it is about that.
    pub fn new(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let label = format!("MatmulCompressDequant node {:?}", info.node_name()?);
        match Self::checked(api, form, options, info) {
            Ok(kernel) => Ok(Self { label, ..kernel }),
            Err(error) => Err(error.within(&label)),
        }
    }

    fn checked(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let inputs = Inputs::new(info)?;
        check_attributes(form, info)?;
        if inputs.has(input::OFFSET_W) {
            return Err(Error::invalid("offset_w must be absent"));
        }
        let x1 = inputs.x1()?;
        let w = if inputs.has(input::W_ZERO_POINT) { Some(inputs.integer_type(input::W_ZERO_POINT)?) } else { None };
        let has = |index| inputs.has(index);
        let x1_layout = Layout::new(info, input::X1_SHAPE, has(input::X1_SHAPE), X1_PERM, &[Order::Heads])?;
        let orders = [Order::Heads, Order::HeadsTransposed];
        let y_layout = Layout::new(info, input::Y_SHAPE, has(input::Y_SHAPE), Y_PERM, &orders)?;
        if x1_layout.is_some() && x1 != X1::Dynamic {
            return Err(about(input::X1_SHAPE, Error::invalid("must be absent where x1 is not float")));
        }
        let weight = Weight::new(api, options, info, w)?;
        let n = weight.n()?;

        if inputs.has(input::Y_ZERO_POINT) && !inputs.has(input::DEQ_SCALE) {
            return Err(Error::invalid("y_zero_point needs a deq_scale"));
        }
        if inputs.has(input::Y_SCALE) && !inputs.has(input::Y_ZERO_POINT) {
            return Err(Error::invalid("y_scale needs a y_zero_point"));
        }
        if inputs.has(input::ADDEND) && !matches!(form, Form::Float | Form::Strict | Form::Half) {
            return Err(Error::invalid("addend needs a deq_scale, and no y_zero_point"));
        }
        for index in [input::GATE, input::RESIDUAL] {
            match inputs.element_type(index)? {
                None => {}
                Some(ElementType::FLOAT) if form == Form::Float && y_layout.is_none() => {}
                Some(ElementType::FLOAT) if form == Form::Float => {
                    return Err(about(index, Error::invalid("must be absent where y_perm is not")));
                }
                Some(ElementType::FLOAT) => {
                    return Err(about(index, Error::invalid("needs a float deq_scale, and no y_zero_point")));
                }
                Some(other) => return Err(about(index, Error::invalid(format!("is {other} instead of float")))),
            }
        }
        if inputs.has(input::X1_SCALE) && inputs.element_type(input::DEQ_SCALE)? != Some(ElementType::FLOAT) {
            return Err(Error::invalid("x1_scale needs a float deq_scale"));
        }
        if x1 == X1::Dynamic {
            if let Some(index) = [input::X1_ZERO_POINT, input::X1_SCALE].into_iter().find(|&index| inputs.has(index))
            {
                return Err(about(index, Error::invalid("must be absent where x1 is float")));
            }
            if inputs.element_type(input::DEQ_SCALE)? != Some(ElementType::FLOAT) {
                return Err(Error::invalid("a float x1 needs a float deq_scale"));
            }
        }
        let deq_scale = match form {
            Form::Raw if inputs.has(input::DEQ_SCALE) => {
                let found = info.input_type(input::DEQ_SCALE)?;
                return Err(about(input::DEQ_SCALE, Error::invalid(format!("is {found}"))));
            }
            Form::Raw => Operand::absent(input::DEQ_SCALE),
            Form::Float | Form::RequantU8 | Form::RequantI8 | Form::Dequantised => {
                inputs.operand(input::DEQ_SCALE, n, floats)?
            }
            Form::Strict => inputs.operand(input::DEQ_SCALE, n, float_bits)?,
            Form::Half => inputs.operand(input::DEQ_SCALE, n, halves)?,
        };
        let requantised = match form {
            Form::Dequantised => inputs.integer_type(input::Y_ZERO_POINT)?,
            _ => WeightType::U8,
        };
        let y_zero_point = match form {
            Form::Dequantised => inputs.operand(input::Y_ZERO_POINT, 1, zero_points(requantised))?,
            Form::RequantU8 => inputs.operand(input::Y_ZERO_POINT, 1, small_integers::<u8>)?,
            Form::RequantI8 => inputs.operand(input::Y_ZERO_POINT, 1, small_integers::<i8>)?,
            _ => Operand::absent(input::Y_ZERO_POINT),
        };
        let addend = match inputs.element_type(input::ADDEND)? {
            None => Operand::absent(input::ADDEND),
            Some(ElementType::FLOAT) => inputs.operand(input::ADDEND, n, floats)?,
            Some(ElementType::FLOAT16) => inputs.operand(input::ADDEND, n, halves)?,
            Some(other) => {
                return Err(about(input::ADDEND, Error::invalid(format!("is {other} instead of float or float16"))));
            }
        };
        Ok(Self {
            api,
            label: String::new(),
            form,
            x1,
            x1_zero_point: match x1 {
                X1::Quantised(x1) => inputs.operand(input::X1_ZERO_POINT, 1, zero_points(x1))?,
                X1::Dynamic => Operand::absent(input::X1_ZERO_POINT),
            },
            w_zero_point: match w {
                Some(w) => inputs.operand(input::W_ZERO_POINT, n, zero_points(w))?,
                None => Operand::absent(input::W_ZERO_POINT),
            },
            bias: inputs.operand(input::BIAS, n, bias)?,
            weight,
            deq_scale,
            x1_scale: inputs.operand(input::X1_SCALE, 1, floats)?,
            addend,
            y_zero_point,
            y_scale: inputs.operand(input::Y_SCALE, 1, floats)?,
            requantised,
            x1_layout,
            y_layout,
            gate: has(input::GATE),
            residual: has(input::RESIDUAL),
            helpers: Helpers::default(),
        })
    }

    /// The onnxruntime that the node belongs to.
    pub fn api(&self) -> Api {
        self.api
    }

    /// One call.
    pub fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        self.multiply(context).map_err(|error| error.within(&self.label))
    }

    fn multiply<'a>(&'a self, context: &KernelContext<'a>) -> Result<(), Error> {
        let mut dims = Dims::new();
        let x1 = context
            .input(input::X1)
            .and_then(|value| self.activation(&value, &mut dims))
            .map_err(|error| about(input::X1, error))?;
        let (weight, x2) = self.weight.get(context)?;
        weight.prefetch(x2);
        let mut split = None;
        if let Some(layout) = &self.x1_layout {
            let from = layout::four(&dims).map_err(|error| about(input::X1, error))?;
            dims = layout.shape(context, &layout::dims(layout.order.of(from)))?;
            let [_, heads, rows, columns] = from;
            split = Some(SplitHeads { heads, rows, columns });
        }

        // The result has the shape of x1, with n in the place of k.
        let (columns, leading) = dims.split_last_mut().ok_or_else(|| wrong_shape(&[], weight.k()))?;
        if usize::try_from(*columns) != Ok(weight.k()) {
            return Err(wrong_shape(&dims, weight.k()));
        }
        let m = element_count(leading)?;
        let n = weight.n();
        *columns = i64::try_from(n).expect("a container's dimensions are small");
        // Shapes are small; most nodes have neither of the two.
        let rows_dims = dims.clone();
        let gate = if self.gate { Some(Beside::read(context, input::GATE, &mut dims)?) } else { None };
        let residual = if self.residual { Some(Beside::read(context, input::RESIDUAL, &mut dims)?) } else { None };
        let count = element_count(&dims)?;
        let mut y_dims = None;
        let out = match &self.y_layout {
            None => context.output(&dims)?,
            Some(layout) => {
                let from = layout.shape(context, &dims).and_then(|dims| layout::four(&dims))?;
                y_dims = Some((layout.order, from));
                context.output(&layout::dims(layout.order.of(from)))?
            }
        };
        if count == 0 {
            return Ok(());
        }
        check_output(out.addr(), self.form)?;

        let y_shape = dims.clone();
        let dims = &mut dims;
        let mut pool = Pool::new(context.threads(), &self.helpers);
        let mut scratch = Scratch::take();
        let Buffers { results, ordered } = &mut scratch.0;
        let (x, x_zero_point, x_scale) = match &x1 {
            Values::Quantised(x) => {
                (*x, self.x1_zero_point.scalar(context, dims)?.unwrap_or(0), self.x1_scale.scalar(context, dims)?)
            }
            Values::Float(values) => (Activation::F32(values, split), 0, None),
        };
        // Written where it belongs, or, transposed or in other heads than the columns', in rows first.
        let heads = match y_dims {
            Some((Order::Heads, [_, rows, heads, columns])) if heads * columns == n => Some(Heads { rows, columns }),
            _ => None,
        };
        let y_dims = y_dims.filter(|_| heads.is_none());
        let w_zero_point = self.w_zero_point.get(context, dims)?;
        let bias = self.bias.get(context, dims)?;
        let call = MatmulCall {
            x,
            m,
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
            heads,
        };
        let deq_scale = self.deq_scale.get(context, dims)?;
        let scale = deq_scale.as_ref().map_or(Vector::Scalar(1.0), vector);
        let addend = self.addend.get(context, dims)?;
        let addend = addend.as_ref().map(vector);
        let zero_point = self.y_zero_point.scalar(context, dims)?.unwrap_or(0);
        let len = m.checked_mul(n).expect("the output exists");
        if self.form == Form::Dequantised {
            results.resize(results.len().max(len), 0);
        }
        // Tensors with as many elements as the result have its order as well; others are met when all of it is there.
        let beside = [&gate, &residual].map(|of| of.as_ref().map(|of| &of.values[..]));
        let in_order = len == count && beside.iter().flatten().all(|values| values.len() == len);
        let elementwise = match beside {
            [gate, residual] if in_order => Elementwise { gate, residual },
            _ => Elementwise::default(),
        };
        let target = if in_order && y_dims.is_none() { out } else { uninit(ordered, len).as_mut_ptr().cast() };
        // SAFETY: the output has `len` elements of the type that `form` declares, at an address that `check_output` found
        // to be aligned and not null. It is fresh, or memory that the session's user bound to this output alone. It may be
        // uninitialised: the core writes every element before it reads it. Where the result is reordered or broadcast, `target` is in
        // `ordered` instead, which has `len` elements of four bytes, and is only lent to what follows. `results` has `len` initialised bytes at least.
        let output = unsafe {
            match self.form {
                Form::Raw => Output::I32(std::slice::from_raw_parts_mut(target.cast(), len)),
                Form::Float => Output::F32 {
                    out: std::slice::from_raw_parts_mut(target.cast(), len),
                    scale,
                    addend,
                    elementwise,
                },
                Form::Strict | Form::Half => {
                    Output::F16 { out: std::slice::from_raw_parts_mut(target.cast(), len), scale, addend }
                }
                Form::RequantU8 => Output::Requant {
                    out: QuantOut::U8(std::slice::from_raw_parts_mut(target.cast(), len)),
                    scale,
                    zero_point,
                },
                Form::RequantI8 => Output::Requant {
                    out: QuantOut::I8(std::slice::from_raw_parts_mut(target.cast(), len)),
                    scale,
                    zero_point,
                },
                Form::Dequantised => {
                    let results = results.as_mut_ptr();
                    let out = match self.requantised {
                        WeightType::U8 => QuantOut::U8(std::slice::from_raw_parts_mut(results, len)),
                        WeightType::I8 => QuantOut::I8(std::slice::from_raw_parts_mut(results.cast(), len)),
                    };
                    Output::Requant { out, scale, zero_point }
                }
            }
        };
        // Where the pool failed, that says why.
        let result = weight.run(x2, &call, output, &pool).map_err(|error| Error::invalid(error.to_string()));
        pool.finish().and(result)?;
        if self.form == Form::Dequantised {
            let y_scale = self.y_scale.scalar(context, dims)?.unwrap_or(1.0);
            // SAFETY: as above; this form has not made a slice of the output before.
            let out = unsafe { std::slice::from_raw_parts_mut(target.cast::<MaybeUninit<f32>>(), len) };
            match self.requantised {
                WeightType::U8 => dequantize(results, i32::from, zero_point, y_scale, out),
                WeightType::I8 => dequantize(results, |byte| i32::from(byte.cast_signed()), zero_point, y_scale, out),
            }
        }
        if !in_order {
            // SAFETY: all of `target`'s `len` elements are written, and the output has room for `count`, as above.
            let (from, to) = unsafe {
                (
                    std::slice::from_raw_parts(target.cast::<f32>(), len),
                    std::slice::from_raw_parts_mut(out.cast::<MaybeUninit<f32>>(), count),
                )
            };
            spread((from, &rows_dims), gate.as_ref(), residual.as_ref(), (to, &y_shape));
        }
        if let Some((order, from)) = y_dims {
            // SAFETY: all of `target`'s `len` elements are written, and as many fit into the output, as above.
            unsafe {
                match self.form {
                    Form::Raw | Form::Float | Form::Dequantised => {
                        reorder::<u32>(order, from, target, out, len, &pool)
                    }
                    Form::Strict | Form::Half => reorder::<u16>(order, from, target, out, len, &pool),
                    Form::RequantU8 | Form::RequantI8 => reorder::<u8>(order, from, target, out, len, &pool),
                }
            }
        }
        pool.finish()
    }

    /// The activations, in place.
    fn activation<'a>(&self, value: &Value<'a>, dims: &mut Dims) -> Result<Values<'a>, Error> {
        Ok(match self.x1 {
            X1::Quantised(WeightType::U8) => Values::Quantised(Activation::U8(value.read_bytes::<u8>(dims)?)),
            X1::Quantised(WeightType::I8) => Values::Quantised(Activation::I8(value.read_bytes::<i8>(dims)?)),
            X1::Dynamic => Values::Float(value.read::<f32>(dims)?),
        })
    }
}

/// What `x1` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum X1 {
    /// Integers of this type.
    Quantised(WeightType),
    /// float, quantised to uint8 at each call.
    Dynamic,
}

/// The elements of `x1`.
enum Values<'a> {
    Quantised(Activation<'a>),
    Float(Cow<'a, [f32]>),
}

/// The inputs that a node has.
struct Inputs<'i, 'a> {
    info: &'i KernelInfo<'a>,
    present: [bool; input::COUNT],
}

impl<'i, 'a> Inputs<'i, 'a> {
    fn new(info: &'i KernelInfo<'a>) -> Result<Self, Error> {
        let mut present = [false; input::COUNT];
        for (index, present) in present.iter_mut().enumerate().take(info.input_count()?) {
            *present = !info.input_name(index)?.is_empty();
        }
        Ok(Self { info, present })
    }

    fn has(&self, index: usize) -> bool {
        self.present[index]
    }

    fn element_type(&self, index: usize) -> Result<Option<ElementType>, Error> {
        if !self.has(index) {
            return Ok(None);
        }
        self.info.input_type(index).map(Some)
    }

    fn x1(&self) -> Result<X1, Error> {
        match self.info.input_type(input::X1)? {
            ElementType::FLOAT => Ok(X1::Dynamic),
            ElementType::UINT8 => Ok(X1::Quantised(WeightType::U8)),
            ElementType::INT8 => Ok(X1::Quantised(WeightType::I8)),
            other => Err(about(input::X1, Error::invalid(format!("is {other} instead of uint8, int8 or float")))),
        }
    }

    fn integer_type(&self, index: usize) -> Result<WeightType, Error> {
        match self.info.input_type(index)? {
            ElementType::UINT8 => Ok(WeightType::U8),
            ElementType::INT8 => Ok(WeightType::I8),
            other => Err(about(index, Error::invalid(format!("is {other} instead of uint8 or int8")))),
        }
    }

    fn operand<T: Clone>(&self, index: usize, n: usize, read: Read<T>) -> Result<Operand<T>, Error> {
        if self.has(index) { Operand::present(self.info, index, n, read) } else { Ok(Operand::absent(index)) }
    }
}

/// Checks the attributes that a form settles.
pub fn check_attributes(form: Form, info: &KernelInfo<'_>) -> Result<(), Error> {
    if let Some(offset_x) = info.optional_int(OFFSET_X)?
        && offset_x != 0
    {
        return Err(Error::invalid(format!("offset_x is {offset_x} instead of 0")));
    }
    if let Some(output_type) = info.optional_int(OUTPUT_TYPE)?
        && output_type != form.output_type()
    {
        return Err(Error::invalid(format!(
            "output_type is {output_type}, and the types of deq_scale and y_zero_point make it {}",
            form.output_type()
        )));
    }
    Ok(())
}

fn wrong_shape(dims: &[i64], k: usize) -> Error {
    about(input::X1, Error::invalid(format!("has shape {dims:?} instead of (..., {k})")))
}

/// Refuses an address where no slice of a form's outputs may begin. onnxruntime's own memory is aligned; what a caller
/// binds to an output need not be.
fn check_output(address: usize, form: Form) -> Result<(), Error> {
    let alignment = match form {
        Form::Raw => align_of::<i32>(),
        Form::Float | Form::Dequantised => align_of::<f32>(),
        Form::Strict | Form::Half => align_of::<u16>(),
        Form::RequantU8 | Form::RequantI8 => 1,
    };
    if address == 0 || !address.is_multiple_of(alignment) {
        return Err(Error::invalid(format!("the output's memory is not at a multiple of {alignment} bytes")));
    }
    Ok(())
}

/// The first elements of a buffer that grows if it must, to be written.
fn uninit<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [MaybeUninit<T>] {
    buffer.resize(buffer.len().max(len), T::default());
    let first = &mut buffer[..len];
    // SAFETY: same layout; what is written through it is a `T` again.
    unsafe { std::slice::from_raw_parts_mut(first.as_mut_ptr().cast(), len) }
}

/// Copies `len` elements in another order.
///
/// # Safety
/// `from` has them, `to` has room for them, both are aligned for `T`, and neither is in use elsewhere.
unsafe fn reorder<T: Moved>(
    order: Order,
    dims: [usize; 4],
    from: *mut c_void,
    to: *mut c_void,
    len: usize,
    pool: &Pool<'_>,
) {
    // SAFETY: the caller's contract.
    let (from, to) = unsafe {
        (std::slice::from_raw_parts(from.cast::<T>(), len), std::slice::from_raw_parts_mut(to.cast(), len))
    };
    order.permute(from, dims, to, pool);
}

/// How zero points of a type are read.
fn zero_points(of: WeightType) -> Read<i32> {
    match of {
        WeightType::U8 => small_integers::<u8>,
        WeightType::I8 => small_integers::<i8>,
    }
}

/// `float(byte − zero_point) · scale` of each of the first bytes, as DequantizeLinear does it.
fn dequantize(bytes: &[u8], value: impl Fn(u8) -> i32, zero_point: i32, scale: f32, out: &mut [MaybeUninit<f32>]) {
    for (out, &byte) in out.iter_mut().zip(bytes) {
        out.write((value(byte) - zero_point) as f32 * scale);
    }
}

fn vector<'a>(columns: &'a Columns<'_, f32>) -> Vector<'a> {
    match columns {
        Columns::All(value) => Vector::Scalar(*value),
        Columns::Each(values) => Vector::PerColumn(values),
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
            (65, Form::Dequantised, false),
            (0, Form::RequantU8, false),
        ] {
            assert_eq!(check_output(address, form).is_ok(), accepted, "{address} {form:?}");
        }
    }
}
