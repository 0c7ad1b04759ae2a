//! What operators that multiply by a weight share: the operands besides the two matrices, and what becomes of the sums.

use std::ffi::{CStr, c_void};

use mcd_core::{Elementwise, Epilogue, Output, ScalarOrPerColumn, WeightType, ZeroPoint};

use super::inputs::{Inputs, zero_points};
use super::operand::{Columns, Operand, Read, bias, floats};
use super::output::elements;
use crate::ffi::{Dims, Error, KernelContext, KernelInfo};
use crate::operator::{Input, Signature};

/// ONNX's number of the type of the output.
const OUTPUT_TYPE: &CStr = c"output_type";

/// Checks that this attribute says what the inputs settle.
pub fn check_output_type(form: impl Signature, info: &KernelInfo<'_>) -> Result<(), Error> {
    let settled = form.output() as i64;
    match info.optional_int(OUTPUT_TYPE)? {
        Some(output_type) if output_type != settled => Err(Error::invalid(format!(
            "output_type is {output_type}, and the types of deq_scale and y_zero_point make it {settled}"
        ))),
        _ => Ok(()),
    }
}

/// The types that a node's operands are read as; those that it does not have do not count.
pub struct Types {
    pub x1: WeightType,
    pub weight: WeightType,
    /// Of a requantised result.
    pub y: WeightType,
    pub deq_scale: Read<f32>,
    pub addend: Read<f32>,
}

/// The operands of a node.
pub struct Operands {
    x1_zero_point: Operand<i32>,
    w_zero_point: Operand<i32>,
    bias: Operand<i32>,
    deq_scale: Operand<f32>,
    x1_scale: Operand<f32>,
    addend: Operand<f32>,
    y_zero_point: Operand<i32>,
}

impl Operands {
    /// Those of a node with `n` columns, which has them where `all` inputs of its operator have their names. What is constant is
    /// read and checked.
    ///
    /// # Panics
    /// If the operator lacks one.
    pub fn bind(inputs: &Inputs<'_, '_>, all: &[Input], n: usize, types: &Types) -> Result<Self, Error> {
        let named = |name| *all.iter().find(|input| input.name == name).expect("operators that multiply have it");
        Ok(Self {
            x1_zero_point: inputs.operand(named("x1_zero_point"), 1, zero_points(types.x1))?,
            w_zero_point: inputs.operand(named("w_zero_point"), n, zero_points(types.weight))?,
            bias: inputs.operand(named("bias"), n, bias)?,
            deq_scale: inputs.operand(named("deq_scale"), n, types.deq_scale)?,
            x1_scale: inputs.operand(named("x1_scale"), 1, floats)?,
            addend: inputs.operand(named("addend"), n, types.addend)?,
            y_zero_point: inputs.operand(named("y_zero_point"), 1, zero_points(types.y))?,
        })
    }

    /// The values for a call.
    pub fn get<'a>(&'a self, context: &KernelContext<'a>) -> Result<Values<'a>, Error> {
        let dims = &mut Dims::new();
        Ok(Values {
            x1_zero_point: self.x1_zero_point.scalar(context, dims)?.unwrap_or(0),
            x1_scale: self.x1_scale.scalar(context, dims)?,
            w_zero_point: self.w_zero_point.get(context, dims)?,
            bias: self.bias.get(context, dims)?,
            deq_scale: self.deq_scale.get(context, dims)?,
            addend: self.addend.get(context, dims)?,
            y_zero_point: self.y_zero_point.scalar(context, dims)?.unwrap_or(0),
        })
    }
}

/// The operands of a call.
pub struct Values<'a> {
    x1_zero_point: i32,
    x1_scale: Option<f32>,
    w_zero_point: Option<Columns<'a, i32>>,
    bias: Option<Columns<'a, i32>>,
    deq_scale: Option<Columns<'a, f32>>,
    addend: Option<Columns<'a, f32>>,
    pub y_zero_point: i32,
}

impl Values<'_> {
    /// What goes into the sums.
    pub fn operands(&self) -> mcd_core::Operands<'_> {
        mcd_core::Operands {
            x_zero_point: self.x1_zero_point,
            x_scale: self.x1_scale,
            w_zero_point: match &self.w_zero_point {
                None => ZeroPoint::None,
                Some(Columns::All(zero_point)) => ZeroPoint::Scalar(*zero_point),
                Some(Columns::Each(zero_points)) => ZeroPoint::PerColumn(zero_points),
            },
            bias: match &self.bias {
                Some(Columns::Each(bias)) => Some(bias),
                _ => None,
            },
        }
    }

    fn scale(&self) -> ScalarOrPerColumn<'_> {
        self.deq_scale.as_ref().map_or(ScalarOrPerColumn::Scalar(1.0), scalar_or_per_column)
    }

    fn dequantize<'b>(&'b self, elementwise: Elementwise<'b>) -> Epilogue<'b> {
        let addend = self.addend.as_ref().map(scalar_or_per_column);
        Epilogue::Dequantize { scale: self.scale(), addend, elementwise }
    }

    fn requantize(&self) -> Epilogue<'_> {
        Epilogue::Requantize { scale: self.scale(), zero_point: self.y_zero_point }
    }
}

fn scalar_or_per_column<'a>(columns: &'a Columns<'_, f32>) -> ScalarOrPerColumn<'a> {
    match columns {
        Columns::All(value) => ScalarOrPerColumn::Scalar(*value),
        Columns::Each(values) => ScalarOrPerColumn::PerColumn(values),
    }
}

/// What the core makes of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// The sums themselves, int32.
    Sums,
    /// Dequantised to float.
    Floats,
    /// Dequantised to float16, which go with neither gate nor residual.
    Halves,
    /// Requantised.
    Bytes(WeightType),
}

impl Results {
    /// Where the core writes them, and how it gets them from the sums.
    ///
    /// # Safety
    /// As for [`elements`], of the type that these have.
    pub unsafe fn output<'b>(
        self,
        data: *mut c_void,
        len: usize,
        values: &'b Values<'_>,
        elementwise: Elementwise<'b>,
    ) -> Output<'b> {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Self::Sums => Output::new(elements::<i32>(data, len), Epilogue::Sums),
                Self::Floats => Output::new(elements::<f32>(data, len), values.dequantize(elementwise)),
                Self::Halves => Output::new(elements::<u16>(data, len), values.dequantize(elementwise)),
                Self::Bytes(WeightType::U8) => Output::new(elements::<u8>(data, len), values.requantize()),
                Self::Bytes(WeightType::I8) => Output::new(elements::<i8>(data, len), values.requantize()),
            }
        }
    }
}
