//! Every kernel that runs here against the scalar one, tile by tile: codes that no profile chooses, and damaged tiles. Whole weights
//! are compared in `tests/exactness.rs`.

use super::output::{Elementwise, Epilogue, Output, ScalarOrPerColumn};
use super::pairs;
use super::portable::Portable;
use super::rows::{self, ActivationRow, Terms, WeightTerm};
use super::{Accumulators, Coded, Extent, Multiplier, PanelSteps, Rows, Scratch, Symbols, TileCode, TileKernel};
use crate::codec::decode::CodedTile;
use crate::codec::encode::EncodeTable;
use crate::codec::{Code, Order, Stored};
use crate::container::Tile;
use crate::dispatch::Kernel;
use crate::geometry::{FRACTAL, GROUP};
use crate::{CompressedWeight, Profile, Tiling, WeightType, WeightView, encode};
use half::f16;
use mcd_testkit::Rng;
use std::mem::MaybeUninit;

#[test]
fn every_code_decodes_alike() {
    let extent = Extent::new(2, 3);
    let mut rng = Rng::new(0x2545_f491_4f6c_dd1d);
    let orders = |rng: &mut Rng| {
        let rotated = (rng.next() % 256) as u8;
        let stored = |mask| Stored::new((0..128).map(|rank: u8| rank.wrapping_add(rotated & 0x80)).collect(), mask);
        [Order::Distance(0x80), Order::Distance(rotated), Order::Stored(stored(0x80).unwrap())]
    };
    let (mut codes, mut scratch) = (0, Scratch::default());
    for root_bits in 1..=7u8 {
        for step in (0..=1u32 << root_bits).filter(|step| root_bits < 5 || step.is_power_of_two() || step % 7 == 0) {
            for levels in [0, 1, 2, 3, 5, 12] {
                for order in orders(&mut rng) {
                    let centre = order.first();
                    let Ok(code) = Code::new(root_bits, step as u8, levels, order) else { continue };
                    // Without a step only roots have a code word.
                    let reach = if step == 0 { 1 << root_bits } else { 256 };
                    let table = code.table();
                    let symbols: Vec<u8> = (0..extent.weights())
                        .map(|_| table[(rng.next() % 256 * (rng.next() % 256) / 256 % reach) as usize])
                        .collect();
                    let mut x2 = EncodeTable::new(&code).encode(&symbols);
                    let end = x2.len().next_multiple_of(GROUP);
                    x2.resize(end + GROUP, 0);
                    let tile =
                        CodedTile::parse(&x2, 0, end, extent.weights() / FRACTAL * code.root_bits() * GROUP).unwrap();
                    let (code, panel) = (TileCode::from(code), extent.panel());
                    let coded = Coded { code: &code, tile: &tile, extent };
                    for kernel in Kernel::available() {
                        let mut found = vec![centre; extent.weights()];
                        let decoded = kernel.tile().decode(coded, &mut found, panel, &mut scratch);
                        assert!(decoded.is_ok(), "{kernel:?} {code:?}");
                        assert!(found == symbols, "{kernel:?} {code:?}");
                    }
                    codes += 1;
                }
            }
        }
    }
    assert!(codes > 500);
}

#[test]
fn rows_are_packed_alike() {
    let mut rng = Rng::new(0x1234_5678_9abc_def1);
    for len in (0..140).chain([255, 1000, 4097]) {
        // All the same as well, for the sums are the largest then.
        for value in [None, Some(0), Some(0x7f), Some(0x80), Some(0xff)] {
            let bytes: Vec<u8> = (0..len).map(|_| value.unwrap_or_else(|| rng.next() as u8)).collect();
            let signed: Vec<i8> = bytes.iter().map(|byte| byte.cast_signed()).collect();
            for row in [ActivationRow::U8(&bytes), ActivationRow::I8(&signed)] {
                let mut expected = vec![77; len];
                let sum = rows::pack(row, &mut expected);
                for kernel in Kernel::available() {
                    let mut packed = vec![77; len];
                    assert_eq!(kernel.tile().rows().pack(row, &mut packed), sum, "{kernel:?}, {len}");
                    assert_eq!(packed, expected, "{kernel:?}, {len}");
                }
            }
        }
    }
}

