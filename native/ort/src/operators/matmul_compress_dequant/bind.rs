//! A node's attributes and inputs, checked and prepared when its session is created.

use mcd_core::WeightType;

use super::layout::{Layout, Order};
use super::spec::{Form, OFFSET_X, OUTPUT_TYPE, X1_PERM, Y_PERM, input};
use crate::ffi::{Api, ElementType, Error, KernelInfo};
use crate::operator::Input;
use crate::operators::operand::{Operand, Read, bias, float_bits, floats, halves, small_integers};
use crate::operators::weight::{self, Weight};
use crate::options::Options;
use crate::pool::Helpers;

/// Where the weight is.
pub const WEIGHT: weight::Inputs =
    weight::Inputs { x2: input::X2, index: input::COMPRESS_INDEX, declares_type: input::W_ZERO_POINT.name };

/// A node that is ready to run on the CPU.
pub struct Bound {
    pub form: Form,
    pub weight: Weight,
    pub x1: X1,
    pub x1_zero_point: Operand<i32>,
    pub w_zero_point: Operand<i32>,
    pub bias: Operand<i32>,
    pub deq_scale: Operand<f32>,
    pub x1_scale: Operand<f32>,
    pub addend: Operand<f32>,
    pub y_zero_point: Operand<i32>,
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
        let inputs = Inputs::new(info)?;
        check_attributes(form, info)?;
        if inputs.has(input::OFFSET_W) {
            return Err(Error::invalid("offset_w must be absent"));
        }
        let x1 = inputs.x1()?;
        let w = if inputs.has(input::W_ZERO_POINT) { Some(inputs.integer_type(input::W_ZERO_POINT)?) } else { None };
        let (x1_layout, y_layout) = inputs.layouts(x1)?;
        let weight = Weight::new(api, options, info, WEIGHT, w)?;
        let n = weight.n()?;

