//! The overloads, one for each type of the indices, of nodes with a scale and without, and what becomes of their nodes.

use super::bind::Bound;
use super::spec::{Form, input, output_type};
use crate::ffi::{Api, Error, KernelInfo, ShapeContext};
use crate::operator::{Kernel, Nodes, Overload};
use crate::operators::decoding::DTYPE;
use crate::operators::weight::COMPRESS_INFO;
use crate::options::Options;

/// In the order in which onnxruntime tries them.
pub const OVERLOADS: &[&dyn Overload] = &{
    let [a, b, c, d] = &Form::ALL;
    [a as &dyn Overload, b, c, d]
};

impl Nodes for Form {
    fn infer(context: &ShapeContext<'_>) -> Option<()> {
        let element = output_type(context.int(DTYPE)?, context.input_type(input::SCALE))?;
        let [_, _, k, _, _] = context.ints::<5>(COMPRESS_INFO)?;
        if k < 0 {
            return None;
        }
        context.set_output_of_rows(element, input::INDICES.index, k)
    }

    fn bind(self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Ok(Box::new(Bound::new(api, self, options, info)?))
    }
}
