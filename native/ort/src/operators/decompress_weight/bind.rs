//! A node's attributes and its weight, checked when its session is created.

use mcd_core::{CompressedWeight, Kernel, PrepareOptions, WeightType, unpack};

use super::spec::{DTYPE, SHAPE, TRANSPOSED, check_shape, element_type, input};
use crate::ffi::{Api, Dims, Error, KernelInfo};
use crate::operators::weight::{self, COMPRESS_INFO, Prepared, Weight, not_five_numbers};
use crate::options::Options;

const WEIGHT: weight::Inputs = weight::Inputs { x2: input::X2, index: input::COMPRESS_INDEX, declares_type: "dtype" };

/// A node that is ready to run.
pub struct Bound {
    pub weight: Weight<Constant>,
    pub shape: Dims,
    /// Elements of the output.
    pub count: usize,
    pub transposed: bool,
}

impl Bound {
    /// Checks a node and all of its weight. An error names the weight when it is about that.
    pub fn new(api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let dtype = info.optional_int(DTYPE)?.ok_or_else(|| Error::invalid("there is no attribute dtype"))?;
        let (_, weight_type) = element_type(dtype)?;
        let shape = Dims::from_vec(info.ints(SHAPE)?);
        let compress_info = info.ints(COMPRESS_INFO)?;
        let &[_, _, k, n, _] = compress_info.as_slice() else {
            return Err(not_five_numbers(&compress_info));
        };
        let count = check_shape(&shape, k, n)?;
        let transposed = match info.optional_int(TRANSPOSED)? {
            None | Some(0) => false,
            Some(1) => true,
            Some(other) => return Err(Error::invalid(format!("transposed is {other} instead of 0 or 1"))),
        };
        let weight = Weight::new(api, options, info, WEIGHT, Some(weight_type))?;
        Ok(Self { weight, shape, count, transposed })
    }
}

/// A weight that is decoded as a whole.
pub struct Constant {
    pub weight: CompressedWeight,
    pub kernel: Kernel,
}

impl Prepared for Constant {
    fn prepare(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, mcd_core::Error> {
        let weight = CompressedWeight::parse(x2, index, info)?;
        unpack(&weight, x2, options.kernel)?;
        Ok(Self { weight, kernel: options.kernel })
    }

    fn n(&self) -> usize {
        self.weight.geometry().n()
    }

    fn weight_type(&self) -> WeightType {
        self.weight.weight_type()
    }
}
