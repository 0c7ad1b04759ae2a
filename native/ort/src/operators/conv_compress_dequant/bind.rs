//! A node's attributes and inputs, checked and prepared when its session is created.

use mcd_core::{Order, WeightType};

use super::shape::{Attributes, Steps, order};
use super::spec::{CHANNELS_LAST, DILATIONS, Form, GROUP, KERNEL_SHAPE, PADS, SAME, STRIDES, WEIGHT, input};
use crate::ffi::{Api, ElementType, Error, KernelInfo};
use crate::operators::inputs::Inputs;
use crate::operators::operand::floats;
use crate::operators::product::{Operands, Types, check_output_type};
use crate::operators::weight::{COMPRESS_INFO, Weight};
use crate::options::Options;
use crate::pool::Helpers;

/// A node that is ready to run.
pub struct Bound {
    pub form: Form,
    pub weight: Weight,
    pub steps: Steps,
    /// Groups of channels.
    pub groups: usize,
    pub order: Order,
    pub x1: WeightType,
    pub operands: Operands,
    pub helpers: Helpers,
}

impl Bound {
    /// Checks a node and all of its weight. An error names the weight when it is about that.
    pub fn new(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let inputs = Inputs::of(info)?;
        let steps = Steps::new(Attributes {
            kernel_shape: info.optional_ints(KERNEL_SHAPE)?,
            strides: info.optional_ints(STRIDES)?,
            dilations: info.optional_ints(DILATIONS)?,
            pads: info.optional_ints(PADS)?,
            same: info.optional_int(SAME)?,
        })?;
        let groups = groups(info)?;
        let order = order(info.optional_int(CHANNELS_LAST)?)?;
        check_output_type(form, info)?;
        check_together(&inputs, form)?;
        let x1 = inputs.byte_type(input::X1)?.ok_or_else(|| input::X1.context(Error::invalid("is absent")))?;
        let w = inputs.byte_type(input::W_ZERO_POINT)?;
        let saturates = options.saturates && saturates(form, info, &steps, groups)?;
        let weight = Weight::new(api, Options { saturates, ..options }, info, WEIGHT, w)?;
        let types = Types {
            x1,
            weight: w.unwrap_or(WeightType::I8),
            y: form.results().bytes(),
            deq_scale: floats,
            addend: floats,
        };
        let operands = Operands::bind(&inputs, input::ALL, weight.n()?, &types)?;
        Ok(Self { form, weight, steps, groups, order, x1, operands, helpers: Helpers::default() })
    }
}

/// Whether products saturate where those of multiplications do. onnxruntime's are exact where it does not requantise, for then
/// the kernel is the first operand, and where each channel is convolved with one kernel.
fn saturates(form: Form, info: &KernelInfo<'_>, steps: &Steps, groups: usize) -> Result<bool, Error> {
    let shape = info.ints(COMPRESS_INFO)?;
    let is =
        |size: Option<usize>, number: Option<&i64>| size.and_then(|size| i64::try_from(size).ok()).as_ref() == number;
    let by_channel = is(steps.taps(), shape.get(2)) && is(Some(groups), shape.get(3));
    Ok(form.results().bytes().is_some() && !by_channel)
}

fn groups(info: &KernelInfo<'_>) -> Result<usize, Error> {
    let group = info.optional_int(GROUP)?.unwrap_or(1);
    usize::try_from(group)
        .ok()
        .filter(|&group| group > 0)
        .ok_or_else(|| Error::invalid(format!("group is {group} instead of 1 or more")))
}

/// Checks that scales, zero points and the float bias go together, and are of types that the form allows.
fn check_together(inputs: &Inputs<'_, '_>, form: Form) -> Result<(), Error> {
    let scale = inputs.element_type(input::DEQ_SCALE)?;
    for (needs, why) in [
        (input::Y_ZERO_POINT, "needs a deq_scale"),
        (input::X1_SCALE, "needs a deq_scale"),
        (input::ADDEND, "needs a deq_scale, and no y_zero_point"),
    ] {
        let alone = needs == input::ADDEND && form != Form::Float;
        if inputs.has(needs) && (scale.is_none() || alone) {
            return Err(needs.context(Error::invalid(why)));
        }
    }
    // Where onnxruntime found no overload that fits, it takes the first.
    match scale {
        Some(found) if form == Form::Raw => {
            Err(input::DEQ_SCALE.context(Error::invalid(format!("is {found} instead of {}", ElementType::FLOAT))))
        }
        _ => Ok(()),
    }
}
