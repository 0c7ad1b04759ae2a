//! One call: the weight decoded into the output.

use std::mem::MaybeUninit;

use super::bind::Bound;
use crate::ffi::{Error, KernelContext};
use crate::operator::Kernel;
use crate::pool::Pool;

impl Kernel for Bound {
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        let weight = self.weight.get(context)?;
        let data = context.output(&self.shape)?;
        if data.is_null() {
            return Err(Error::invalid("the output has no memory"));
        }
        // SAFETY: the output has `count` elements of a byte, and is fresh memory or such as the session's user bound to it
        // alone.
        let out = unsafe { std::slice::from_raw_parts_mut(data.cast::<MaybeUninit<u8>>(), self.count) };
        let mut pool = Pool::new(context.threads(), &self.helpers);
        // Where the pool failed, that says why.
        let result = weight.decompress(self.layout, out, &pool).map_err(|error| self.weight.refused(&error));
        pool.finish().and(result)
    }
}
