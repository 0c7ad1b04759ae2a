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

/// One overload of an operator as onnxruntime is told it. onnxruntime takes the first of a name whose declared types fit a node.
pub trait Signature: Copy + Sync {
    /// The operator's name.
    const NAME: &'static CStr;
    /// The operator's inputs, by position.
    const INPUTS: &'static [Input];
    /// The declared type of an input; undefined for any.
    fn input(self, index: usize) -> Type;
    /// The type of the only output; undefined where inference tells it, which needs just one input of any type.
    fn output(self) -> Type;
}

/// What becomes of the nodes of an overload.
pub trait Nodes: Signature {
    /// Declares the output of a node as far as it can be told. All overloads of a name share this, so it has to find the
    /// node's own anew where that counts.
    fn infer(context: &ShapeContext<'_>) -> Option<()>;
    /// Checks a node of a session and makes it ready to run.
    fn bind(self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error>;
}

/// An overload of whichever operator.
pub trait Overload: Sync {
    /// [`Signature::NAME`].
    fn name(&self) -> &'static CStr;
    /// [`Signature::INPUTS`].
    fn inputs(&self) -> &'static [Input];
    /// [`Signature::input`].
    fn input_type(&self, index: usize) -> Type;
    /// [`Signature::output`].
    fn output_type(&self) -> Type;
    /// Whether every onnxruntime may infer, and not only one that [`Api::infers`].
    fn always_infers(&self) -> bool;
    /// [`Nodes::infer`].
    fn infer(&self, context: &ShapeContext<'_>) -> Option<()>;
    /// [`Nodes::bind`].
    fn bind(&self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error>;
}

impl<N: Nodes> Overload for N {
    fn name(&self) -> &'static CStr {
        Self::NAME
    }

    fn inputs(&self) -> &'static [Input] {
        Self::INPUTS
    }

    fn input_type(&self, index: usize) -> Type {
        self.input(index)
    }

    fn output_type(&self) -> Type {
        self.output()
    }

    fn always_infers(&self) -> bool {
        Self::INPUTS.iter().all(|input| input.required)
    }

    fn infer(&self, context: &ShapeContext<'_>) -> Option<()> {
        N::infer(context)
    }

    fn bind(&self, api: Api, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
        Nodes::bind(*self, api, options, info)
    }
}

/// A node that is ready to run.
pub trait Kernel: Send + Sync {
    /// One call; several may go on at the same time.
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error>;
}
