//! The overloads, one per form, and what becomes of their nodes; see those of `MatmulCompressDequant`, where the reason stands.

use super::bind::Bound;
use super::shape::{Attributes, Steps, axis, order};
use super::spec::{CHANNELS_LAST, DILATIONS, Form, KERNEL_SHAPE, PADS, SAME, STRIDES, input};
use crate::ffi::{Api, Dims, Error, KernelInfo, ShapeContext};
use crate::operator::{Kernel, Nodes, Overload, Signature};
use crate::operators::weight::COMPRESS_INFO;
use crate::options::Options;

/// In the order in which onnxruntime tries them.
pub const OVERLOADS: &[&dyn Overload] = &{
    let [a, b, c, d] = &Form::ALL;
    [a as &dyn Overload, b, c, d]
};

impl Nodes for Form {
    fn infer(context: &ShapeContext<'_>) -> Option<()> {
        let form = Form::of(context.input_type(input::DEQ_SCALE), context.input_type(input::Y_ZERO_POINT))?;
        let [_, _, _, n, _] = context.ints::<5>(COMPRESS_INFO)?;
        let list = |name| context.list(name).map(|list: Dims| list.to_vec());
        let steps = Steps::new(Attributes {
            kernel_shape: list(KERNEL_SHAPE),
            strides: list(STRIDES),
            dilations: list(DILATIONS),
            pads: list(PADS),
            same: context.int(SAME),
        })
        .ok()?;
        let mut shape = context.input_shape(input::X1)?;
        let place = axis(order(context.int(CHANNELS_LAST)).ok()?, shape.len().checked_sub(2)?);
        shape.remove(place);
        let image: Dims = shape[1..].iter().map(|(dim, _)| *dim).collect();
        let window = steps.over(&image).ok()?;
        for (dim, &size) in shape[1..].iter_mut().zip(window.output(image.len())) {
            *dim = (i64::try_from(size).ok()?, c"");
        }
        shape.insert(place, (n, c""));
        context.set_output_shape(form.output(), &shape)
    }

    fn bind(self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Ok(Box::new(Bound::new(api, self, options, info)?))
    }
}
