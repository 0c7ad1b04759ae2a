//! What becomes of its nodes.

use super::bind::Bound;
use super::spec::DecompressWeight;
use crate::ffi::{Api, Error, KernelInfo, ShapeContext};
use crate::operator::{Kernel, Nodes, Overload};
use crate::operators::decoding::{DTYPE, infer};
use crate::operators::weight::byte_type;
use crate::options::Options;

pub const OVERLOADS: &[&dyn Overload] = &[&DecompressWeight];

impl Nodes for DecompressWeight {
    fn infer(context: &ShapeContext<'_>) -> Option<()> {
        let (element, _) = byte_type(context.int(DTYPE)?).ok()?;
        infer(context, element)
    }

    fn bind(self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Ok(Box::new(Bound::new(api, options, info)?))
    }
}
