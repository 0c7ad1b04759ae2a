//! One call: the weight decoded into the output.

use super::bind::Bound;
use crate::ffi::{Error, KernelContext};
use crate::operator::Kernel;
use crate::operators::declared::INT8;
use crate::operators::output::{check_address, elements};
use crate::pool::Pool;

impl Kernel for Bound {
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        let weight = self.weight.get(context)?;
        let data = context.output(&self.shape)?;
        check_address(data.addr(), INT8)?;
        // SAFETY: the output has `count` elements of a byte at an address that was checked, and is fresh memory or such as the
        // session's user bound to it alone.
        let out = unsafe { elements::<u8>(data, self.count) };
        let mut pool = Pool::new(context.threads(), &self.helpers);
        // Where the pool failed, that says why.
        let result = weight.decompress(self.layout, out, &pool).map_err(|error| self.weight.refused(&error));
        pool.finish().and(result)
    }
}
