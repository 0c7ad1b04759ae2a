//! A node's attributes and inputs, checked when its session is created.

use mcd_core::WeightType;

use super::spec::{AXIS, Form, input};
use crate::ffi::{Api, Error, KernelInfo};
use crate::operators::decoding::dtype;
use crate::operators::elements::Table;
use crate::operators::inputs::Inputs;
use crate::operators::operand::{Operand, Read, floats, floats_of_rows};
use crate::operators::weight::{self, COMPRESS_INFO, Weight, byte_type};
use crate::options::Options;
use crate::pool::Helpers;

const WEIGHT: weight::Inputs = weight::Inputs { x2: input::X2, index: input::COMPRESS_INDEX, declares_type: "dtype" };

/// What scales and zero points go along, where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    Rows,
    Columns,
}

/// A node that is ready to run.
pub struct Bound {
    pub form: Form,
    pub weight: Weight<Table>,
    pub weight_type: WeightType,
    /// Of the table.
    pub rows: usize,
    pub axis: Axis,
    pub scale: Operand<f32>,
    pub zero_point: Operand<f32>,
    pub helpers: Helpers,
}

impl Bound {
    /// Checks a node and all of its table. An error names the table when it is about that.
    pub fn new(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let (_, weight_type) = byte_type(dtype(info)?)?;
        let axis = match info.optional_int(AXIS)? {
            Some(0) => Axis::Rows,
            None | Some(1) => Axis::Columns,
            Some(other) => return Err(Error::invalid(format!("axis is {other} instead of 0 or 1"))),
        };
        let inputs = Inputs::of(info)?;
        if inputs.has(input::ZERO_POINT) && !inputs.has(input::SCALE) {
            return Err(Error::invalid("zero_point needs a scale"));
        }
        let weight: Weight<Table> = Weight::new(api, options, info, WEIGHT, Some(weight_type))?;
        let (rows, columns) = shape(info)?;
        let (count, read): (_, Read<f32>) =
            if axis == Axis::Rows { (rows, floats_of_rows) } else { (columns, floats) };
        let scale = inputs.operand(input::SCALE, count, read)?;
        let zero_point = inputs.operand(input::ZERO_POINT, count, read)?;
        Ok(Self { form, weight, weight_type, rows, axis, scale, zero_point, helpers: Helpers::default() })
    }
}

/// Rows and columns, as declared.
fn shape(info: &KernelInfo<'_>) -> Result<(usize, usize), Error> {
    let declared = info.ints(COMPRESS_INFO)?;
    let wrong = || Error::invalid(format!("compress_info is {declared:?}, which is no shape of a table"));
    let &[_, _, k, n, _] = declared.as_slice() else { return Err(wrong()) };
    match (usize::try_from(n), usize::try_from(k)) {
        (Ok(rows), Ok(columns)) if rows > 0 && columns > 0 => Ok((rows, columns)),
        _ => Err(wrong()),
    }
}