        inputs.check_requantization(form)?;
        inputs.check_elementwise(form, y_layout.is_some())?;
        inputs.check_activation_scale(x1)?;
        let requantized = match form {
            Form::Dequantized => inputs.integer_type(input::Y_ZERO_POINT)?,
            _ => WeightType::U8,
        };
        Ok(Self {
            form,
            x1,
            x1_zero_point: match x1 {
                X1::Quantized(x1) => inputs.operand(input::X1_ZERO_POINT, 1, zero_points(x1))?,
                X1::Dynamic => Operand::absent(input::X1_ZERO_POINT),
            },
            w_zero_point: match w {
                Some(w) => inputs.operand(input::W_ZERO_POINT, n, zero_points(w))?,
                None => Operand::absent(input::W_ZERO_POINT),
            },
            bias: inputs.operand(input::BIAS, n, bias)?,
            weight,
            deq_scale: inputs.deq_scale(form, n)?,
            x1_scale: inputs.operand(input::X1_SCALE, 1, floats)?,
            addend: inputs.addend(n)?,
            y_zero_point: inputs.y_zero_point(form, requantized)?,
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

/// The inputs that a node has.
struct Inputs<'i, 'a> {
    info: &'i KernelInfo<'a>,
    present: [bool; input::ALL.len()],
}

impl<'i, 'a> Inputs<'i, 'a> {
    fn new(info: &'i KernelInfo<'a>) -> Result<Self, Error> {
        let mut present = [false; input::ALL.len()];
        for (index, present) in present.iter_mut().enumerate().take(info.input_count()?) {
            *present = !info.input_name(index)?.is_empty();
        }
        Ok(Self { info, present })
    }

    fn has(&self, input: Input) -> bool {
        self.present[input.index]
    }

    fn element_type(&self, input: Input) -> Result<Option<ElementType>, Error> {
        if !self.has(input) {
            return Ok(None);
        }
        self.info.input_type(input).map(Some)
    }

    /// The layouts of `x1` and of the result, if they have any.
    fn layouts(&self, x1: X1) -> Result<(Option<Layout>, Option<Layout>), Error> {
        let (x1_shape, y_shape) = (self.has(input::X1_SHAPE), self.has(input::Y_SHAPE));
        let of_x1 = Layout::new(self.info, input::X1_SHAPE, x1_shape, X1_PERM, &[Order::Heads])?;
        let orders = [Order::Heads, Order::HeadsTransposed];
        let of_y = Layout::new(self.info, input::Y_SHAPE, y_shape, Y_PERM, &orders)?;
        if of_x1.is_some() && x1 != X1::Dynamic {
            return Err(input::X1_SHAPE.context(Error::invalid("must be absent where x1 is not float")));
        }
        Ok((of_x1, of_y))
    }

    /// Checks that scales, zero points and the float bias go together.
    fn check_requantization(&self, form: Form) -> Result<(), Error> {
        if self.has(input::Y_ZERO_POINT) && !self.has(input::DEQ_SCALE) {
            return Err(Error::invalid("y_zero_point needs a deq_scale"));
        }
        if self.has(input::Y_SCALE) && !self.has(input::Y_ZERO_POINT) {
            return Err(Error::invalid("y_scale needs a y_zero_point"));
        }
        if self.has(input::ADDEND) && !matches!(form, Form::Float | Form::Strict | Form::Half) {
            return Err(Error::invalid("addend needs a deq_scale, and no y_zero_point"));
        }
        Ok(())
    }

    /// Checks that the node may have the gate and the residual that it has.
    fn check_elementwise(&self, form: Form, reordered: bool) -> Result<(), Error> {
        for input in [input::GATE, input::RESIDUAL] {
            let reason = match self.element_type(input)? {
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
    fn check_activation_scale(&self, x1: X1) -> Result<(), Error> {
        let float_scale = self.element_type(input::DEQ_SCALE)? == Some(ElementType::FLOAT);
        if self.has(input::X1_SCALE) && !float_scale {
            return Err(Error::invalid("x1_scale needs a float deq_scale"));
        }
        if x1 != X1::Dynamic {
            return Ok(());
        }
        if let Some(input) = [input::X1_ZERO_POINT, input::X1_SCALE].into_iter().find(|&input| self.has(input)) {
            return Err(input.context(Error::invalid("must be absent where x1 is float")));
        }
        if float_scale { Ok(()) } else { Err(Error::invalid("a float x1 needs a float deq_scale")) }
    }

    fn deq_scale(&self, form: Form, n: usize) -> Result<Operand<f32>, Error> {
        match form {
            Form::Raw if self.has(input::DEQ_SCALE) => {
                let found = self.info.input_type(input::DEQ_SCALE)?;
                Err(input::DEQ_SCALE.context(Error::invalid(format!("is {found}"))))
            }
            Form::Raw => Ok(Operand::absent(input::DEQ_SCALE)),
            Form::Float | Form::RequantU8 | Form::RequantI8 | Form::Dequantized => {
                self.operand(input::DEQ_SCALE, n, floats)
            }
            Form::Strict => self.operand(input::DEQ_SCALE, n, float_bits),
            Form::Half => self.operand(input::DEQ_SCALE, n, halves),
        }
    }

    fn y_zero_point(&self, form: Form, requantized: WeightType) -> Result<Operand<i32>, Error> {
        match form {
            Form::Dequantized => self.operand(input::Y_ZERO_POINT, 1, zero_points(requantized)),
            Form::RequantU8 => self.operand(input::Y_ZERO_POINT, 1, small_integers::<u8>),
            Form::RequantI8 => self.operand(input::Y_ZERO_POINT, 1, small_integers::<i8>),
            _ => Ok(Operand::absent(input::Y_ZERO_POINT)),
        }
    }

    fn addend(&self, n: usize) -> Result<Operand<f32>, Error> {
        match self.element_type(input::ADDEND)? {
            None => Ok(Operand::absent(input::ADDEND)),
            Some(ElementType::FLOAT) => self.operand(input::ADDEND, n, floats),
            Some(ElementType::FLOAT16) => self.operand(input::ADDEND, n, halves),
            Some(other) => {
                Err(input::ADDEND.context(Error::invalid(format!("is {other} instead of float or float16"))))
            }
        }
    }

    fn x1(&self) -> Result<X1, Error> {
        match self.info.input_type(input::X1)? {
            ElementType::FLOAT => Ok(X1::Dynamic),
            ElementType::UINT8 => Ok(X1::Quantized(WeightType::U8)),
            ElementType::INT8 => Ok(X1::Quantized(WeightType::I8)),
            other => Err(input::X1.context(Error::invalid(format!("is {other} instead of uint8, int8 or float")))),
        }
    }

    fn integer_type(&self, input: Input) -> Result<WeightType, Error> {
        match self.info.input_type(input)? {
            ElementType::UINT8 => Ok(WeightType::U8),
            ElementType::INT8 => Ok(WeightType::I8),
            other => Err(input.context(Error::invalid(format!("is {other} instead of uint8 or int8")))),
        }
    }

    fn operand<T: Clone>(&self, input: Input, n: usize, read: Read<T>) -> Result<Operand<T>, Error> {
        if self.has(input) { Operand::present(self.info, input, n, read) } else { Ok(Operand::absent(input)) }
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

/// How zero points of a type are read.
fn zero_points(of: WeightType) -> Read<i32> {
    match of {
        WeightType::U8 => small_integers::<u8>,
        WeightType::I8 => small_integers::<i8>,
    }
}