#[test]
fn terms_of_columns_are_alike() {
    let mut rng = Rng::new(7);
    for len in (0..40).chain([255, 1000]) {
        let sums: Vec<i32> = (0..len).map(|_| rng.next() as i32).collect();
        for (factor, base) in [(0, 5), (128, -7), (255, i32::MAX), (i32::MIN, i32::MIN)] {
            let expected: Vec<i32> =
                sums.iter().map(|sum| (i64::from(base) - i64::from(factor) * i64::from(*sum)) as i32).collect();
            for kernel in Kernel::available() {
                let mut terms = vec![77; len];
                kernel.tile().rows().column_terms(&sums, factor, base, &mut terms);
                assert_eq!(terms, expected, "{kernel:?}, {len}");
            }
        }
    }
}

#[test]
fn weighted_sums_are_alike() {
    let mut rng = Rng::new(0x0dd5_0f11);
    for len in (0..70).chain([95, 96, 97, 300]) {
        for runs in [0, 1, 2, 3, 9, 26] {
            let values: Vec<i16> = (0..len + 40).map(|_| (rng.next() % 511) as i16 - 255).collect();
            // The last run ends where the values do.
            let starts: Vec<usize> =
                (0..runs).map(|run| if run == 1 { 40 } else { rng.next() as usize % 41 }).collect();
            let factors: Vec<i16> =
                (0..runs).map(|run| [(rng.next() % 511) as i16 - 255, -255, 255][run % 3]).collect();
            let runs = rows::WeightedRuns { values: &values, starts: &starts, factors: &factors };
            for base in [-7, i32::MAX] {
                let sum = |i: usize| {
                    let products = starts.iter().zip(&factors).map(|(start, factor)| (values[start + i], *factor));
                    products.fold(base, |sum, (value, factor)| sum.wrapping_add(i32::from(value) * i32::from(factor)))
                };
                let expected: Vec<i32> = (0..len).map(sum).collect();
                for kernel in Kernel::available() {
                    let mut found = vec![77; len];
                    kernel.tile().rows().weighted_sums(base, runs, &mut found);
                    assert_eq!(found, expected, "{kernel:?}, {len}, {starts:?}");
                }
            }
        }
    }
}

#[test]
fn scaled_sums_are_alike() {
    let mut rng = Rng::new(0x005c_a1ed);
    for len in (0..40).chain([255, 1000]) {
        let sums: Vec<i32> = (0..len).map(|_| rng.next() as i32).collect();
        for (scale, addend) in
            [(0.37e-3, None), (1.0, Some(-0.0)), (f32::MIN_POSITIVE, Some(3.7)), (-2e30, Some(1e38))]
        {
            let all = sums.iter().map(|&sum| addend.map_or(sum as f32 * scale, |addend| sum as f32 * scale + addend));
            let expected: Vec<u32> = all.map(f32::to_bits).collect();
            for kernel in Kernel::available() {
                let mut found = vec![MaybeUninit::new(7.0); len];
                kernel.tile().rows().scaled(&sums, scale, addend, &mut found);
                // SAFETY: all of them were initialised.
                let found: Vec<u32> =
                    found.into_iter().map(|float| unsafe { float.assume_init() }.to_bits()).collect();
                assert_eq!(found, expected, "{kernel:?}, {len}");
            }
        }
    }
}

