//! The computation, on a stream: `out = (x1 @ unzip(x2)ᵀ + bias) * deqScale`.
//!
//! What only the data can tell, such as a damaged weight or a scale that is not finite, fails here and shows when the
//! stream is synchronised.

use std::{ptr, slice};

use half::f16;
use mcd_core::container::stream_of;
use mcd_core::parallel::Scoped;
use mcd_core::{
    Activation, Elementwise, Epilogue, Error, MatmulCall, Operands, Output, Parallel, PrepareOptions, PreparedWeight,
    ScalarOrPerColumn, Serial, WeightType,
};

use crate::plan::{Plan, Span, Work};
use crate::scales::scales;
use crate::status::{Checked, FAILURE, Failure, report};
use crate::view::{View, reserve};

/// Multiplications from which on more than one thread pays.
const PARALLEL_FROM: usize = 1 << 22;

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

/// Does a plan's work.
///
/// # Safety
///
/// All spans of the plan lie in live memory, aligned; nobody writes the inputs or touches the output meanwhile, and the
/// output overlaps no input.
pub unsafe fn execute(plan: &Plan) -> Checked<()> {
    match &plan.work {
        Work::Nothing => return Ok(()),
        Work::Unknown(reason) => {
            let why = "the implementation does not check this, and what a device does with it is not known";
            return Err(failure(format!("{reason}; {why}")));
        }
        _ => {}
    }
    // SAFETY: the caller's contract.
    let out: &mut [u16] = unsafe {
        slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(plan.out.address), plan.out.len / size_of::<u16>())
    };
    if plan.out_view == View::Contiguous {
        // SAFETY: the caller's contract.
        return unsafe { fill(plan, out) };
    }
    let mut values = reserve(plan.m * plan.n)?;
    values.resize(plan.m * plan.n, 0);
    // SAFETY: the caller's contract.
    unsafe { fill(plan, &mut values) }?;
    plan.out_view.scatter(&values, out);
    Ok(())
}

/// # Safety
///
/// As for [`execute`]; `out` has the result's elements.
unsafe fn fill(plan: &Plan, out: &mut [u16]) -> Checked<()> {
    if plan.work == Work::Zeros {
        out.fill(0);
        return Ok(());
    }
    // SAFETY: the caller's contract; all are plain integers.
    let (x1, x2, index, words, bias) = unsafe {
        (
            plan.x1_view.gather(elements::<i8>(&plan.x1))?,
            stream_of(elements::<u8>(&plan.x2)),
            elements::<u8>(&plan.index),
            elements::<u64>(&plan.scale),
            plan.bias.as_ref().map(|(span, view)| view.gather(elements::<i32>(span))).transpose()?,
        )
    };
    let scales = scales(if words.len() == 1 { words } else { &words[..plan.n] }).map_err(failure)?;
    if plan.work == Work::BiasOnly {
        bias_only(out, plan.n, bias.as_deref(), &scales);
        return Ok(());
    }
    multiply(plan, &x1, (x2, index), bias.as_deref(), &scales, out)?;
    if out.iter().all(|&value| !f16::from_bits(value).is_finite()) {
        report(
            "every number of the result is infinite or no number: bias must be int32 (the document's script writes \
             float32, whose bits are huge integers), and deqScale small enough for float16",
        );
    }
    Ok(())
}

fn multiply(
    plan: &Plan,
    x1: &[i8],
    (x2, index): (&[u8], &[u8]),
    bias: Option<&[i32]>,
    scales: &[f32],
    out: &mut [u16],
) -> Checked<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = PrepareOptions { threads, ..PrepareOptions::from_env().map_err(|error| refused(&error))? };
    let weight = PreparedWeight::new(x2, index, &plan.info, options).map_err(|error| refused(&error))?;
    if weight.weight_type() != WeightType::I8 {
        return Err(failure("x2 holds uint8 weights, and the operator multiplies int8".into()));
    }
    let call = MatmulCall {
        x: Activation::I8(x1),
        m: plan.m,
        operands: Operands { bias, ..Operands::default() },
        heads: None,
    };
    let scale = match scales {
        &[only] => ScalarOrPerColumn::Scalar(only),
        _ => ScalarOrPerColumn::PerColumn(scales),
    };
    let pool: &dyn Parallel =
        if x1.len().saturating_mul(plan.n) < PARALLEL_FROM { &Serial } else { &Scoped(threads) };
    let epilogue = Epilogue::Dequantize { scale, addend: None, elementwise: Elementwise::default() };
    let weight = weight.bind(x2).map_err(|error| refused(&error))?;
    weight.run(&call, Output::new(out, epilogue), pool).map_err(|error| refused(&error))
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
