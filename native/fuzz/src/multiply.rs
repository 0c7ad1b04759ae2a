//! The multiplication as its definition has it, and how the kernels are asked for theirs.

use mcd_core::{
    Activation, Destination, Elementwise, Epilogue, Error, Kernel, MatmulCall, Output, Parallel, PrepareOptions,
    PreparedWeight, Residency, ScalarOrPerColumn, WeightType, ZeroPoint,
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
        Activation::F32(..) | Activation::Rows(_) => unreachable!("activations are quantised here"),
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

/// Types of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    I32,
    F32,
    F16,
    U8,
    I8,
}

/// Which output: its type, and what makes it.
pub type Wanted<'a> = (Element, Epilogue<'a>);

/// The output's elements as bits; every NaN as the same one.
pub fn run(
    weight: &PreparedWeight,
    x2: &[u8],
    call: &MatmulCall<'_>,
    (element, epilogue): Wanted<'_>,
    pool: &dyn Parallel,
) -> Result<Vec<u32>, Error> {
    /// Memory of an output once it is written.
    fn written<T: Copy + Default>(
        len: usize,
        bits: impl Fn(T) -> u32,
        write: impl FnOnce(&mut [T]) -> Result<(), Error>,
    ) -> Result<Vec<u32>, Error> {
        let mut out = vec![T::default(); len];
        write(&mut out)?;
        Ok(out.into_iter().map(bits).collect())
    }
    let (len, weight) = (call.m * weight.n(), weight.bind(x2)?);
    let run = |destination: Destination<'_>| weight.run(call, Output::new(destination, epilogue), pool);
    match element {
        Element::I32 => written(len, |v: i32| v as u32, |out| run(out.into())),
        Element::F32 => written(len, float_bits, |out| run(out.into())),
        Element::F16 => written(len, |bits| half_bits(half::f16::from_bits(bits)), |out| run(out.into())),
        Element::U8 => written(len, |v: u8| u32::from(v), |out| run(out.into())),
        Element::I8 => written(len, |v: i8| v as u32, |out| run(out.into())),
    }
}

/// What [`run`] must give for these sums; `None` where the definition says nothing.
pub fn expected(sums: &[i32], n: usize, (element, epilogue): Wanted<'_>) -> Vec<Option<u32>> {
    let at = |values: ScalarOrPerColumn<'_>, i: usize| match values {
        ScalarOrPerColumn::Scalar(v) => v,
        ScalarOrPerColumn::PerColumn(v) => v[i % n],
    };
    let float = |i: usize| {
        let product = sums[i] as f32 * at(epilogue.scale(), i);
        let mut value = epilogue.addend().map_or(product, |addend| product + at(addend, i));
        let Elementwise { gate, residual } = epilogue.elementwise();
        if let Some(gate) = gate {
            value *= gate[i];
        }
        if let Some(residual) = residual {
            value += residual[i];
        }
        value
    };
    let rounded = |i: usize, low: i32, high: i32| {
        let Epilogue::Requantize { zero_point, .. } = epilogue else { panic!("bytes are requantised") };
        let value = float(i).round_ties_even();
        (!value.is_nan())
            .then(|| (f64::from(value) + f64::from(zero_point)).clamp(low.into(), high.into()) as i32 as u32)
    };
    (0..sums.len())
        .map(|i| match element {
            Element::I32 => Some(sums[i] as u32),
            Element::F32 => Some(float_bits(float(i))),
            Element::F16 => Some(half_bits(half::f16::from_f32(float(i)))),
            Element::U8 => rounded(i, 0, 255),
            Element::I8 => rounded(i, -128, 127),
        })
        .collect()
}

pub fn float_bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

pub fn half_bits(value: half::f16) -> u32 {
    u32::from(if value.is_nan() { half::f16::NAN } else { value }.to_bits())
}
