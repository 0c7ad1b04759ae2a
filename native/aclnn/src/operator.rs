//! `aclnnMatmulCompressDequant`: `out = (x1 @ unzip(x2)ᵀ + bias) * deqScale`, first phase.
//!
//! It checks descriptions and settles what is to be done, as the document says or as the public implementation does; the
//! second phase ([`crate::launch`]) queues it.

use std::sync::Arc;

use crate::arguments::{Arguments, Tensors};
use crate::memory::Access;
use crate::mode::strict;
use crate::plan::{Executor, Plan, Settled, Span, Work};
use crate::state::State;
use crate::status::{Checked, PARAM_INVALID, PARAM_NULLPTR, fail};
use crate::tensor::Tensor;
use crate::view::View;
use crate::{document, implementation};

/// An executor and the workspace that it needs.
pub fn prepare(state: &State, arguments: &Arguments) -> Checked<(Executor, u64)> {
    let tensors = Tensors::look_up(state, arguments)?;
    let settled = if strict() { implementation::settle(&tensors) } else { document::settle(&tensors, arguments) }?;
    let plan = plan(&tensors, settled, arguments)?;
    for input in plan.inputs() {
        if plan.out.overlaps(&input) {
            return fail(PARAM_INVALID, format!("out and {} share memory", input.what));
        }
    }
    let workspace = plan.workspace as u64;
    Ok((Executor { plan: Arc::new(plan), repeatable: false }, workspace))
}

fn plan(tensors: &Tensors, Settled { work, m, k, n }: Settled, arguments: &Arguments) -> Checked<Plan> {
    let workspace = if work == Work::Multiply { workspace(m, k, n) } else { 0 };
    let bias = tensors.bias.as_ref();
    let bias = bias.map(|bias| span("bias", bias, 4, Access::Read).map(|span| (span, View::of(bias)))).transpose()?;
    Ok(Plan {
        work,
        m: m as usize,
        n: n as usize,
        info: [8, 8, k, n, 1],
        x1: span("x1", &tensors.x1, 1, Access::Read)?,
        x1_view: View::of(&tensors.x1),
        x2: span("x2", &tensors.x2, 1, Access::Read)?,
        index: span("compressIndex", &tensors.index, 1, Access::Read)?,
        bias,
        scale: span("deqScale", &tensors.scale, 8, Access::Read)?,
        out: span("out", &tensors.out, 2, Access::Write)?,
        out_view: View::of(&tensors.out),
        tensors: arguments.described(),
        workspace,
    })
}

/// What a device needs to bring x1 into fractals and the result out of them.
fn workspace(m: i64, k: i64, n: i64) -> usize {
    let padded = |size: i64, unit: usize| (size as usize).next_multiple_of(unit);
    let (x1, out) = (padded(m, 16).saturating_mul(padded(k, 32)), padded(m, 16).saturating_mul(padded(n, 16)));
    x1.saturating_add(out.saturating_mul(size_of::<u16>()))
}

fn span(what: &'static str, tensor: &Tensor, element: usize, access: Access) -> Checked<Span> {
    let len = tensor.reach() * element;
    if len == 0 {
        return Ok(Span { what, address: 0, len, access });
    }
    if tensor.data == 0 {
        return fail(PARAM_NULLPTR, format!("{what} has no memory: tensorData was null"));
    }
    let Some(address) = tensor.offset.checked_mul(element).and_then(|offset| offset.checked_add(tensor.data)) else {
        return fail(PARAM_INVALID, format!("{what} has an impossible offset"));
    };
    if !address.is_multiple_of(element) {
        return fail(PARAM_INVALID, format!("{what} begins at {address:#x}, which is not aligned to its elements"));
    }
    Ok(Span { what, address, len, access })
}
