//! Any weight, tiling and profile: what is encoded decodes to itself on every kernel, and every kernel, residency and
//! number of threads multiplies it to the bits that the definition gives.

use std::mem::MaybeUninit;

use mcd_core::quantize::{Quantizer, Range};
use mcd_core::{
    Activation, CompressedWeight, Elementwise, EncodedWeight, Epilogue, Kernel, MatmulCall, Operands, Parallel,
    PreparedWeight, Profile, ScalarOrPerColumn, Serial, SplitHeads, Tiling, WeightType, WeightView, ZeroPoint,
    encode, unpack,
};

use mcd_testkit::pools::Backwards;
use mcd_testkit::product::{expected, sums};
use mcd_testkit::ways::{Element, run, ways};

use crate::input::Input;
use crate::reach::reached;

/// Runs one input.
pub fn check(data: &[u8]) {
    let case = Case::read(data);
    let w = case.weight();
    let Some(encoded) = case.encoded() else { return };
    check_decoding(&w, &encoded);

    let x = case.activations();
    let xi: Vec<i8> = x.iter().map(|&v| v as i8).collect();
    let columns = Columns::of(&case);
    let call = case.call(&x, &xi, &columns);
    let (m, n, k) = (case.m, case.n, case.k);
    let matrices =
        [1, 3].map(|step| -> Vec<f32> { (0..m * n).map(|i| case.float(i * step, i as f32 * 0.3)).collect() });
    let epilogues = Epilogues { case: &case, columns: &columns, matrices: &matrices };
    let wanted = epilogues.wanted(case.scale(&columns.scales));
    if case.has(14) {
        let floats = Floats::of(&case, &xi);
        let scales: Vec<f32> = columns.scales.iter().map(|scale| floats.quantizer.scale * scale).collect();
        let operands = Operands { x_zero_point: floats.quantizer.zero_point.into(), ..call.operands };
        let bytes = MatmulCall { x: Activation::U8(&floats.quantized), operands, ..call };
        let expected = expected(&sums(&w, case.kind, n, k, &bytes), n, epilogues.wanted(case.scale(&scales)));
        let call = MatmulCall { x: Activation::F32(&floats.x, floats.split), ..call };
        check_products(&encoded, &call, wanted, &expected);
    } else {
        check_products(&encoded, &call, wanted, &expected(&sums(&w, case.kind, n, k, &call), n, wanted));
    }
}

/// The byte at a place of some that are repeated; zero of none.
fn cycle(of: &[u8], i: usize) -> u8 {
    of.get(i % of.len().max(1)).copied().unwrap_or(0)
}

/// What an input says.
struct Case<'a> {
    flags: u16,
    tiling: Tiling,
    k: usize,
    n: usize,
    m: usize,
    profile: Profile,
    kind: WeightType,
    /// Whether the weight's values lie around a centre, and how narrowly.
    bell: bool,
    narrow: u32,
    /// Bytes between the rows or columns of the weight in memory, and in front of it.
    gap: usize,
    at: usize,
    /// From one byte of `bytes` that makes a value to the next.
    step: usize,
    zeros: &'a [u8],
    bias: &'a [u8],
    floats: Vec<f32>,
    bytes: &'a [u8],
}

impl<'a> Case<'a> {
    fn read(data: &'a [u8]) -> Self {
        let mut input = Input(data);
        let flags = input.word();
        let tiling = Tiling { k: usize::from(input.byte() % 17), n: usize::from(input.byte() % 17) };
        let (k, n, m) = (input.size(140), input.size(72), input.size(16));
        let profile = [Profile::Fast, Profile::Balanced, Profile::Small][usize::from(input.byte()) % 3];
        let kind = if flags & 1 == 0 { WeightType::I8 } else { WeightType::U8 };
        let values = input.byte();
        let gap = usize::from(input.byte() % 4);
        let (zeros, bias) = (input.take(8), input.take(8));
        let floats = input.take(16).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four")));
        let floats = floats.collect();
        let (at, step) = (usize::from(input.byte()), 1 + usize::from(input.byte()));
        let bytes = if input.0.is_empty() { &[1, 2, 3][..] } else { input.0 };
        let (bell, narrow) = (values & 8 != 0, u32::from(values % 8));
        Self { flags, tiling, k, n, m, profile, kind, bell, narrow, gap, at, step, zeros, bias, floats, bytes }
    }

