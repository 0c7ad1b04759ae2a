//! What onnxruntime is told.
//!
//! One overload gives both types of output. onnxruntime finds an overload by the types of the inputs, and those are the same
//! for both; so the output is declared to be of any type, which onnxruntime allows where one input is (`x2`), and inference
//! says which.

use std::ffi::CStr;

use ort_sys::ONNXTensorElementDataType as Type;

use super::bind::Bound;
use super::spec::{DTYPE, NAME, SHAPE, check_shape, input};
use crate::ffi::{Api, Error, KernelInfo, ShapeContext};
use crate::operator::{Input, Kernel, Overload};
use crate::operators::declared::{ANY, INT8};
use crate::operators::weight::{COMPRESS_INFO, byte_type};
use crate::options::Options;

/// The only overload.
struct DecompressWeight;

pub const OVERLOADS: &[&dyn Overload] = &[&DecompressWeight];

impl Overload for DecompressWeight {
    fn name(&self) -> &'static CStr {
        NAME
    }

    fn inputs(&self) -> &'static [Input] {
        input::ALL
    }

    fn input_type(&self, index: usize) -> Type {
        match index == input::X2.index {
            true => ANY,
            false => INT8,
        }
    }

    fn output_type(&self) -> Type {
        ANY
    }

    fn infer(&self, context: &ShapeContext<'_>) -> Option<()> {
        let (element, _) = byte_type(context.int(DTYPE)?).ok()?;
        let shape = context.list(SHAPE)?;
        let [_, _, k, n, _] = context.ints::<5>(COMPRESS_INFO)?;
        check_shape(&shape, k, n).ok()?;
        let dims: Vec<_> = shape.iter().map(|&dim| (dim, c"")).collect();
        context.set_output_shape(element, &dims)
    }

    fn bind(&self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Ok(Box::new(Bound::new(api, options, info)?))
    }
}
