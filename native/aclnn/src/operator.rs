//! `aclnnMatmulCompressDequant`: `out = (x1 @ unzip(x2)ᵀ + bias) * deqScale`, in two phases.
//!
//! The first phase checks descriptions and settles what is to be done; the second queues it. What only the data can
//! tell (a damaged weight, a scale that is not finite) fails on the stream and shows when it is synchronised.

use std::ptr;
use std::slice;
use std::sync::Arc;

use half::f16;
use mcd_core::parallel::Scoped;
use mcd_core::{
    Activation, Elementwise, Epilogue, Error, MatmulCall, Output, Parallel, PrepareOptions, PreparedWeight,
    ScalarOrPerColumn, Serial, WeightType, ZeroPoint,
};

use crate::inject;
use crate::memory::{Access, Place};
use crate::mode::strict;
use crate::plan::{Executor, Plan, Span, Work};
use crate::state::{Kind, Object, State};
use crate::status::{
    Checked, FAILURE, Failure, Family, NO_EXECUTOR, PARAM_INVALID, PARAM_NULLPTR, RUNTIME_ERROR, fail, report,
};
use crate::stream::Task;
use crate::tensor::{DataType, FORMAT_ND, Tensor};

/// Multiplications from which on more than one thread pays.
const PARALLEL_FROM: usize = 1 << 22;
/// The one tiling that a device knows.
const TILING: i64 = 8;
/// Bytes of `compressIndex` a tile.
const INDEX_ENTRY: usize = 8;

/// The first phase's arguments; 0 is null.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    pub x1: usize,
    pub x2: usize,
    pub compress_index: usize,
    pub bias: usize,
    pub deq_scale: usize,
    pub offset_w: usize,
    pub offset_x: i32,
    pub compress_info: usize,
    pub out: usize,
}

/// The first phase: an executor and the workspace that it needs.
pub fn prepare(state: &State, arguments: &Arguments) -> Checked<(Executor, u64)> {
    let plan = check(state, arguments)?;
    let workspace = plan.workspace as u64;
    Ok((Executor { plan: Arc::new(plan), repeatable: false }, workspace))
}

fn check(state: &State, arguments: &Arguments) -> Checked<Plan> {
    let tensors = Tensors::look_up(state, arguments)?;
    tensors.check_types()?;
    let [m, k, n] = tensors.check_shape(arguments)?;
    tensors.check_layouts()?;
    let zeros = tensors.check_operands([m, k, n])?;
    let work = tensors.work(zeros, k, n)?;
    let plan = Plan {
        work,
        m: m as usize,
        n: n as usize,
        info: check_info(&tensors.info)?,
        x1: span("x1", &tensors.x1, 1, Access::Read)?,
        x2: span("x2", &tensors.x2, 1, Access::Read)?,
        index: span("compressIndex", &tensors.index, 1, Access::Read)?,
        bias: tensors.bias.as_ref().map(|bias| span("bias", bias, 4, Access::Read)).transpose()?,
        scale: span("deqScale", &tensors.scale, 8, Access::Read)?,
        out: span("out", &tensors.out, 2, Access::Write)?,
        tensors: arguments
            .required()
            .into_iter()
            .filter(|(what, _)| *what != "compressInfo")
            .chain((arguments.bias != 0).then_some(("bias", arguments.bias)))
            .collect(),
        // What a device needs to bring x1 into fractals and the result out of them.
        workspace: if work == Work::Multiply {
            padded(m, 16) * padded(k, 32) + padded(m, 16) * padded(n, 16) * size_of::<u16>()
        } else {
            0
        },
    };
    for input in plan.inputs() {
        if overlap(&plan.out, &input) {
            return fail(PARAM_INVALID, format!("out and {} share memory", input.what));
        }
    }
    Ok(plan)
}

