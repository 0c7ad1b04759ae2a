//! A node's attributes and inputs, checked and prepared when its session is created.

use mcd_core::WeightType;

use super::layout::{Layout, Order};
use super::spec::{Form, OFFSET_X, WEIGHT, X1_PERM, Y_PERM, input};
use crate::ffi::{Api, ElementType, Error, KernelInfo};
use crate::operators::inputs::Inputs;
use crate::operators::operand::{Operand, Read, float_bits, floats, halves};
use crate::operators::product::{Operands, Types, check_output_type};
use crate::operators::weight::Weight;
use crate::options::Options;
use crate::pool::Helpers;

/// A node that is ready to run on the CPU.
pub struct Bound {
    pub form: Form,
    pub weight: Weight,
    pub x1: X1,
    pub operands: Operands,
    pub y_scale: Operand<f32>,
    /// Type of a requantised result that is made float again.
    pub requantized: WeightType,
    pub x1_layout: Option<Layout>,
    pub y_layout: Option<Layout>,
    /// Whether there is one.
    pub gate: bool,
    pub residual: bool,
    pub helpers: Helpers,
}

impl Bound {
    /// Checks a node and all of its weight. An error names the weight when it is about that.
    pub fn new(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let inputs = Inputs::of(info)?;
        check_attributes(form, info)?;
        if inputs.has(input::OFFSET_W) {
            return Err(Error::invalid("offset_w must be absent"));
        }
        let x1 = X1::of(info)?;
        let w = inputs.byte_type(input::W_ZERO_POINT)?;
        let (x1_layout, y_layout) = layouts(info, &inputs, x1)?;
        let weight = Weight::new(api, options, info, WEIGHT, w)?;

        check_requantization(&inputs, form)?;
        check_elementwise(&inputs, form, y_layout.is_some())?;
        check_activation_scale(&inputs, x1)?;
        let requantized = match form {
            Form::Dequantized => inputs.byte_type(input::Y_ZERO_POINT)?.unwrap_or(WeightType::U8),
            Form::RequantI8 => WeightType::I8,
            _ => WeightType::U8,
        };
        let types = Types {
            // Floats have no zero point: they are quantised at each call.
            x1: if let X1::Quantized(x1) = x1 { x1 } else { WeightType::U8 },
            weight: w.unwrap_or(WeightType::I8),
            y: requantized,
            deq_scale: scales(&inputs, form)?,
            addend: addends(&inputs)?,
        };
        Ok(Self {
            form,
            x1,
            operands: Operands::bind(&inputs, input::ALL, weight.n()?, &types)?,
            weight,
            y_scale: inputs.operand(input::Y_SCALE, 1, floats)?,
            requantized,
            x1_layout,
            y_layout,
            gate: inputs.has(input::GATE),
            residual: inputs.has(input::RESIDUAL),
            helpers: Helpers::default(),
        })
    }
}

/// What `x1` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum X1 {
    /// Integers of this type.
    Quantized(WeightType),
    /// float, quantised to uint8 at each call.
    Dynamic,
}

impl X1 {
    fn of(info: &KernelInfo<'_>) -> Result<Self, Error> {
        match info.input_type(input::X1)? {
            ElementType::FLOAT => Ok(Self::Dynamic),
            ElementType::UINT8 => Ok(Self::Quantized(WeightType::U8)),
            ElementType::INT8 => Ok(Self::Quantized(WeightType::I8)),
            other => Err(input::X1.context(Error::invalid(format!("is {other} instead of uint8, int8 or float")))),
        }
    }
}

/// The layouts of `x1` and of the result, if they have any.
fn layouts(
    info: &KernelInfo<'_>,
    inputs: &Inputs<'_, '_>,
    x1: X1,
) -> Result<(Option<Layout>, Option<Layout>), Error> {
    let (x1_shape, y_shape) = (inputs.has(input::X1_SHAPE), inputs.has(input::Y_SHAPE));
    let of_x1 = Layout::new(info, input::X1_SHAPE, x1_shape, X1_PERM, &[Order::Heads])?;
    let orders = [Order::Heads, Order::HeadsTransposed];
    let of_y = Layout::new(info, input::Y_SHAPE, y_shape, Y_PERM, &orders)?;
    if of_x1.is_some() && x1 != X1::Dynamic {
        return Err(input::X1_SHAPE.context(Error::invalid("must be absent where x1 is not float")));
    }
    Ok((of_x1, of_y))
}

