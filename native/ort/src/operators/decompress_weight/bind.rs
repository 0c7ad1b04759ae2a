//! A node's attributes and its weight, checked when its session is created.

use mcd_core::{Layout, VerifiedWeight};

use super::spec::{TRANSPOSED, input};
use crate::ffi::{Api, Dims, Error, KernelInfo};
use crate::operators::decoding::Declared;
use crate::operators::weight::{self, Weight};
use crate::options::Options;
use crate::pool::Helpers;

const WEIGHT: weight::Inputs = weight::Inputs { x2: input::X2, index: input::COMPRESS_INDEX, declares_type: "dtype" };

/// A node that is ready to run.
pub struct Bound {
    pub weight: Weight<VerifiedWeight>,
    pub shape: Dims,
    /// Elements of the output.
    pub count: usize,
    pub layout: Layout,
    pub helpers: Helpers,
}

impl Bound {
    /// Checks a node and all of its weight. An error names the weight when it is about that.
    pub fn new(api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let Declared { weight_type, shape, count } = Declared::by(info)?;
        let layout = match info.optional_int(TRANSPOSED)? {
            None | Some(0) => Layout::Kn,
            Some(1) => Layout::Nk,
            Some(other) => return Err(Error::invalid(format!("transposed is {other} instead of 0 or 1"))),
        };
        let weight = Weight::new(api, options, info, WEIGHT, Some(weight_type))?;
        weight.check_output(count)?;
        Ok(Self { weight, shape, count, layout, helpers: Helpers::default() })
    }
}
