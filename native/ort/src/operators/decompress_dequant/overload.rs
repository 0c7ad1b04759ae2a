//! What becomes of its nodes.

use super::bind::Bound;
use super::spec::DecompressDequant;
use crate::ffi::{Api, Error, KernelInfo, ShapeContext};
use crate::operator::{Kernel, Nodes, Overload};
use crate::operators::declared::FLOAT;
use crate::operators::decoding::infer;
use crate::options::Options;

pub const OVERLOADS: &[&dyn Overload] = &[&DecompressDequant];

impl Nodes for DecompressDequant {
    fn infer(context: &ShapeContext<'_>) -> Option<()> {
        infer(context, FLOAT)
    }

    fn bind(self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Ok(Box::new(Bound::new(api, options, info)?))
    }
}
