//! How a weight can be prepared and multiplied here, and results as bits.

use mcd_core::{
    Destination, Epilogue, Error, Kernel, MatmulCall, Output, Parallel, PrepareOptions, PreparedWeight, Residency,
};

/// Every kernel that runs here, with weights compressed and decoded.
pub fn ways() -> impl Iterator<Item = PrepareOptions> {
    Kernel::available().into_iter().flat_map(|kernel| {
        [Residency::Compressed, Residency::Decoded].map(|residency| PrepareOptions { residency, kernel, threads: 1 })
    })
}

/// Types of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// int32.
    I32,
    /// fp32.
    F32,
    /// fp16.
    F16,
    /// uint8.
    U8,
    /// int8.
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
    /// An output, which holds this value before it is written.
    fn written<T: Clone>(
        len: usize,
        before: T,
        bits: impl Fn(T) -> u32,
        write: impl FnOnce(&mut [T]) -> Result<(), Error>,
    ) -> Result<Vec<u32>, Error> {
        let mut out = vec![before; len];
        write(&mut out)?;
        Ok(out.into_iter().map(bits).collect())
    }
    let (len, weight) = (call.m * weight.n(), weight.bind(x2)?);
    let run = |destination: Destination<'_>| weight.run(call, Output::new(destination, epilogue), pool);
    match element {
        Element::I32 => written(len, 77, |v: i32| v as u32, |out| run(out.into())),
        Element::F32 => written(len, 77.0, float_bits, |out| run(out.into())),
        Element::F16 => written(len, 77, |bits| half_bits(half::f16::from_bits(bits)), |out| run(out.into())),
        Element::U8 => written(len, 77, |v: u8| u32::from(v), |out| run(out.into())),
        Element::I8 => written(len, 77, |v: i8| v as u32, |out| run(out.into())),
    }
}

/// Every NaN as the same one.
pub fn float_bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

/// Every NaN as the same one.
pub fn half_bits(value: half::f16) -> u32 {
    u32::from(if value.is_nan() { half::f16::NAN } else { value }.to_bits())
}
