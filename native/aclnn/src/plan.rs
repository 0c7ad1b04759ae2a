//! What the first phase of the operator settles for the second.

use std::sync::Arc;

use crate::memory::Access;

/// Bytes of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub what: &'static str,
    pub address: usize,
    pub len: usize,
    pub access: Access,
}

/// What the second phase does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The output has no elements.
    Nothing,
    /// The output is zeros.
    Zeros,
    /// The sums are empty: the output is bias · scale.
    BiasOnly,
    /// The formula.
    Multiply,
}

/// Checked arguments.
#[derive(Debug)]
pub struct Plan {
    pub work: Work,
    pub m: usize,
    pub n: usize,
    pub info: [i64; 5],
    pub x1: Span,
    pub x2: Span,
    pub index: Span,
    pub bias: Option<Span>,
    pub scale: Span,
    pub out: Span,
    /// Descriptors that have to live until the second phase.
    pub tensors: Vec<(&'static str, usize)>,
    pub workspace: usize,
}

/// `aclOpExecutor`: what the first phase settled.
#[derive(Debug)]
pub struct Executor {
    pub plan: Arc<Plan>,
    /// Lives on after the second phase.
    pub repeatable: bool,
}

impl Plan {
    /// What is read.
    pub fn inputs(&self) -> impl Iterator<Item = Span> {
        [self.x1, self.x2, self.index, self.scale].into_iter().chain(self.bias)
    }
}