/// Checks that scales, zero points and the float bias go together.
fn check_requantization(inputs: &Inputs<'_, '_>, form: Form) -> Result<(), Error> {
    if inputs.has(input::Y_ZERO_POINT) && !inputs.has(input::DEQ_SCALE) {
        return Err(Error::invalid("y_zero_point needs a deq_scale"));
    }
    if inputs.has(input::Y_SCALE) && !inputs.has(input::Y_ZERO_POINT) {
        return Err(Error::invalid("y_scale needs a y_zero_point"));
    }
    if inputs.has(input::ADDEND) && !matches!(form, Form::Float | Form::Strict | Form::Half) {
        return Err(Error::invalid("addend needs a deq_scale, and no y_zero_point"));
    }
    Ok(())
}

/// Checks that the node may have the gate and the residual that it has.
fn check_elementwise(inputs: &Inputs<'_, '_>, form: Form, reordered: bool) -> Result<(), Error> {
    for input in [input::GATE, input::RESIDUAL] {
        let reason = match inputs.element_type(input)? {
            None => continue,
            Some(ElementType::FLOAT) if form == Form::Float && !reordered => continue,
            Some(ElementType::FLOAT) if form == Form::Float => "must be absent where y_perm is not".into(),
            Some(ElementType::FLOAT) => "needs a float deq_scale, and no y_zero_point".into(),
            Some(other) => format!("is {other} instead of float"),
        };
        return Err(input.context(Error::invalid(reason)));
    }
    Ok(())
}

/// Checks that what quantised the activations, or will, goes with `deq_scale`.
fn check_activation_scale(inputs: &Inputs<'_, '_>, x1: X1) -> Result<(), Error> {
    let float_scale = inputs.element_type(input::DEQ_SCALE)? == Some(ElementType::FLOAT);
    if inputs.has(input::X1_SCALE) && !float_scale {
        return Err(Error::invalid("x1_scale needs a float deq_scale"));
    }
    if x1 != X1::Dynamic {
        return Ok(());
    }
    if let Some(input) = [input::X1_ZERO_POINT, input::X1_SCALE].into_iter().find(|&input| inputs.has(input)) {
        return Err(input.context(Error::invalid("must be absent where x1 is float")));
    }
    if float_scale { Ok(()) } else { Err(Error::invalid("a float x1 needs a float deq_scale")) }
}

/// How `deq_scale` is read.
fn scales(inputs: &Inputs<'_, '_>, form: Form) -> Result<Read<f32>, Error> {
    match (form, inputs.element_type(input::DEQ_SCALE)?) {
        // Where onnxruntime found no overload that fits, it takes the first.
        (Form::Raw, Some(found)) => Err(input::DEQ_SCALE.context(Error::invalid(format!("is {found}")))),
        (Form::Strict, _) => Ok(float_bits),
        (Form::Half, _) => Ok(halves),
        _ => Ok(floats),
    }
}

/// How `addend` is read.
fn addends(inputs: &Inputs<'_, '_>) -> Result<Read<f32>, Error> {
    match inputs.element_type(input::ADDEND)? {
        None | Some(ElementType::FLOAT) => Ok(floats),
        Some(ElementType::FLOAT16) => Ok(halves),
        Some(other) => Err(input::ADDEND.context(Error::invalid(format!("is {other} instead of float or float16")))),
    }
}

/// Checks the attributes that a form settles.
pub fn check_attributes(form: Form, info: &KernelInfo<'_>) -> Result<(), Error> {
    if let Some(offset_x) = info.optional_int(OFFSET_X)?
        && offset_x != 0
    {
        return Err(Error::invalid(format!("offset_x is {offset_x} instead of 0")));
    }
    check_output_type(form, info)
}
