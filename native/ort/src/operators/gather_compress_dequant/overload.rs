//! The overloads, one for each type of the indices, of nodes with a scale and without.

use std::ffi::CStr;

use ort_sys::ONNXTensorElementDataType as Type;

use super::bind::Bound;
use super::spec::{DTYPE, Form, NAME, input, output_type};
use crate::ffi::{Api, Error, KernelInfo, ShapeContext};
use crate::operator::{Input, Kernel, Overload};
use crate::operators::weight::COMPRESS_INFO;
use crate::options::Options;

/// In the order in which onnxruntime tries them.
pub const OVERLOADS: &[&dyn Overload] = &{
    let [a, b, c, d] = &Form::ALL;
    [a as &dyn Overload, b, c, d]
};

impl Overload for Form {
    fn name(&self) -> &'static CStr {
        NAME
    }

    fn inputs(&self) -> &'static [Input] {
        input::ALL
    }

    fn input_type(&self, index: usize) -> Type {
        self.input(index)
    }

    fn output_type(&self) -> Type {
        self.output()
    }

    /// All overloads share one inference function.
    fn infer(&self, context: &ShapeContext<'_>) -> Option<()> {
        let element = output_type(context.int(DTYPE)?, context.input_type(input::SCALE))?;
        let [_, _, k, _, _] = context.ints::<5>(COMPRESS_INFO)?;
        if k < 0 {
            return None;
        }
        context.set_output_of_rows(element, input::INDICES.index, k)
    }

    fn bind(&self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Ok(Box::new(Bound::new(api, *self, options, info)?))
    }
}