impl Arguments {
    /// What may not be null, by name.
    fn required(&self) -> [(&'static str, usize); 6] {
        [
            ("x1", self.x1),
            ("x2", self.x2),
            ("compressIndex", self.compress_index),
            ("deqScale", self.deq_scale),
            ("compressInfo", self.compress_info),
            ("out", self.out),
        ]
    }
}

/// The tensors behind the arguments.
struct Tensors {
    x1: Arc<Tensor>,
    x2: Arc<Tensor>,
    index: Arc<Tensor>,
    bias: Option<Arc<Tensor>>,
    scale: Arc<Tensor>,
    out: Arc<Tensor>,
    info: Arc<[i64]>,
}

impl Tensors {
    fn look_up(state: &State, arguments: &Arguments) -> Checked<Self> {
        if let Some((what, _)) = arguments.required().iter().find(|(_, handle)| *handle == 0) {
            return fail(PARAM_NULLPTR, format!("{what} is null"));
        }
        if arguments.bias == 0 && strict() {
            return fail(
                PARAM_NULLPTR,
                "bias is null: the document makes it optional, the implementation does not; give zeros",
            );
        }
        Ok(Self {
            x1: state.tensor("x1", arguments.x1)?,
            x2: state.tensor("x2", arguments.x2)?,
            index: state.tensor("compressIndex", arguments.compress_index)?,
            bias: match arguments.bias {
                0 => None,
                handle => Some(state.tensor("bias", handle)?),
            },
            scale: state.tensor("deqScale", arguments.deq_scale)?,
            out: state.tensor("out", arguments.out)?,
            info: state.int_array("compressInfo", arguments.compress_info)?,
        })
    }

    fn check_types(&self) -> Checked<()> {
        check_type("x1", &self.x1, DataType::INT8)?;
        check_type("x2", &self.x2, DataType::INT8)?;
        check_type("compressIndex", &self.index, DataType::INT8)?;
        if let Some(bias) = &self.bias {
            check_type("bias", bias, DataType::INT32)?;
        }
        check_type("deqScale", &self.scale, DataType::UINT64)?;
        check_type("out", &self.out, DataType::FLOAT16)
    }

    /// The sizes [m, k, n] of the multiplication.
    fn check_shape(&self, arguments: &Arguments) -> Checked<[i64; 3]> {
        let [m, k] = self.x1.dims[..] else {
            return fail(PARAM_INVALID, format!("x1 has shape {:?} instead of (m, k)", self.x1.dims));
        };
        if self.x2.dims.len() != 1 {
            return fail(PARAM_INVALID, format!("x2 has shape {:?} instead of one dimension", self.x2.dims));
        }
        let [_, _, info_k, n, _] = check_info(&self.info)?;
        if k != info_k {
            let found = &self.x1.dims;
            return fail(
                PARAM_INVALID,
                format!("x1 has shape {found:?}, and compressInfo[2], which is k, is {info_k}"),
            );
        }
        if !strict() {
            if arguments.offset_x != 0 {
                return fail(PARAM_INVALID, format!("offsetX is {} instead of 0", arguments.offset_x));
            }
            if arguments.offset_w != 0 {
                return fail(PARAM_INVALID, "offsetW is not null");
            }
        }
        check_limits(k, n)?;
        Ok([m, k, n])
    }

    fn check_layouts(&self) -> Checked<()> {
        let Self { x1, x2, index, scale, out, .. } = self;
        let described = [("x1", x1), ("x2", x2), ("compressIndex", index), ("deqScale", scale), ("out", out)];
        let bias = self.bias.as_ref().map(|bias| ("bias", bias));
        described.into_iter().chain(bias).try_for_each(|(what, tensor)| check_layout(what, tensor))
    }

    /// Checks the shapes of all but x1 and x2; whether the implementation would answer with zeros.
    fn check_operands(&self, [m, k, n]: [i64; 3]) -> Checked<bool> {
        if self.out.dims != [m, n] {
            return fail(PARAM_INVALID, format!("out has shape {:?} instead of {:?}", self.out.dims, [m, n]));
        }
        if let Some(bias) = &self.bias
            && bias.dims != [n]
            && bias.dims != [1, n]
        {
            return fail(
                PARAM_INVALID,
                format!("bias has shape {:?} instead of {:?} or {:?}", bias.dims, [n], [1, n]),
            );
        }
        let tiles = (k as usize).div_ceil(256) * (n as usize).div_ceil(128);
        let entries = [(tiles * INDEX_ENTRY) as i64];
        if self.index.dims != entries {
            let found = &self.index.dims;
            return fail(
                PARAM_INVALID,
                format!("compressIndex has shape {found:?} instead of {entries:?}, 8 for each tile"),
            );
        }
        check_scale_shape(&self.scale, n)
    }

