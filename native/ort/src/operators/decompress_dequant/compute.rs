//! One call: the weight decoded into the output, as floats.

use std::mem::MaybeUninit;

use mcd_core::{Along, Channels, Layout};

use super::bind::Bound;
use crate::ffi::{Dims, Error, KernelContext};
use crate::operator::Kernel;
use crate::operators::operand::Columns;
use crate::pool::Pool;

impl Kernel for Bound {
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        let weight = self.weight.get(context)?;
        let dims = &mut Dims::new();
        let scale = self.scale.get(context, dims)?.unwrap_or(Columns::All(1.0));
        let zero_point = match self.zero_point.get(context, dims)? {
            None => Columns::All(0.0),
            Some(values) => values.map(|&each| each as f32)?,
        };
        let data = context.output(&self.shape)?.cast::<MaybeUninit<f32>>();
        if data.is_null() || !data.is_aligned() {
            return Err(Error::invalid("the output's memory is not at a multiple of 4 bytes"));
        }
        // SAFETY: the output has `count` floats, and is fresh memory or such as the session's user bound to it alone.
        let out = unsafe { std::slice::from_raw_parts_mut(data, self.count) };
        let channels = Channels {
            inner: self.along.inner,
            count: self.along.count,
            scale: along(&scale),
            zero_point: along(&zero_point),
        };
        let mut pool = Pool::new(context.threads(), &self.helpers);
        // Where the pool failed, that says why.
        let result = weight.dequantize(Layout::Nk, channels, out, &pool).map_err(|error| self.weight.refused(&error));
        pool.finish().and(result)
    }
}

fn along<'a>(values: &'a Columns<'_, f32>) -> Along<'a> {
    match values {
        Columns::All(value) => Along::Whole(*value),
        Columns::Each(values) => Along::Columns(values),
    }
}
