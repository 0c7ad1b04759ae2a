//! One call: the weight decoded into the output, as floats.

use mcd_core::{Along, Channels};

use super::bind::Bound;
use crate::ffi::{Dims, Error, KernelContext};
use crate::operator::Kernel;
use crate::operators::declared::FLOAT;
use crate::operators::operand::Columns;
use crate::operators::output::{check_address, elements};
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
        let data = context.output(&self.shape)?;
        check_address(data.addr(), FLOAT)?;
        // SAFETY: the output has `count` floats at an address that was checked, and is fresh memory or such as the session's
        // user bound to it alone.
        let out = unsafe { elements::<f32>(data, self.count) };
        let channels = Channels {
            inner: self.along.inner,
            count: self.along.count,
            scale: along(&scale),
            zero_point: along(&zero_point),
        };
        let mut pool = Pool::new(context.threads(), &self.helpers);
        // Where the pool failed, that says why.
        let result = weight.dequantize(channels, out, &pool).map_err(|error| self.weight.refused(&error));
        pool.finish().and(result)
    }
}

fn along<'a>(values: &'a Columns<'_, f32>) -> Along<'a> {
    match values {
        Columns::All(value) => Along::Whole(*value),
        Columns::Each(values) => Along::Columns(values),
    }
}