    fn work(&self, zeros: bool, k: i64, n: i64) -> Checked<Work> {
        Ok(if self.out.len() == 0 {
            Work::Nothing
        } else if zeros || (strict() && (self.x1.len() == 0 || self.x2.len() == 0)) {
            Work::Zeros
        } else if k == 0 {
            Work::BiasOnly
        } else if self.x2.len() == 0 {
            return fail(PARAM_INVALID, format!("x2 is empty, and the weight is ({n}, {k})"));
        } else {
            Work::Multiply
        })
    }
}

fn padded(size: i64, unit: usize) -> usize {
    (size as usize).next_multiple_of(unit)
}

fn check_type(what: &str, tensor: &Tensor, expected: DataType) -> Checked<()> {
    if tensor.data_type == expected {
        return Ok(());
    }
    fail(PARAM_INVALID, format!("{what} is {} instead of {expected}", tensor.data_type))
}

fn check_layout(what: &str, tensor: &Tensor) -> Checked<()> {
    if tensor.format != FORMAT_ND {
        return fail(PARAM_INVALID, format!("{what} has format {} instead of ACL_FORMAT_ND", tensor.format));
    }
    if !tensor.is_contiguous() {
        return fail(
            PARAM_INVALID,
            format!(
                "{what} has strides {:?} for shape {:?}; only contiguous tensors are taken",
                tensor.strides, tensor.dims
            ),
        );
    }
    Ok(())
}

/// [tilingK, tilingN, k, n, direction].
fn check_info(info: &[i64]) -> Checked<[i64; 5]> {
    // The implementation reads four, and never asks how many there are.
    let read = if strict() { 4 } else { 5 };
    if info.len() < read || (info.len() != read && !strict()) {
        return fail(
            PARAM_INVALID,
            format!("compressInfo is {info:?} instead of [tilingK, tilingN, k, n, direction]"),
        );
    }
    let [tiling_k, tiling_n, k, n] = [info[0], info[1], info[2], info[3]];
    if [tiling_k, tiling_n] != [TILING; 2] {
        return fail(PARAM_INVALID, format!("compressInfo is {info:?}: tilingK and tilingN must be 8"));
    }
    if !strict() && info[4] != 1 {
        return fail(PARAM_INVALID, format!("compressInfo is {info:?}: direction must be 1"));
    }
    let limit = i64::from(i32::MAX);
    if !(0..=limit).contains(&k) || !(0..=limit).contains(&n) {
        return fail(PARAM_INVALID, format!("compressInfo is {info:?}: k and n are out of range"));
    }
    Ok([tiling_k, tiling_n, k, n, 1])
}

/// The document's limits. The implementation does not enforce them, and what it does beyond them is not known, so they
/// hold in both modes. The document's limit m ≤ 256 does not: its own example has 512 rows.
fn check_limits(k: i64, n: i64) -> Checked<()> {
    if k != 0 && (k % 64 != 0 || k <= 256) {
        return fail(PARAM_INVALID, format!("k is {k}, and must be a multiple of 64 above 256"));
    }
    if n != 0 && (n % 64 != 0 || n < 128) {
        return fail(PARAM_INVALID, format!("n is {n}, and must be a multiple of 64 from 128 on"));
    }
    Ok(())
}

/// Whether the implementation would answer this number of scales with zeros.
fn check_scale_shape(scale: &Tensor, n: i64) -> Checked<bool> {
    let count = scale.len() as i64;
    if strict() {
        if count % 16 != 0 {
            report(&format!(
                "deqScale has shape {:?}: the implementation logs that {count} is no multiple of 16, returns success and \
                 fills out with zeros",
                scale.dims
            ));
            return Ok(true);
        }
        if count < n {
            return fail(
                PARAM_INVALID,
                format!("deqScale has shape {:?}: a device would read beyond its end for {n} columns", scale.dims),
            );
        }
        return Ok(false);
    }
    if [&[n][..], &[1, n], &[1], &[1, 1]].contains(&&scale.dims[..]) {
        return Ok(false);
    }
    fail(PARAM_INVALID, format!("deqScale has shape {:?} instead of {:?}, {:?} or [1, 1]", scale.dims, [n], [1, n]))
}

fn span(what: &'static str, tensor: &Tensor, element: usize, access: Access) -> Checked<Span> {
    let len = tensor.len() * element;
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

fn overlap(a: &Span, b: &Span) -> bool {
    a.len > 0
        && b.len > 0
        && a.address < b.address.saturating_add(b.len)
        && b.address < a.address.saturating_add(a.len)
}

/// The second phase: queues an executor's work.
pub fn launch(state: &mut State, executor: usize, workspace: usize, size: u64, stream: usize) -> Checked<()> {
    let known = state.executor(executor, NO_EXECUTOR)?;
    let (plan, repeatable) = (Arc::clone(&known.plan), known.repeatable);
    let result = queue(state, &plan, workspace, size, stream);
    if !repeatable {
        state.remove("executor", executor, Kind::Executor, NO_EXECUTOR)?;
    }
    result
}

fn queue(state: &mut State, plan: &Arc<Plan>, workspace: usize, size: u64, stream: usize) -> Checked<()> {
    state.check_device(Family::Aclnn)?;
    for (what, handle) in &plan.tensors {
        if !state.is_live(*handle) {
            return fail(RUNTIME_ERROR, format!("{what} was destroyed before the second phase"));
        }
    }
    let mut spans: Vec<Span> = plan.inputs().chain([plan.out]).collect();
    if plan.workspace > 0 {
        if workspace == 0 {
            return fail(PARAM_NULLPTR, format!("workspace is null, and {} bytes are needed", plan.workspace));
        }
        if size < plan.workspace as u64 {
            return fail(PARAM_INVALID, format!("workspaceSize is {size}, and {} bytes are needed", plan.workspace));
        }
        let own = Span { what: "workspace", address: workspace, len: plan.workspace, access: Access::Write };
        if let Some(other) = spans.iter().find(|other| overlap(&own, other)) {
            return fail(PARAM_INVALID, format!("workspace and {} share memory", other.what));
        }
        spans.push(own);
    }
    let (handle, _) = state.stream(stream, Family::Aclnn)?;
    spans.retain(|span| span.len > 0);
    for span in &spans {
        let refused = |failure: Failure| Failure { code: RUNTIME_ERROR, ..failure };
        let memory = &state.memory;
        memory.check_inside(span.what, span.address, span.len, Place::Device).map_err(refused)?;
        memory.check_settled(span.what, span.address, span.len, span.access, Some(handle)).map_err(refused)?;
    }
    let task: Task = {
        let plan = Arc::clone(plan);
        Box::new(move || {
            inject::check(Family::Acl, inject::EXECUTION)?;
            // SAFETY: the addresses were live device memory, aligned, when the work was queued; memory that queued work
            // uses is neither freed nor written by anything else, and `out` shares none with the inputs.
            unsafe { execute(&plan) }
        })
    };
    let ticket = state.stream(handle, Family::Aclnn)?.1.submit(task);
    for span in &spans {
        state.memory.note_use(handle, ticket, span.address, span.len, span.access);
    }
    Ok(())
}

/// # Safety
///
/// The span lies in live memory that is aligned for `T`, of which any bits are a value, and nobody writes meanwhile.
unsafe fn elements<'a, T>(span: &Span) -> &'a [T] {
    if span.len == 0 {
        return &[];
    }
    // SAFETY: the caller's contract.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(span.address), span.len / size_of::<T>()) }
}

/// # Safety
///
/// All spans of the plan lie in live memory, aligned; nobody writes the inputs or touches the output meanwhile, and the
/// output overlaps no input.
unsafe fn execute(plan: &Plan) -> Checked<()> {
    if plan.work == Work::Nothing {
        return Ok(());
    }
    // SAFETY: the caller's contract.
    let out: &mut [u16] = unsafe {
        slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(plan.out.address), plan.out.len / size_of::<u16>())
    };
    if plan.work == Work::Zeros {
        out.fill(0);
        return Ok(());
    }
    // SAFETY: the caller's contract; all are plain integers.
    let (x1, x2, index, words, bias) = unsafe {
        (
            elements::<i8>(&plan.x1),
            elements::<u8>(&plan.x2),
            elements::<u8>(&plan.index),
            elements::<u64>(&plan.scale),
            plan.bias.map(|bias| elements::<i32>(&bias)),
        )
    };
    let scales = scales(if words.len() == 1 { words } else { &words[..plan.n] })?;
    let scale = match scales[..] {
        [only] => ScalarOrPerColumn::Scalar(only),
        _ => ScalarOrPerColumn::PerColumn(&scales),
    };
    if plan.work == Work::BiasOnly {
        bias_only(out, plan.n, bias, &scales);
        return Ok(());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = PrepareOptions { threads, ..PrepareOptions::from_env().map_err(|error| refused(&error))? };
    let weight = PreparedWeight::new(x2, index, &plan.info, options).map_err(|error| refused(&error))?;
    if weight.weight_type() != WeightType::I8 {
        return Err(failure("x2 holds uint8 weights, and the operator multiplies int8".into()));
    }
    let call = MatmulCall {
        x: Activation::I8(x1),
        m: plan.m,
        x_zero_point: 0,
        x_scale: None,
        w_zero_point: ZeroPoint::None,
        bias,
        heads: None,
    };
    let pool: &dyn Parallel =
        if x1.len().saturating_mul(plan.n) < PARALLEL_FROM { &Serial } else { &Scoped(threads) };
    let epilogue = Epilogue::Dequantize { scale, addend: None, elementwise: Elementwise::default() };
    let weight = weight.bind(x2).map_err(|error| refused(&error))?;
    weight.run(&call, Output::new(out, epilogue), pool).map_err(|error| refused(&error))
}

/// The scales that words stand for.
fn scales(words: &[u64]) -> Checked<Vec<f32>> {
    words
        .iter()
        .enumerate()
        .map(|(j, &word)| scale(word).map_err(|reason| failure(format!("deqScale[{j}] is {word:#018x}: {reason}"))))
        .collect()
}

/// What the operator gives for sums without a term.
fn bias_only(out: &mut [u16], n: usize, bias: Option<&[i32]>, scales: &[f32]) {
    for (at, value) in out.iter_mut().enumerate() {
        let j = at % n;
        let factor = if scales.len() == 1 { scales[0] } else { scales[j] };
        *value = f16::from_f32(bias.map_or(0, |bias| bias[j]) as f32 * factor).to_bits();
    }
}

fn failure(message: String) -> Failure {
    Failure { code: FAILURE, message: format!("aclnnMatmulCompressDequant: {message}") }
}

/// Why a weight is not multiplied with.
fn refused(error: &Error) -> Failure {
    failure(match error {
        Error::Magic(found) => format!(
            "x2 is not a stream of the open codec, it begins with {found:02x?}. A stream that CANN's own compressor wrote, \
             such as the all-zero one of the operator's public example, runs on a device only; compress the weight with \
             `mcd ascend compress` to run it here"
        ),
        other => other.to_string(),
    })
}

/// A scale word: the bits of an fp32, extended to 64 bits.
fn scale(word: u64) -> Result<f32, &'static str> {
    let low = word as u32;
    let high = (word >> 32) as u32;
    let value = f32::from_bits(low);
    // The document's recipe extends the sign of int32 bits.
    let sign_extended = !strict() && value.is_sign_negative() && high == u32::MAX;
    if high != 0 && !sign_extended {
        return Err("the upper half must be 0, and the lower half the bits of an fp32");
    }
    if !value.is_finite() {
        return Err("the scale must be finite (CANN's release notes list others as a known issue)");
    }
    Ok(value)
}

/// Takes an executor out whose second phase is not wanted.
pub fn destroy(state: &mut State, executor: usize) -> Checked<()> {
    state.remove("executor", executor, Kind::Executor, NO_EXECUTOR).map(|removed| match removed {
        Object::Executor(executor) => drop(executor),
        _ => unreachable!("looked up by kind"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_words_are_extended_fp32_bits() {
        assert_eq!(scale(0x3f80_0000), Ok(1.0));
        assert_eq!(scale(0xbf80_0000), Ok(-1.0));
        assert_eq!(scale(0xffff_ffff_bf80_0000), Ok(-1.0));
        assert!(scale(0xffff_ffff_3f80_0000).is_err());
        assert!(scale(0x4000_3f80_0000).is_err());
        assert!(scale(0x7f80_0000).is_err());
        assert!(scale(0x7fc0_0000).is_err());
    }
}
