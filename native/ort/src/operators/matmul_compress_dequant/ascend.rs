//! A node that runs on an Ascend device: what it must look like, and its weight, uploaded once.

use std::sync::Arc;

use mcd_core::WeightType;

use super::bind::check_attributes;
use super::spec::{Form, WEIGHT, input};
use crate::ascend::library::{DataType, Runtime};
use crate::ascend::queue::{Constants, Queue, upload};
use crate::ffi::{Api, Dims, ElementType, Error, KernelContext, KernelInfo, Value, element_count};
use crate::operator::{Input, Kernel};
use crate::operators::inputs::Inputs;
use crate::operators::operand::{Columns, bias, float_bits};
use crate::operators::weight::{COMPRESS_INFO, Weight, not_five_numbers, tensor_bytes};
use crate::options::{Options, Verify};

/// First bytes of a stream of the open codec.
const OPEN_CODEC: &[u8] = b"MCDW";

/// A node whose constants are on the device.
pub struct OnAscend {
    constants: Constants,
    queue: Arc<Queue>,
}

impl OnAscend {
    /// Checks a node and uploads its constants.
    pub fn new(api: Api, form: Form, options: Options, info: &KernelInfo<'_>, device: i32) -> Result<Self, Error> {
        let strict = Strict::read(form, info)?;
        let runtime = Runtime::get()?;
        let open = strict.x2.starts_with(OPEN_CODEC);
        match (open, runtime.is_stand_in) {
            (true, true) => {
                // Finds what is wrong with the weight here: the device verifies nothing at the first run.
                let options = Options { verify: Verify::Load, ..options };
                <Weight>::new(api, options, info, WEIGHT, Some(WeightType::I8))?;
            }
            (false, false) => {}
            (true, false) => {
                return Err(Error::invalid(
                    "the weight was written with the open codec, which no device reads; export the model with \
                     `mcd ascend export --compressor`",
                ));
            }
            (false, true) => {
                return Err(Error::invalid(
                    "the weight was not written with the open codec, the only one that the stand-in for CANN reads",
                ));
            }
        }
        let queue = Queue::of(runtime, device)?;
        let [_, _, k, n, _] = strict.info;
        let bytes = |values: &[u64]| -> Vec<u8> { values.iter().flat_map(|value| value.to_ne_bytes()).collect() };
        let constants = Constants {
            k: k as usize,
            n: n as usize,
            max_rows: options.max_rows,
            x2: upload(runtime, strict.x2, &[strict.x2.len() as i64], DataType::Int8)?,
            compress_index: upload(runtime, strict.index, &[strict.index.len() as i64], DataType::Int8)?,
            bias: match strict.bias {
                None => None,
                Some(values) => {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
                    Some(upload(runtime, &bytes, &[n], DataType::Int32)?)
                }
            },
            deq_scale: upload(runtime, &bytes(&strict.scale), &[1, n], DataType::Uint64)?,
            compress_info: Arc::new(runtime.int_array(&strict.info)?),
        };
        Ok(Self { constants, queue })
    }
}

impl Kernel for OnAscend {
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        let Constants { k, n, .. } = self.constants;
        let mut dims = Dims::new();
        let value = context.input(input::X1)?;
        let len = value.read_bytes::<i8>(&mut dims).map_err(|error| input::X1.context(error))?.len();
        // SAFETY: int8 elements are bytes, and there are `len`.
        let x1 = unsafe { value.bytes(len) }?;
        match dims.split_last_mut() {
            Some((columns, _)) if usize::try_from(*columns) == Ok(k) => *columns = n as i64,
            _ => {
                return Err(input::X1.context(Error::invalid(format!("has shape {dims:?} instead of (..., {k})"))));
            }
        }
        let m = element_count(&dims)? / n;
        let out = context.output(&dims)?;
        if m == 0 {
            return Ok(());
        }
        let given = match self.constants.bias {
            Some(_) => Vec::new(),
            None => {
                let value = context.input(input::BIAS)?;
                each(bias(&value, n, &mut Dims::new()).map_err(|error| input::BIAS.context(error))?, n)
            }
        };
        // SAFETY: onnxruntime has made an output of this shape, of fp16 elements.
        unsafe { self.queue.run(&self.constants, x1, &given, m, out) }
    }
}

impl Drop for OnAscend {
    fn drop(&mut self) {
        self.queue.before_release();
    }
}

/// The inputs of a node in the device's own form.
struct Strict<'a> {
    x2: &'a [u8],
    index: &'a [u8],
    info: [i64; 5],
    /// `None` where it is computed at run time, as the zero point of dynamically quantised activations makes it.
    bias: Option<Vec<i32>>,
    scale: Vec<u64>,
}