#[test]
fn pairs_are_alike() {
    let mut rng = Rng::new(0x0009_a125);
    for (runs, len, behind) in [(0, 5, 0), (1, 1, 0), (2, 15, 40), (3, 16, 0), (9, 17, 3), (26, 48, 16), (5, 100, 11)]
    {
        let bytes: Vec<u8> = (0..len + 40 + behind).map(|at| [rng.next() as u8, 255, 0][at % 3]).collect();
        // A run may end where the bytes do, if nothing is behind.
        let starts: Vec<usize> = (0..runs).map(|run| if run == 1 { 40 } else { rng.next() as usize % 41 }).collect();
        for (signed, zero_point) in [(false, 0), (false, 255), (true, 127), (true, -128), (false, 7)] {
            let runs = pairs::ByteRuns { bytes: &bytes, signed, zero_point, starts: &starts };
            let first = if behind == 0 { 0 } else { 2 };
            let positions = first..first + len;
            let mut expected = vec![7; len.div_ceil(pairs::POSITIONS) * runs.block()];
            pairs::pair(runs, positions.clone(), &mut expected);
            for rows in 1..=pairs::ROWS {
                let factors: Vec<i16> = (0..runs.block() / pairs::POSITIONS * rows)
                    .map(|at| [(rng.next() % 511) as i16 - 255, -255, 255][at % 3])
                    .collect();
                let bases: Vec<i32> = (0..rows).map(|row| [-7, i32::MAX][row % 2]).collect();
                let mut sums = vec![77; rows * len.next_multiple_of(pairs::POSITIONS)];
                pairs::pair_sums(&expected, &factors, &bases, &mut sums);
                for (row, base) in bases.iter().enumerate() {
                    // By definition.
                    let product = |(run, start): (usize, &usize), at: usize| {
                        i32::from(runs.number(*start, at)) * i32::from(factors[row * (factors.len() / rows) + run])
                    };
                    let companion =
                        starts.last().filter(|_| starts.len() % 2 == 1).map(|start| (starts.len(), start));
                    for i in 0..len {
                        let all = starts.iter().enumerate().chain(companion).map(|run| product(run, first + i));
                        assert_eq!(sums[row * (sums.len() / rows) + i], all.fold(*base, i32::wrapping_add));
                    }
                }
                for kernel in Kernel::available() {
                    let mut found = vec![7; expected.len()];
                    kernel.tile().rows().pair(runs, positions.clone(), &mut found);
                    assert_eq!(found, expected, "{kernel:?}, {starts:?}");
                    let mut found = vec![78; sums.len()];
                    kernel.tile().rows().pair_sums(&expected, &factors, &bases, &mut found);
                    assert_eq!(found, sums, "{kernel:?}, {starts:?}, {rows}");
                }
            }
        }
    }
}

/// Whatever the reference accepts must decode to the same symbols; the rest must do no harm.
#[test]
fn damaged_tiles() {
    let (n, k) = (48, 96);
    let mut rng = Rng::new(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut scratch, mut room) = (0, Scratch::default(), Vec::new());
    for width in [3, 9, 40, 100] {
        let bell = |rng: &mut Rng| (0..4).map(|_| rng.next() as i64 % width).sum::<i64>() as u8;
        let w: Vec<u8> = (0..n * k).map(|_| bell(&mut rng)).collect();
        let view = WeightView::new(&w, (n, k), (k, 1), WeightType::I8).unwrap();
        for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
            let encoded = encode(&view, profile, Tiling { k: 2, n: 3 }).unwrap();
            let weight =
                CompressedWeight::parse(&encoded.x2, &encoded.compress_index, &encoded.compress_info).unwrap();
            let Some(code) = weight.code().cloned().map(TileCode::from) else { continue };
            for trial in 0..200 {
                let mut x2 = encoded.x2.clone();
                for _ in 0..trial % 8 {
                    let at = rng.next() as usize % x2.len();
                    x2[at] = rng.next() as u8;
                }
                for t in 0..weight.geometry().tiles() {
                    let Ok(Tile::Coded(tile)) = weight.tile(&x2, t, &mut room) else { continue };
                    let shape = weight.geometry().tile(t);
                    let extent = Extent::new(shape.panels, shape.fractals);
                    let coded = Coded { code: &code, tile: &tile, extent };
                    let panel = extent.panel();
                    let mut expected = vec![0; extent.weights()];
                    let valid = Portable::<false>.decode(coded, &mut expected, panel, &mut scratch).is_ok();
                    accepted += usize::from(valid);
                    for kernel in Kernel::available() {
                        let mut found = vec![0; extent.weights()];
                        let decodes = kernel.tile().decode(coded, &mut found, panel, &mut scratch);
                        let decodes = decodes.is_ok();
                        assert!(!valid || decodes && expected == found, "{kernel:?} {width} {profile:?} {trial} {t}");
                        let x = finished(kernel.tile(), &vec![-128; 5 * extent.k()], extent.k());
                        let rows = Rows::new(&x, x.len() / 5, 5, x.len() / 5);
                        let mut acc = vec![0; 5 * extent.columns()];
                        let mut acc = Accumulators::new(&mut acc, extent.columns(), 5, extent.columns());
                        let multiplies = kernel.tile().multiply_coded(coded, rows, &mut acc, &mut scratch);
                        assert_eq!(multiplies.is_ok(), decodes, "{kernel:?}");
                    }
                }
            }
        }
    }
    assert!(accepted > 100);
}

