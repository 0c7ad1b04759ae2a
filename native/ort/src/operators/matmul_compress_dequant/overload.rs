//! The overloads, one per form, and what becomes of their nodes.
//!
//! The type of the output follows from the types of `deq_scale` and `y_zero_point`. A custom op may infer it by a
//! function, but onnxruntime before 1.24 crashes before it calls one, if an input is absent in the middle of the list,
//! as several of this operator's always are. So there is one overload per type of output, all of one name, and
//! onnxruntime takes the first whose declared types fit the inputs that are present. An overload without a scale, or
//! without `y_zero_point`, declares a type for it that no other one accepts, and so is taken only where the input is
//! absent. The shape of the output is inferred from 1.24 on; before, it is what the model's `value_info` says.

use smallvec::SmallVec;

use super::ascend::OnAscend;
use super::bind::Bound;
use super::spec::{Form, input};
use crate::backend;
use crate::ffi::{Api, Error, KernelInfo, ShapeContext};
use crate::operator::{Kernel, Nodes, Overload, Signature};
use crate::operators::weight::COMPRESS_INFO;
use crate::options::Options;

/// In the order in which onnxruntime tries them.
pub const OVERLOADS: &[&dyn Overload] = &{
    let [a, b, c, d, e, f, g] = &Form::ALL;
    [a as &dyn Overload, b, c, d, e, f, g]
};

impl Nodes for Form {
    fn infer(context: &ShapeContext<'_>) -> Option<()> {
        if [input::X1_SHAPE, input::Y_SHAPE].into_iter().any(|index| context.input_type(index).is_some()) {
            return None;
        }
        let decisive = [input::DEQ_SCALE, input::Y_ZERO_POINT, input::Y_SCALE];
        let form = Form::of(decisive.map(|index| (index, context.input_type(index))))?;
        let [_, _, _, n, _] = context.ints::<5>(COMPRESS_INFO)?;
        if n < 0 {
            return None;
        }
        let elementwise = [input::GATE, input::RESIDUAL];
        let elementwise: SmallVec<[usize; 2]> =
            elementwise.into_iter().filter(|&input| context.input_type(input).is_some()).map(usize::from).collect();
        context.set_output(form.output(), n, &elementwise)
    }

    fn bind(self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        let on_cpu = || Ok(Box::new(Bound::new(api, self, options, info)?) as Box<dyn Kernel>);
        let on_ascend = |id| Ok(Box::new(OnAscend::new(api, self, options, info, id)?) as Box<dyn Kernel>);
        backend::bind(Self::NAME, options, info, on_cpu, on_ascend)
    }
}
