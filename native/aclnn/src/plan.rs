//! What the first phase of the operator settles for the second.

use std::sync::Arc;

use crate::memory::Access;
use crate::view::View;

/// Bytes of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub what: &'static str,
    pub address: usize,
    pub len: usize,
    pub access: Access,
}

impl Span {
    /// Whether two spans share a byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.len > 0
            && other.len > 0
            && self.address < other.address.saturating_add(other.len)
            && other.address < self.address.saturating_add(self.len)
    }
}

/// What the second phase does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// The output has no elements.
    Nothing,
    /// The output is zeros.
    Zeros,
    /// The sums are empty: the output is bias · scale.
    BiasOnly,
    /// The formula.
    Multiply,
    /// Something that the implementation does not check, and of which nobody knows what a device makes: an error when it
    /// is executed.
    Unknown(String),
}

/// What the checks of the arguments settle.
#[derive(Debug)]
pub struct Settled {
    pub work: Work,
    pub m: i64,
    pub k: i64,
    pub n: i64,
}

/// Checked arguments.
#[derive(Debug)]
pub struct Plan {
    pub work: Work,
    pub m: usize,
    pub n: usize,
    pub info: [i64; 5],
    pub x1: Span,
    pub x1_view: View,
    pub x2: Span,
    pub index: Span,
    pub bias: Option<(Span, View)>,
    pub scale: Span,
    pub out: Span,
    pub out_view: View,
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
        [self.x1, self.x2, self.index, self.scale].into_iter().chain(self.bias.as_ref().map(|(span, _)| *span))
    }
}