/// Outputs in fp16 are the same bits whoever rounds them; scales of sums of 1 are what is rounded.
#[test]
fn every_kernel_rounds_to_the_same_halves() {
    let mut floats: Vec<f32> =
        vec![0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, 65519.0, 65520.0];
    // NaNs with other bits, what becomes subnormal, zero or infinite, and ties.
    floats.extend([0x7f80_0001, 0xff80_2000, 0x7fff_ffff].map(f32::from_bits));
    floats.extend([2f32.powi(-24), 2f32.powi(-25), 2f32.powi(-25) * 1.5, 2f32.powi(-26), f32::MAX, 1e-40]);
    floats.extend([1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 2049.0, 2051.0]);
    let mut rng = Rng::new(0x0bad_cafe_dead_beef);
    floats.extend((0..500).map(|_| f32::from_bits(rng.next() as u32)));
    let n = floats.len();
    let (sums, columns) = (vec![1; n], vec![0; n]);
    let terms = Terms { columns: &columns, weight: WeightTerm::Scalar(0), row_sums: &[0] };
    for kernel in Kernel::available() {
        let mut halves = vec![0u16; n];
        let scale = ScalarOrPerColumn::PerColumn(&floats);
        let epilogue = Epilogue::Dequantize { scale, addend: None, elementwise: Elementwise::default() };
        kernel.tile().rows().epilogue(&sums, n, &terms, Output::new(&mut halves[..], epilogue));
        for (float, half) in floats.iter().zip(halves) {
            // A product with 1 makes a NaN quiet, as it does in the reference.
            assert_eq!(
                half,
                f16::from_f32_const(float * 1.0).to_bits(),
                "{kernel:?} {float} {:08x}",
                float.to_bits()
            );
        }
    }
}

/// Packed rows of `k` activations as a kernel multiplies them.
fn finished(kernel: &dyn Multiplier, packed: &[i8], k: usize) -> Vec<i8> {
    let width = kernel.rows().width();
    let row = |packed: &[i8]| {
        let mut row = [&vec![77; (width - 1) * k], packed].concat();
        kernel.rows().finish(&mut row);
        row
    };
    packed.chunks(k).flat_map(row).collect()
}

/// Panels of lengths that kernels take by ones, twos and fours, of weights over the whole range and of such as can be added in 16
/// bits, as they are decoded and signed, with exact products and such that saturate.
#[test]
fn symbols_in_memory_multiply_alike() {
    let mut rng = Rng::new(0x5eed_cafe_0123_4567);
    let widths = [256, 20, 64, 100];
    for (fractals, width) in [8, 10, 12, 15, 20, 22, 24, 26, 27, 32, 80].into_iter().zip(widths.into_iter().cycle()) {
        for (panels, m) in [(1, 16), (2, 9), (3, 16), (4, 16), (5, 12), (6, 33), (7, 10), (5, 7), (9, 3), (5, 19)] {
            let extent = Extent::new(panels, fractals);
            let symbol = |_| (128 - width / 2 + rng.next() % width) as u8;
            let symbols: Vec<u8> = (0..extent.weights()).map(symbol).collect();
            let x: Vec<i8> = (0..m * extent.k()).map(|_| rng.next() as i8).collect();
            let subject = InMemory { extent, symbols, x, m };
            let (exact, saturating) = (subject.sums(&Portable::<false>), subject.sums(&Portable::<true>));
            let of_bytes = subject.sums_of_bytes();
            for kernel in Kernel::available() {
                subject.check(kernel.tile(), &exact);
                if let Some(kernel) = kernel.tile().of_bytes() {
                    subject.check_signed(kernel, &of_bytes);
                }
                if let Some(kernel) = kernel.saturating() {
                    subject.check(kernel.products(), &saturating);
                }
            }
        }
    }
}

