//! One call: shapes, operands, the convolution.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use mcd_core::{ConvCall, Elementwise, Epilogue, Image, Output, ScalarOrPerColumn, WeightType, Window, ZeroPoint};

use super::bind::Bound;
use super::spec::{Form, input};
use crate::ffi::{Dims, Error, KernelContext, Value, element_count};
use crate::operator::Kernel;
use crate::operators::operand::Columns;
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
        check_output(shaped.out.addr(), self.form)?;
        let mut pool = Pool::new(context.threads(), &self.helpers);
        let read = &mut Dims::new();
        let (w_zero_point, bias) = (self.w_zero_point.get(context, read)?, self.bias.get(context, read)?);
        let call = ConvCall {
            x,
            batch: shaped.batch,
            channels: shaped.channels,
            groups: self.groups,
            window: shaped.window,
            x_zero_point: self.x1_zero_point.scalar(context, read)?.unwrap_or(0),
            x_scale: self.x1_scale.scalar(context, read)?,
            w_zero_point: match &w_zero_point {
                None => ZeroPoint::None,
                Some(Columns::All(zero_point)) => ZeroPoint::Scalar(*zero_point),
                Some(Columns::Each(zero_points)) => ZeroPoint::PerColumn(zero_points),
            },
            bias: match &bias {
                Some(Columns::Each(bias)) => Some(bias),
                _ => None,
            },
        };
        let (deq_scale, addend) = (self.deq_scale.get(context, read)?, self.addend.get(context, read)?);
        let scale = deq_scale.as_ref().map_or(ScalarOrPerColumn::Scalar(1.0), scalar_or_per_column);
        let addend = addend.as_ref().map(scalar_or_per_column);
        let zero_point = self.y_zero_point.scalar(context, read)?.unwrap_or(0);
        // SAFETY: the output has `count` elements of the type that `form` declares, at an address that `check_output` found to be
        // aligned and not null. It is fresh, or memory that the session's user bound to this output alone.
        let output = unsafe { self.output(&shaped, scale, addend, zero_point) };
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
            let expected = format!("(batch, {channels}, …) of {} dimensions", rank + 2);
            input::X1.context(Error::invalid(format!("has shape {dims:?} instead of {expected}")))
        };
        let (&[batch, found], image) = dims.split_first_chunk().ok_or_else(wrong)?;
        if image.len() != rank || usize::try_from(found) != Ok(channels) {
            return Err(wrong());
        }
        let window = self.steps.over(image).map_err(|error| input::X1.context(error))?;
        let number = |size: usize| i64::try_from(size).map_err(|_| Error::invalid("an output that is too large"));
        let mut shape = Dims::from_slice(&[batch, number(n)?]);
        for &size in window.output(rank) {
            shape.push(number(size)?);
        }
        let count = element_count(&shape)?;
        let batch = usize::try_from(batch).map_err(|_| wrong())?;
        Ok(Shaped { batch, channels, window, count, out: context.output(&shape)? })
    }

    /// What the core is to make of the sums, and where.
    ///
    /// # Safety
    /// The output has room for `count` elements of the type that the form declares, aligned; nothing else uses them while what this
    /// gives lives.
    unsafe fn output<'b>(
        &self,
        shaped: &Shaped,
        scale: ScalarOrPerColumn<'b>,
        addend: Option<ScalarOrPerColumn<'b>>,
        zero_point: i32,
    ) -> Output<'b> {
        /// # Safety
        /// As above.
        unsafe fn memory<'b, T>(shaped: &Shaped) -> &'b mut [MaybeUninit<T>] {
            // SAFETY: the caller's contract.
            unsafe { std::slice::from_raw_parts_mut(shaped.out.cast(), shaped.count) }
        }
        let dequantize = Epilogue::Dequantize { scale, addend, elementwise: Elementwise::default() };
        let requantize = Epilogue::Requantize { scale, zero_point };
        // SAFETY: the caller's contract.
        unsafe {
            match self.form {
                Form::Raw => Output::new(memory::<i32>(shaped), Epilogue::Sums),
                Form::Float => Output::new(memory::<f32>(shaped), dequantize),
                Form::RequantU8 => Output::new(memory::<u8>(shaped), requantize),
                Form::RequantI8 => Output::new(memory::<i8>(shaped), requantize),
            }
        }
    }
}

/// Refuses an address where no slice of a form's outputs may begin. onnxruntime's own memory is aligned; what a caller binds to
/// an output need not be.
fn check_output(address: usize, form: Form) -> Result<(), Error> {
    let alignment = match form {
        Form::Raw => align_of::<i32>(),
        Form::Float => align_of::<f32>(),
        Form::RequantU8 | Form::RequantI8 => 1,
    };
    if address == 0 || !address.is_multiple_of(alignment) {
        return Err(Error::invalid(format!("the output's memory is not at a multiple of {alignment} bytes")));
    }
    Ok(())
}

fn scalar_or_per_column<'a>(columns: &'a Columns<'_, f32>) -> ScalarOrPerColumn<'a> {
    match columns {
        Columns::All(value) => ScalarOrPerColumn::Scalar(*value),
        Columns::Each(values) => ScalarOrPerColumn::PerColumn(values),
    }
}
