//! One call: shapes, operands, the convolution.

use std::ffi::c_void;

use mcd_core::{ConvCall, Elementwise, Image, Order, WeightType, Window};

use super::bind::Bound;
use super::shape::axis;
use super::spec::input;
use crate::ffi::{Dims, Error, KernelContext, Value, element_count};
use crate::operator::{Kernel, Signature};
use crate::operators::output::check_address;
use crate::pool::Pool;

/// Shapes of a call and the memory of its output.
struct Shaped {
    batch: usize,
    channels: usize,
    window: Window,
    count: usize,
    out: *mut c_void,
}

impl Kernel for Bound {
    fn compute<'a>(&self, context: &KernelContext<'a>) -> Result<(), Error> {
        let mut dims = Dims::new();
        let x = context
            .input(input::X1)
            .and_then(|value| self.image(&value, &mut dims))
            .map_err(|error| input::X1.context(error))?;
        let weight = self.weight.get(context)?;
        weight.prefetch();
        let shaped = self.shape(context, &dims, (weight.k(), weight.n()))?;
        if shaped.count == 0 {
            return Ok(());
        }
        check_address(shaped.out.addr(), self.form.output())?;
        let mut pool = Pool::new(context.threads(), &self.helpers);
        let values = self.operands.get(context)?;
        let call = ConvCall {
            x,
            order: self.order,
            batch: shaped.batch,
            channels: shaped.channels,
            groups: self.groups,
            window: shaped.window,
            operands: values.operands(),
        };
        // SAFETY: the output has `count` elements of the type that `form` declares, at an address that was found to be aligned and
        // not null. It is fresh, or memory that the session's user bound to this output alone.
        let output = unsafe { self.form.results().output(shaped.out, shaped.count, &values, Elementwise::default()) };
        // Where the pool failed, that says why.
        let result = weight.convolve(&call, output, &pool).map_err(|error| Error::invalid(error.to_string()));
        pool.finish().and(result)
    }
}

impl Bound {
    /// The activations, in place.
    fn image<'a>(&self, value: &Value<'a>, dims: &mut Dims) -> Result<Image<'a>, Error> {
        Ok(match self.x1 {
            WeightType::U8 => Image::U8(value.read_bytes::<u8>(dims)?),
            WeightType::I8 => Image::I8(value.read_bytes::<i8>(dims)?),
        })
    }

    /// Checks the shapes of a call, and gets the output's memory.
    fn shape(&self, context: &KernelContext<'_>, dims: &[i64], (k, n): (usize, usize)) -> Result<Shaped, Error> {
        let rank = self.steps.kernel.len();
        let channels = self.steps.taps().filter(|taps| k.is_multiple_of(*taps)).map(|taps| k / taps);
        let channels = channels.and_then(|channels| channels.checked_mul(self.groups)).ok_or_else(|| {
            let kernel = &self.steps.kernel;
            Error::invalid(format!("kernel_shape is {kernel:?}, and the weight has {k} values for each output"))
        })?;
        let wrong = || {
            let order = match self.order {
                Order::ChannelsFirst => format!("(batch, {channels}, …)"),
                Order::ChannelsLast => format!("(batch, …, {channels})"),
            };
            let expected = format!("{order} of {} dimensions", rank + 2);
            input::X1.context(Error::invalid(format!("has shape {dims:?} instead of {expected}")))
        };
        let place = axis(self.order, rank);
        if dims.len() != rank + 2 || usize::try_from(dims[place]) != Ok(channels) {
            return Err(wrong());
        }
        let mut image = Dims::from_slice(dims);
        image.remove(place);
        let batch = image.remove(0);
        let window = self.steps.over(&image).map_err(|error| input::X1.context(error))?;
        let number = |size: usize| i64::try_from(size).map_err(|_| Error::invalid("an output that is too large"));
        let mut shape = Dims::from_slice(&[batch]);
        for &size in window.output(rank) {
            shape.push(number(size)?);
        }
        shape.insert(place, number(n)?);
        let count = element_count(&shape)?;
        let batch = usize::try_from(batch).map_err(|_| wrong())?;
        Ok(Shaped { batch, channels, window, count, out: context.output(&shape)? })
    }
}
