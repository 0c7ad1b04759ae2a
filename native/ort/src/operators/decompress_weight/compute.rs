//! One call: the weight decoded into the output.

use std::mem::MaybeUninit;

use mcd_core::{Matrix, transpose, unpack};

use super::bind::Bound;
use crate::ffi::{Error, KernelContext};
use crate::operator::Kernel;

impl Kernel for Bound {
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        let (constant, x2) = self.weight.get(context)?;
        let data = context.output(&self.shape)?;
        if data.is_null() {
            return Err(Error::invalid("the output has no memory"));
        }
        // SAFETY: the output has `count` elements of a byte, and is fresh memory or such as the session's user bound to it
        // alone.
        let out = unsafe { std::slice::from_raw_parts_mut(data.cast::<MaybeUninit<u8>>(), self.count) };
        let weights =
            unpack(&constant.weight, x2, constant.kernel).map_err(|error| Error::invalid(error.to_string()))?;
        let (n, k) = (constant.weight.geometry().n(), constant.weight.geometry().k());
        if self.transposed {
            out.iter_mut().zip(weights).for_each(|(to, weight)| _ = to.write(weight));
        } else {
            transpose(Matrix { elements: &weights, rows: n, columns: k, stride: k }, out);
        }
        Ok(())
    }
}