    fn has(&self, bit: u32) -> bool {
        self.flags >> bit & 1 != 0
    }

    fn float(&self, i: usize, none: f32) -> f32 {
        self.floats.get(i % self.floats.len().max(1)).copied().unwrap_or(none)
    }

    /// Distances of columns and of elements of the weight in memory, which lies there by rows or by columns.
    fn strides(&self) -> (usize, usize) {
        if self.has(1) { (1, self.n + self.gap) } else { (self.k + self.gap, 1) }
    }

    /// The weight as it lies in memory.
    fn memory(&self) -> Vec<u8> {
        let bytes = self.bytes;
        let value = |i: usize| bytes[(i * self.step + i / bytes.len()) % bytes.len()];
        // Either the input's bytes as they are, or their sums around a centre, which real weights look like: those are
        // what ranks, continuation levels and escapes are for.
        let bell = |i: usize| {
            let mix = |salt: u32| (i as u32 ^ u32::from(value(i)) << 8).wrapping_mul(0x9e37_79b9 ^ salt << 7) >> 24;
            let sum: u32 = (1..5).map(mix).sum();
            ((sum as i32 - 510) >> self.narrow.clamp(1, 4)) as u8
        };
        (0..(self.n + self.gap) * (self.k + self.gap) + self.at)
            .map(|i| if self.bell { bell(i) } else { (value(i) as i8 >> self.narrow) as u8 })
            .collect()
    }

    /// The weight, (n, k).
    fn weight(&self) -> Vec<u8> {
        let (memory, (rows, elements)) = (self.memory(), self.strides());
        (0..self.n * self.k).map(|i| memory[self.at + i / self.k * rows + i % self.k * elements]).collect()
    }

    /// The same encoded from memory, unless the tiling is refused.
    fn encoded(&self) -> Option<EncodedWeight> {
        let (memory, tiles) = (self.memory(), self.tiling.k * self.tiling.n);
        let view = WeightView::new(&memory[self.at..], (self.n, self.k), self.strides(), self.kind);
        let encoded = encode(&view.expect("it lies inside"), self.profile, self.tiling);
        assert!(encoded.is_ok() || tiles == 0 || tiles > 127);
        encoded.ok()
    }

    fn activations(&self) -> Vec<u8> {
        let value = |i: usize| cycle(self.bytes, i * 5 + i / 3).wrapping_add((i / self.k) as u8);
        (0..self.m * self.k).map(value).collect()
    }

    /// The product of bytes.
    fn call<'c>(&self, x: &'c [u8], xi: &'c [i8], columns: &'c Columns) -> MatmulCall<'c> {
        let (unsigned, zero) = (self.has(2), cycle(self.zeros, 3));
        let operands = Operands {
            x_zero_point: if unsigned { i32::from(zero) } else { i32::from(zero as i8) },
            x_scale: None,
            w_zero_point: match self.flags >> 3 & 3 {
                0 => ZeroPoint::None,
                1 => ZeroPoint::Scalar(columns.zeros[0]),
                _ => ZeroPoint::PerColumn(&columns.zeros),
            },
            bias: self.has(5).then_some(&columns.bias[..]),
        };
        let x = if unsigned { Activation::U8(x) } else { Activation::I8(xi) };
        MatmulCall { x, m: self.m, operands, heads: None }
    }

    /// All of the scales, or the first for all columns.
    fn scale<'c>(&self, scales: &'c [f32]) -> ScalarOrPerColumn<'c> {
        if self.has(6) { ScalarOrPerColumn::PerColumn(scales) } else { ScalarOrPerColumn::Scalar(scales[0]) }
    }
}

/// What goes with each column.
struct Columns {
    zeros: Vec<i32>,
    bias: Vec<i32>,
    /// And addends.
    scales: Vec<f32>,
}

impl Columns {
    fn of(case: &Case<'_>) -> Self {
        let zero = |j| match case.kind {
            WeightType::I8 => i32::from(cycle(case.zeros, j) as i8),
            WeightType::U8 => i32::from(cycle(case.zeros, j)),
        };
        let bias = |j| i32::from(cycle(case.bias, j)) << (cycle(case.bias, j + 1) % 25);
        Self {
            zeros: (0..case.n).map(zero).collect(),
            bias: (0..case.n).map(bias).collect(),
            scales: (0..case.n).map(|j| case.float(j, 0.5)).collect(),
        }
    }
}

