//! What onnxruntime is told.

use std::ffi::CStr;

use ort_sys::ONNXTensorElementDataType as Type;

use super::bind::Bound;
use super::spec::{NAME, SHAPE, input};
use crate::ffi::{Api, Error, KernelInfo, ShapeContext};
use crate::operator::{Input, Kernel, Overload};
use crate::operators::declared::{ANY, FLOAT, INT8};
use crate::operators::decompress_weight::check_shape;
use crate::operators::weight::COMPRESS_INFO;
use crate::options::Options;

/// The only overload.
struct DecompressDequant;

pub const OVERLOADS: &[&dyn Overload] = &[&DecompressDequant];

impl Overload for DecompressDequant {
    fn name(&self) -> &'static CStr {
        NAME
    }

    fn inputs(&self) -> &'static [Input] {
        input::ALL
    }

    fn input_type(&self, index: usize) -> Type {
        match index {
            _ if index == input::SCALE.index => FLOAT,
            // Bytes of the type that `dtype` says; binding and each call check it.
            _ if index == input::ZERO_POINT.index => ANY,
            _ => INT8,
        }
    }

    fn output_type(&self) -> Type {
        FLOAT
    }

    fn infer(&self, context: &ShapeContext<'_>) -> Option<()> {
        let shape = context.list(SHAPE)?;
        let [_, _, k, n, _] = context.ints::<5>(COMPRESS_INFO)?;
        check_shape(&shape, k, n).ok()?;
        let dims: Vec<_> = shape.iter().map(|&dim| (dim, c"")).collect();
        context.set_output_shape(FLOAT, &dims)
    }

    fn bind(&self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Ok(Box::new(Bound::new(api, options, info)?))
    }
}
