//! A node's attributes and its weight, checked when its session is created.

use super::spec::{AXIS, Along, along, input};
use crate::ffi::{Api, Dims, Error, KernelInfo};
use crate::operators::decoding::Declared;
use crate::operators::elements::Tensor;
use crate::operators::inputs::{Inputs, zero_points};
use crate::operators::operand::{Operand, floats};
use crate::operators::weight::{self, Weight};
use crate::options::Options;
use crate::pool::Helpers;

const WEIGHT: weight::Inputs = weight::Inputs { x2: input::X2, index: input::COMPRESS_INDEX, declares_type: "dtype" };

/// A node that is ready to run.
pub struct Bound {
    pub weight: Weight<Tensor>,
    pub shape: Dims,
    /// Elements of the output.
    pub count: usize,
    /// What several scales go along.
    pub along: Along,
    pub scale: Operand<f32>,
    pub zero_point: Operand<i32>,
    pub helpers: Helpers,
}

impl Bound {
    /// Checks a node and all of its weight. An error names the weight when it is about that.
    pub fn new(api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let Declared { weight_type, shape, count } = Declared::by(info)?;
        let along = match info.optional_int(AXIS)? {
            Some(axis) => along(&shape, axis)?,
            None => Along { inner: count, count: 1 },
        };
        let weight = Weight::new(api, options, info, WEIGHT, Some(weight_type))?;
        weight.check_output(count.saturating_mul(size_of::<f32>()))?;
        let inputs = Inputs::of(info)?;
        let scale = Operand::present(info, input::SCALE, along.count, floats)?;
        let zero_point = inputs.operand(input::ZERO_POINT, along.count, zero_points(weight_type))?;
        Ok(Self { weight, shape, count, along, scale, zero_point, helpers: Helpers::default() })
    }
}