/// Decoded panels and packed rows.
struct InMemory {
    extent: Extent,
    symbols: Vec<u8>,
    x: Vec<i8>,
    m: usize,
}

impl InMemory {
    /// A kernel's sums.
    fn sums(&self, kernel: &dyn Multiplier) -> Vec<i32> {
        self.sums_of(kernel, self.symbols[..].into(), true)
    }

    /// Those of some form of the symbols, with or without what was in their place before, 0, 1, 2, …
    fn sums_of(&self, kernel: &dyn Multiplier, symbols: Symbols<'_>, overwrite: bool) -> Vec<i32> {
        let (m, columns) = (self.m, self.extent.columns());
        let mut sums: Vec<i32> = (0..(m * columns) as i32).collect();
        let x = finished(kernel, &self.x, self.extent.k());
        let rows = Rows::new(&x, x.len() / m, m, x.len() / m);
        let acc = Accumulators::new(&mut sums, columns, m, columns);
        let mut acc = if overwrite { acc.overwrite() } else { acc };
        kernel.multiply(symbols, self.extent, rows, &mut acc, &mut Scratch::default()).expect("there is memory");
        sums
    }

    fn check(&self, kernel: &dyn TileKernel, expected: &[i32]) {
        let about = || format!("{kernel:?} {:?} m={}", self.extent, self.m);
        assert!(self.sums(kernel) == expected, "{}", about());
        let added: Vec<i32> = expected.iter().zip(0..).map(|(sum, before)| sum.wrapping_add(before)).collect();
        assert!(self.sums_of(kernel, self.symbols[..].into(), false) == added, "{} added", about());
        if let Some(kernel) = kernel.of_signed() {
            self.check_signed(kernel, expected);
        }
    }

    /// A kernel of symbols with their sign bits turned over, with steps and without.
    fn check_signed(&self, kernel: &dyn Multiplier, expected: &[i32]) {
        let signed: Vec<u8> = self.symbols.iter().map(|symbol| symbol ^ 0x80).collect();
        let steps = |panel| kernel.steps(panel).expect("there is memory");
        let steps: Vec<PanelSteps> = signed.chunks(self.extent.panel()).map(steps).collect();
        let about = || format!("{kernel:?} {:?} m={}", self.extent, self.m);
        assert!(self.sums_of(kernel, signed[..].into(), true) == expected, "{} signed", about());
        let added: Vec<i32> = expected.iter().zip(0..).map(|(sum, before)| sum.wrapping_add(before)).collect();
        let symbols = Symbols { bytes: &signed, steps: &steps };
        assert!(self.sums_of(kernel, symbols, false) == added, "{} in steps", about());
    }

    /// Exact sums of uint8 activations and int8 weights, by the definition of kernel order.
    fn sums_of_bytes(&self) -> Vec<i32> {
        let (k, panel) = (self.extent.k(), self.extent.panel());
        let sum = |i: usize, j: usize| {
            let weight =
                |at: usize| i32::from(self.symbols[j / 16 * panel + at / 4 * 64 + j % 16 * 4 + at % 4]) - 128;
            (0..k).map(|at| (i32::from(self.x[i * k + at]) + 128) * weight(at)).sum()
        };
        (0..self.m).flat_map(|i| (0..self.extent.columns()).map(move |j| sum(i, j))).collect()
    }
}
