//! A run: its inputs, its output.

use std::ptr;

use ort_sys::{OrtKernelContext, OrtStatusPtr, OrtValue};

use super::lent::{at, slice};
use super::node::{Node, Tensor};
use super::status::{done, fail};
use crate::failing::unrefused;

/// A run of a node.
pub(super) struct Run<'a> {
    pub(super) node: &'a Node,
    /// In a place of its own: the operator keeps its address while it asks the context for more.
    pub(super) output: Option<Box<Tensor>>,
}

pub(super) unsafe extern "system" fn context_input(
    context: *const OrtKernelContext,
    index: usize,
    out: *mut *const OrtValue,
) -> OrtStatusPtr {
    // SAFETY: the context is live, and there is a place for the answer.
    unsafe {
        let input = at::<Run<'_>, _>(context).node.inputs.get(index).and_then(Option::as_ref);
        *out = input.map_or(ptr::null(), |input| ptr::from_ref(&input.tensor).cast());
    }
    done()
}

pub(super) unsafe extern "system" fn context_output(
    context: *mut OrtKernelContext,
    index: usize,
    dims: *const i64,
    rank: usize,
    out: *mut *mut OrtValue,
) -> OrtStatusPtr {
    assert_eq!(index, 0);
    // SAFETY: the context is live, made of a `&mut Run`, and nothing else looks at it during this call; there are as many
    // dimensions as said, and a place for the answer.
    unsafe {
        let dims = slice(dims, rank);
        let count = dims.iter().try_fold(1_i64, |count, dim| count.checked_mul(*dim));
        let Some(count) = count.filter(|count| (0..1 << 20).contains(count)) else { return fail("too large") };
        // As many bytes as the widest output has; the element's size is the target's business.
        let tensor = || Tensor { output: true, ..Tensor::new(0, dims, &vec![0xa5; count as usize * 4]) };
        let run = &mut *context.cast::<Run<'_>>();
        // A second one would free the first, which the operator may still write to.
        assert!(run.output.is_none(), "the output is asked for twice");
        *out = ptr::from_mut(&mut **run.output.insert(Box::new(unrefused(tensor)))).cast();
    }
    done()
}
