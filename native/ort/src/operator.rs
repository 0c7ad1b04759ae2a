//! What an operator is to the rest of the library: overloads that onnxruntime chooses from, each of which binds nodes.

use std::ffi::CStr;

use ort_sys::ONNXTensorElementDataType as Type;

use crate::ffi::{Api, Error, KernelContext, KernelInfo, ShapeContext};
use crate::options::Options;

/// An input of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    pub index: usize,
    /// In the schema, for messages.
    pub name: &'static str,
    /// Whether every node has it.
    pub required: bool,
}

impl Input {
    pub const fn required(index: usize, name: &'static str) -> Self {
        Self { index, name, required: true }
    }

    pub const fn optional(index: usize, name: &'static str) -> Self {
        Self { index, name, required: false }
    }

    /// An error about this input, which names it.
    pub fn context(self, error: Error) -> Error {
        error.within(self.name)
    }
}

impl From<Input> for usize {
    fn from(input: Input) -> Self {
        input.index
    }
}

/// One overload of an operator. onnxruntime takes the first of a name whose declared types fit a node.
pub trait Overload: Sync {
    /// The operator's name.
    fn name(&self) -> &'static CStr;
    /// The operator's inputs, by position.
    fn inputs(&self) -> &'static [Input];
    /// The declared type of an input; undefined for any.
    fn input_type(&self, index: usize) -> Type;
    /// The type of the only output; undefined where inference tells it, which needs just one input of any type.
    fn output_type(&self) -> Type;
    /// Whether every onnxruntime may infer, and not only one that [`Api::infers`].
    fn always_infers(&self) -> bool {
        self.inputs().iter().all(|input| input.required)
    }
    /// Declares the output of a node as far as it can be told; all overloads of a name share the first one's.
    fn infer(&self, context: &ShapeContext<'_>) -> Option<()>;
    /// Checks a node of a session and makes it ready to run.
    fn bind(&self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error>;
}

/// A node that is ready to run.
pub trait Kernel: Send + Sync {
    /// One call; several may go on at the same time.
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error>;
}