/// Floats, in heads or not, and the bytes that they are quantised to.
struct Floats {
    x: Vec<f32>,
    split: Option<SplitHeads>,
    quantizer: Quantizer,
    quantized: Vec<u8>,
}

impl Floats {
    fn of(case: &Case<'_>, xi: &[i8]) -> Self {
        let (m, k) = (case.m, case.k);
        let heads = [2, 3, 1].into_iter().find(|heads| k.is_multiple_of(*heads)).expect("1 divides everything");
        let split = case.has(15).then_some(SplitHeads { heads, rows: m, columns: k / heads });
        let x: Vec<f32> = (0..m * k).map(|i| f32::from(xi[i]) * case.float(i * 7, 0.5)).collect();
        let quantizer = Quantizer::from(Range::of(&x));
        let mut quantized = vec![MaybeUninit::uninit(); m * k];
        let quantized = quantizer.quantize(&x, &mut quantized);
        let quantized = match split {
            None => quantized.to_vec(),
            Some(SplitHeads { heads, rows, columns }) => {
                let place = |row: usize, head: usize| (head * rows + row) * columns;
                let places = (0..rows).flat_map(|row| (0..heads).map(move |head| place(row, head)));
                places.flat_map(|at| quantized[at..at + columns].to_vec()).collect()
            }
        };
        Self { x, split, quantizer, quantized }
    }
}

/// What becomes of the sums.
struct Epilogues<'c> {
    case: &'c Case<'c>,
    columns: &'c Columns,
    /// A gate and a residual.
    matrices: &'c [Vec<f32>; 2],
}

impl<'c> Epilogues<'c> {
    fn wanted(&self, scale: ScalarOrPerColumn<'c>) -> (Element, Epilogue<'c>) {
        let case = self.case;
        let scales = &self.columns.scales;
        let addend = match (case.has(7), case.has(8)) {
            (false, _) => None,
            (true, false) => Some(ScalarOrPerColumn::Scalar(scales[0])),
            (true, true) => Some(ScalarOrPerColumn::PerColumn(scales)),
        };
        let [gate, residual] = self.matrices;
        let elementwise =
            Elementwise { gate: case.has(12).then_some(gate), residual: case.has(13).then_some(residual) };
        let dequantized = |elementwise| Epilogue::Dequantize { scale, addend, elementwise };
        let zero_point = i32::from(cycle(case.zeros, 1));
        match case.flags >> 9 & 7 {
            0 | 1 => (Element::I32, Epilogue::Sums),
            2 | 3 => (Element::F32, dequantized(elementwise)),
            4 | 5 => (Element::F16, dequantized(Elementwise::default())),
            6 => (Element::U8, Epilogue::Requantize { scale, zero_point }),
            _ => (Element::I8, Epilogue::Requantize { scale, zero_point: zero_point - 128 }),
        }
    }
}

/// Decodes on every kernel.
fn check_decoding(w: &[u8], encoded: &EncodedWeight) {
    let EncodedWeight { x2, compress_index, compress_info, .. } = encoded;
    let parsed = CompressedWeight::parse(x2, compress_index, compress_info).expect("what is written is readable");
    if parsed.stats().coded_tiles > 0 {
        reached();
    }
    for kernel in Kernel::available() {
        let decoded = unpack(parsed.clone(), x2, kernel, &Serial).expect("what is written is readable");
        assert!(decoded == w, "{kernel:?} gives another weight");
    }
}

/// Multiplies in all ways.
fn check_products(encoded: &EncodedWeight, call: &MatmulCall<'_>, wanted: (Element, Epilogue<'_>), expected: &[u32]) {
    let EncodedWeight { x2, compress_index, compress_info, .. } = encoded;
    for options in ways() {
        let prepared = PreparedWeight::new(x2, compress_index, compress_info, options);
        let prepared = prepared.expect("what is written is readable");
        for pool in [&Serial as &dyn Parallel, &Backwards(3)] {
            let out = run(&prepared, x2, call, wanted, pool).expect("the operands fit");
            assert_eq!(out.len(), expected.len());
            for (i, (out, expected)) in out.iter().zip(expected).enumerate() {
                assert!(
                    expected == out,
                    "{options:?} with {} threads gives {out:08x} instead of {expected:08x} at {i}",
                    pool.threads()
                );
            }
        }
    }
}