impl<'a> Strict<'a> {
    /// Reads a node, or says why it is not of that form.
    fn read(form: Form, info: &KernelInfo<'a>) -> Result<Self, Error> {
        check_inputs(form, info)?;
        let compress_info = compress_info(info)?;
        let [_, _, k, n, _] = compress_info;
        let columns = n as usize;
        let scale = scale(info, columns)?;
        let bias = constant_bias(info, columns)?;
        let (index, entries) = (stream(info, input::COMPRESS_INDEX)?, 8 * tiles(k as usize, columns));
        if index.len() != entries {
            let found = index.len();
            return Err(
                input::COMPRESS_INDEX.context(Error::invalid(format!("has {found} bytes instead of {entries}")))
            );
        }
        Ok(Self { x2: stream(info, input::X2)?, index, info: compress_info, bias, scale })
    }
}

/// Checks attributes, and which inputs a node has.
fn check_inputs(form: Form, info: &KernelInfo<'_>) -> Result<(), Error> {
    check_attributes(form, info)?;
    if form != Form::Strict {
        return Err(Error::invalid(
            "only nodes with a uint64 deq_scale run there, and float16 output; mcd ascend export makes such of a model",
        ));
    }
    let inputs = Inputs::of(info)?;
    for &other in &input::ALL[input::OFFSET_W.index..] {
        if inputs.has(other) {
            return Err(other.context(Error::invalid("must be absent there")));
        }
    }
    let x1 = info.input_type(input::X1)?;
    if x1 != ElementType::INT8 {
        return Err(input::X1.context(Error::invalid(format!("is {x1} instead of int8"))));
    }
    Ok(())
}

/// The attribute, where the device can run such a weight.
fn compress_info(info: &KernelInfo<'_>) -> Result<[i64; 5], Error> {
    let list = info.ints(COMPRESS_INFO)?;
    let Ok([tiling_k, tiling_n, k, n, direction]) = <[i64; 5]>::try_from(list.as_slice()) else {
        return Err(not_five_numbers(&list));
    };
    let limit = i64::from(i32::MAX);
    let legal = k % 64 == 0 && n % 64 == 0 && (257..=limit).contains(&k) && (128..=limit).contains(&n);
    if !legal || [tiling_k, tiling_n, direction] != [8, 8, 1] {
        return Err(Error::invalid(format!(
            "compress_info is {list:?} instead of [8, 8, k, n, 1] with k a multiple of 64 above 256 and n one from 128 on"
        )));
    }
    Ok([tiling_k, tiling_n, k, n, direction])
}

/// Tiles of 8 x 8 fractals.
fn tiles(k: usize, n: usize) -> usize {
    k.div_ceil(256) * n.div_ceil(128)
}

/// `deq_scale` as the device takes it: the bits of one float a column.
fn scale(info: &KernelInfo<'_>, columns: usize) -> Result<Vec<u64>, Error> {
    let scale = each(constant(info, input::DEQ_SCALE, |value, dims| float_bits(value, columns, dims))?, columns);
    if let Some(scale) = scale.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
        return Err(input::DEQ_SCALE.context(Error::invalid(format!("has {scale}; Ascend requires positive scales"))));
    }
    Ok(scale.into_iter().map(|scale| u64::from(scale.to_bits())).collect())
}

/// `bias`: zeros where there is none, `None` where it is computed at run time.
fn constant_bias(info: &KernelInfo<'_>, columns: usize) -> Result<Option<Vec<i32>>, Error> {
    if !Inputs::of(info)?.has(input::BIAS) {
        return Ok(Some(vec![0; columns]));
    }
    if info.constant_input(input::BIAS)?.is_none() {
        return Ok(None);
    }
    let values = constant(info, input::BIAS, |value, dims| bias(value, columns, dims))?;
    Ok(Some(each(values, columns)))
}

/// A part of the compressed weight.
fn stream<'a>(info: &KernelInfo<'a>, input: Input) -> Result<&'a [u8], Error> {
    let value = info.constant_input(input)?;
    value
        .ok_or_else(|| input.context(Error::invalid("must be an initializer there")))
        .and_then(|value| tensor_bytes(&value, input))
}

/// One value for each column.
fn each<T: Clone>(values: Columns<'_, T>, columns: usize) -> Vec<T> {
    match values {
        Columns::All(value) => vec![value; columns],
        Columns::Each(values) => values.into_owned(),
    }
}

/// Reads an input that has to be an initializer.
fn constant<'a, T: Clone>(
    info: &KernelInfo<'a>,
    input: Input,
    read: impl FnOnce(&Value<'a>, &mut Dims) -> Result<Columns<'a, T>, Error>,
) -> Result<Columns<'a, T>, Error> {
    let value = info.constant_input(input)?;
    value
        .ok_or_else(|| Error::invalid("must be an initializer there"))
        .and_then(|value| read(&value, &mut Dims::new()))
        .map_err(|error| input.context(error))
}
