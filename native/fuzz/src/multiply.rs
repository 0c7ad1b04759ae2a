//! The multiplication as its definition has it, and how the kernels are asked for theirs.

use mcd_core::{
    Activation, Elementwise, Error, Kernel, MatmulCall, Output, Parallel, PrepareOptions, PreparedWeight, QuantOut,
    Residency, Vector, WeightType, ZeroPoint,
};

/// Pretends to have threads: the tasks run one after the other, the last one first.
pub struct Backwards(pub usize);

impl Parallel for Backwards {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).rev().for_each(task);
    }
}

/// How a weight can be prepared here.
pub fn ways() -> impl Iterator<Item = PrepareOptions> {
    Kernel::available().into_iter().flat_map(|kernel| {
        [Residency::Compressed, Residency::Decoded].map(|residency| PrepareOptions { residency, kernel, threads: 1 })
    })
}

/// The integer sums of the weight (n, k).
pub fn sums(w: &[u8], of: WeightType, n: usize, k: usize, call: &MatmulCall<'_>) -> Vec<i32> {
    let w: Vec<i32> = w
        .iter()
        .map(|&w| match of {
            WeightType::I8 => i32::from(w as i8),
            WeightType::U8 => i32::from(w),
        })
        .collect();
    let x: Vec<i32> = match call.x {
        Activation::U8(x) => x.iter().map(|&x| i32::from(x) - call.x_zero_point).collect(),
        Activation::I8(x) => x.iter().map(|&x| i32::from(x) - call.x_zero_point).collect(),
        Activation::F32(..) => unreachable!("activations are quantised here"),
    };
    let mut out = Vec::with_capacity(call.m * n);
    for row in x.chunks_exact(k) {
        for (j, column) in w.chunks_exact(k).enumerate() {
            let zero = match call.w_zero_point {
                ZeroPoint::None => 0,
                ZeroPoint::Scalar(z) => z,
                ZeroPoint::PerColumn(z) => z[j],
            };
            let sum = row.iter().zip(column).fold(0_i32, |sum, (x, w)| sum.wrapping_add(x * (w - zero)));
            out.push(sum.wrapping_add(call.bias.map_or(0, |b| b[j])));
        }
    }
    out
}

/// Which output, with its operands.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    I32,
    F32(Vector<'a>, Option<Vector<'a>>, Elementwise<'a>),
    F16(Vector<'a>, Option<Vector<'a>>),
    U8(Vector<'a>, i32),
    I8(Vector<'a>, i32),
}

/// The output's elements as bits; every NaN as the same one.
pub fn run(
    weight: &PreparedWeight,
    x2: &[u8],
    call: &MatmulCall<'_>,
    wanted: Wanted<'_>,
    pool: &dyn Parallel,
) -> Result<Vec<u32>, Error> {
    let len = call.m * weight.n();
    Ok(match wanted {
        Wanted::I32 => {
            let mut out = vec![0; len];
            weight.run(x2, call, Output::I32(&mut out), pool)?;
            out.into_iter().map(|v| v as u32).collect()
        }
        Wanted::F32(scale, addend, elementwise) => {
            let mut out = vec![0.0; len];
            weight.run(x2, call, Output::F32 { out: &mut out, scale, addend, elementwise }, pool)?;
            out.into_iter().map(float_bits).collect()
        }
        Wanted::F16(scale, addend) => {
            let mut out = vec![0; len];
            weight.run(x2, call, Output::F16 { out: &mut out, scale, addend }, pool)?;
            out.into_iter().map(|bits| half_bits(half::f16::from_bits(bits))).collect()
        }
        Wanted::U8(scale, zero_point) => {
            let mut out = vec![0; len];
            weight.run(x2, call, Output::Requant { out: QuantOut::U8(&mut out), scale, zero_point }, pool)?;
            out.into_iter().map(u32::from).collect()
        }
        Wanted::I8(scale, zero_point) => {
            let mut out = vec![0; len];
            weight.run(x2, call, Output::Requant { out: QuantOut::I8(&mut out), scale, zero_point }, pool)?;
            out.into_iter().map(|v| v as u32).collect()
        }
    })
}

/// What [`run`] must give for these sums; `None` where the definition says nothing.
pub fn expected(sums: &[i32], n: usize, wanted: Wanted<'_>) -> Vec<Option<u32>> {
    let at = |vector: Vector<'_>, i: usize| match vector {
        Vector::Scalar(v) => v,
        Vector::PerColumn(v) => v[i % n],
    };
    let scaled = |i: usize, scale, addend: Option<Vector<'_>>| {
        let product = sums[i] as f32 * at(scale, i);
        addend.map_or(product, |a| product + at(a, i))
    };
    let rounded = |i: usize, scale, zero_point: i32, low: i32, high: i32| {
        let value = scaled(i, scale, None).round_ties_even();
        (!value.is_nan())
            .then(|| (f64::from(value) + f64::from(zero_point)).clamp(low.into(), high.into()) as i32 as u32)
    };
    (0..sums.len())
        .map(|i| match wanted {
            Wanted::I32 => Some(sums[i] as u32),
            Wanted::F32(scale, addend, Elementwise { gate, residual }) => {
                let mut value = scaled(i, scale, addend);
                if let Some(gate) = gate {
                    value *= gate[i];
                }
                if let Some(residual) = residual {
                    value += residual[i];
                }
                Some(float_bits(value))
            }
            Wanted::F16(scale, addend) => Some(half_bits(half::f16::from_f32(scaled(i, scale, addend)))),
            Wanted::U8(scale, zero_point) => rounded(i, scale, zero_point, 0, 255),
            Wanted::I8(scale, zero_point) => rounded(i, scale, zero_point, -128, 127),
        })
        .collect()
}

pub fn float_bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

pub fn half_bits(value: half::f16) -> u32 {
    u32::from(if value.is_nan() { half::f16::NAN } else { value }.to_bits())
}
