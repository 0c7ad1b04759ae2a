//! A node's attributes and inputs, checked and prepared when its session is created.

use mcd_core::WeightType;

use super::shape::{Attributes, Steps};
use super::spec::{DILATIONS, Form, GROUP, KERNEL_SHAPE, OUTPUT_TYPE, PADS, SAME, STRIDES, input};
use crate::ffi::{Api, ElementType, Error, KernelInfo};
use crate::operator::Input;
use crate::operators::operand::{Operand, Read, bias, floats, small_integers};
use crate::operators::weight::{self, Weight};
use crate::options::Options;
use crate::pool::Helpers;

/// Where the weight is.
const WEIGHT: weight::Inputs =
    weight::Inputs { x2: input::X2, index: input::COMPRESS_INDEX, declares_type: input::W_ZERO_POINT.name };

/// A node that is ready to run.
pub struct Bound {
    pub form: Form,
    pub weight: Weight,
    pub steps: Steps,
    /// Groups of channels.
    pub groups: usize,
    pub x1: WeightType,
    pub x1_zero_point: Operand<i32>,
    pub w_zero_point: Operand<i32>,
    pub bias: Operand<i32>,
    pub deq_scale: Operand<f32>,
    pub x1_scale: Operand<f32>,
    pub addend: Operand<f32>,
    pub y_zero_point: Operand<i32>,
    pub helpers: Helpers,
}

impl Bound {
    /// Checks a node and all of its weight. An error names the weight when it is about that.
    pub fn new(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let inputs = Inputs { info, count: info.input_count()? };
        let steps = Steps::new(Attributes {
            kernel_shape: info.optional_ints(KERNEL_SHAPE)?,
            strides: info.optional_ints(STRIDES)?,
            dilations: info.optional_ints(DILATIONS)?,
            pads: info.optional_ints(PADS)?,
            same: info.optional_int(SAME)?,
        })?;
        let groups = match info.optional_int(GROUP)? {
            None => 1,
            Some(group) => usize::try_from(group)
                .ok()
                .filter(|&group| group > 0)
                .ok_or_else(|| Error::invalid(format!("group is {group} instead of 1 or more")))?,
        };
        check_output_type(form, info)?;
        inputs.check_together(form)?;
        let x1 = inputs.byte_type(input::X1)?;
        let w = if inputs.has(input::W_ZERO_POINT)? { Some(inputs.byte_type(input::W_ZERO_POINT)?) } else { None };
        let weight = Weight::new(api, options, info, WEIGHT, w)?;
        let n = weight.n()?;
        Ok(Self {
            form,
            weight,
            steps,
            groups,
            x1,
            x1_zero_point: inputs.operand(input::X1_ZERO_POINT, 1, zero_points(x1))?,
            w_zero_point: inputs.operand(input::W_ZERO_POINT, n, zero_points(w.unwrap_or(WeightType::I8)))?,
            bias: inputs.operand(input::BIAS, n, bias)?,
            deq_scale: inputs.operand(input::DEQ_SCALE, n, floats)?,
            x1_scale: inputs.operand(input::X1_SCALE, 1, floats)?,
            addend: inputs.operand(input::ADDEND, n, floats)?,
            y_zero_point: inputs.operand(
                input::Y_ZERO_POINT,
                1,
                zero_points(if form == Form::RequantI8 { WeightType::I8 } else { WeightType::U8 }),
            )?,
            helpers: Helpers::default(),
        })
    }
}

/// The inputs that a node has.
struct Inputs<'i, 'a> {
    info: &'i KernelInfo<'a>,
    count: usize,
}

impl Inputs<'_, '_> {
    fn has(&self, input: Input) -> Result<bool, Error> {
        Ok(input.index < self.count && !self.info.input_name(input)?.is_empty())
    }

    /// Checks that scales, zero points and the float bias go together, and are of types that the form allows.
    fn check_together(&self, form: Form) -> Result<(), Error> {
        let scaled = self.has(input::DEQ_SCALE)?;
        for (needs, why) in [
            (input::Y_ZERO_POINT, "needs a deq_scale"),
            (input::X1_SCALE, "needs a deq_scale"),
            (input::ADDEND, "needs a deq_scale, and no y_zero_point"),
        ] {
            let alone = needs == input::ADDEND && form != Form::Float;
            if self.has(needs)? && (!scaled || alone) {
                return Err(needs.context(Error::invalid(why)));
            }
        }
        // Where onnxruntime found no overload that fits, it takes the first.
        if scaled && form == Form::Raw {
            let found = self.info.input_type(input::DEQ_SCALE)?;
            return Err(input::DEQ_SCALE.context(Error::invalid(format!("is {found} instead of float"))));
        }
        Ok(())
    }

    fn byte_type(&self, input: Input) -> Result<WeightType, Error> {
        match self.info.input_type(input)? {
            ElementType::UINT8 => Ok(WeightType::U8),
            ElementType::INT8 => Ok(WeightType::I8),
            other => Err(input.context(Error::invalid(format!("is {other} instead of uint8 or int8")))),
        }
    }

    fn operand<T: Clone>(&self, input: Input, n: usize, read: Read<T>) -> Result<Operand<T>, Error> {
        if self.has(input)? { Operand::present(self.info, input, n, read) } else { Ok(Operand::absent(input)) }
    }
}

/// Checks that the attribute says what the inputs settle.
fn check_output_type(form: Form, info: &KernelInfo<'_>) -> Result<(), Error> {
    match info.optional_int(OUTPUT_TYPE)? {
        Some(output_type) if output_type != form.output_type() => Err(Error::invalid(format!(
            "output_type is {output_type}, and the types of deq_scale and y_zero_point make it {}",
            form.output_type()
        ))),
        _ => Ok(()),
    }
}

/// How zero points of a type are read.
fn zero_points(of: WeightType) -> Read<i32> {
    match of {
        WeightType::U8 => small_integers::<u8>,
        WeightType::I8 => small_integers::<i8>,
    }
}
