//! Every kernel against the sum as written in the operator's definition, on shapes that straddle every block size.

use mcd_core::parallel::Scoped;
use mcd_core::quantize::{Quantizer, Range};
use mcd_core::{
    Activation, Bound, Destination, Elementwise, Epilogue, Error, Heads, Kernel, MatmulCall, Output, Parallel,
    PrepareOptions, PreparedWeight, Profile, Residency, ScalarOrPerColumn, Serial, SplitHeads, Tiling, WeightType,
    WeightView, ZeroPoint, encode, encode_packed, unpack,
};
use std::mem::MaybeUninit;

/// A small deterministic generator (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

#[derive(Debug, Clone, Copy)]
enum Content {
    /// A sum of uniform bytes: bell shaped.
    Bell(i32),
    Noise,
    Constant,
    /// Bell shaped with whole rows along k that are extreme: groups with more than 57 continued lanes.
    ExtremeRows,
    TwoValues,
}

fn weight(content: Content, n: usize, k: usize, rng: &mut Rng) -> Vec<u8> {
    (0..n * k)
        .map(|i| {
            let bell = |rng: &mut Rng, width: i32| {
                let sum: i32 = (0..4).map(|_| i32::from(rng.byte()) - 128).sum();
                (sum * width / 128).clamp(-128, 127) as u8
            };
            match content {
                Content::Bell(width) => bell(rng, width),
                Content::Noise => rng.byte(),
                Content::Constant => 0x91,
                Content::ExtremeRows if i % k % 64 < 8 => 100 + rng.byte() % 20,
                Content::ExtremeRows => bell(rng, 5),
                Content::TwoValues => [3, 250][usize::from(rng.byte() < 20)],
            }
        })
        .collect()
}

/// acc as the operator defines it.
fn reference(w: &[u8], t: WeightType, n: usize, k: usize, call: &MatmulCall<'_>) -> Vec<i32> {
    let x = |i: usize| match call.x {
        Activation::U8(x) => i32::from(x[i]),
        Activation::I8(x) => i32::from(x[i]),
        Activation::F32(..) => panic!("quantise it first"),
    };
    let w = |i: usize| match t {
        WeightType::I8 => i32::from(w[i] as i8),
        WeightType::U8 => i32::from(w[i]),
    };
    let mut out = Vec::new();
    for i in 0..call.m {
        for j in 0..n {
            let zero = match call.w_zero_point {
                ZeroPoint::None => 0,
                ZeroPoint::Scalar(z) => z,
                ZeroPoint::PerColumn(z) => z[j],
            };
            let sum = (0..k).fold(call.bias.map_or(0, |b| b[j]), |sum, l| {
                sum.wrapping_add((x(i * k + l) - call.x_zero_point) * (w(j * k + l) - zero))
            });
            out.push(sum);
        }
    }
    out
}

/// Heads of 64 columns if that divides n, and a batch of 2 or 3 if that divides m.
fn heads(m: usize, n: usize) -> Heads {
    let divisor = |of: usize, wanted: &[usize]| wanted.iter().copied().find(|d| of.is_multiple_of(*d));
    let batch = divisor(m, &[2, 3]).unwrap_or(1);
    Heads { rows: (m / batch).max(1), columns: divisor(n, &[64, 16, 5, 3]).unwrap_or(n) }
}

fn check(content: Content, n: usize, k: usize, ms: &[usize], profile: Profile, tiling: Tiling) {
    let mut rng = Rng((n * 1000 + k) as u64);
    let w = weight(content, n, k, &mut rng);
    for (t, packed) in [(WeightType::I8, false), (WeightType::U8, false), (WeightType::I8, true)] {
        let view = WeightView::new(&w, (n, k), (k, 1), t).unwrap();
        let encoded = if packed { encode_packed(&view, profile, tiling) } else { encode(&view, profile, tiling) };
        let encoded = encoded.unwrap();
        let parsed =
            mcd_core::CompressedWeight::parse(&encoded.x2, &encoded.compress_index, &encoded.compress_info).unwrap();
        for kernel in Kernel::available() {
            let unpacked = unpack(parsed.clone(), &encoded.x2, kernel, &Serial).unwrap();
            assert!(unpacked == w, "round trip {kernel:?} {content:?} {n}×{k}");
        }
        for kernel in Kernel::available() {
            for residency in [Residency::Compressed, Residency::Decoded] {
                let options = PrepareOptions { residency, kernel, threads: 1 };
                let prepared =
                    PreparedWeight::new(&encoded.x2, &encoded.compress_index, &encoded.compress_info, options)
                        .unwrap();
                let bound = prepared.bind(&encoded.x2).unwrap();
                for &m in ms {
                    let x: Vec<u8> = (0..m * k).map(|_| rng.byte()).collect();
                    let xi: Vec<i8> = x.iter().map(|&v| v as i8).collect();
                    let zeros: Vec<i32> = (0..n).map(|_| i32::from(rng.byte() as i8)).collect();
                    let bias: Vec<i32> = (0..n).map(|_| rng.next() as i32).collect();
                    let signed = m % 2 == 0;
                    let call = MatmulCall {
                        x: if signed { Activation::I8(&xi) } else { Activation::U8(&x) },
                        m,
                        x_zero_point: if signed { -7 } else { 131 },
                        x_scale: None,
                        w_zero_point: match m % 3 {
                            0 => ZeroPoint::None,
                            1 => ZeroPoint::Scalar(5),
                            _ => ZeroPoint::PerColumn(&zeros),
                        },
                        bias: (m % 4 < 2).then_some(&bias[..]),
                        heads: None,
                    };
                    let expected = reference(&w, t, n, k, &call);
                    let scales: Vec<f32> = (0..n).map(|j| 0.37 / (j + 3) as f32).collect();
                    let addends: Vec<f32> = (0..n).map(|j| j as f32 - 4.3).collect();
                    let addend = (m % 5 < 3).then_some(&addends[..]);
                    let scale = |j: usize| if m % 7 < 4 { scales[j] } else { scales[0] };
                    let floats: Vec<f32> = (0..m * n)
                        .map(|i| expected[i] as f32 * scale(i % n) + addend.map_or(-0.0, |a| a[i % n]))
                        .collect();
                    let gate: Vec<f32> = (0..m * n).map(|_| f32::from(rng.byte() as i8) * 0.013).collect();
                    let residual: Vec<f32> = (0..m * n).map(|_| f32::from(rng.byte() as i8) * 7.3).collect();
                    // Each step is rounded; a neutral number changes nothing.
                    let finished = |i: usize, gated: bool, added: bool| {
                        floats[i] * if gated { gate[i] } else { 1.0 } + if added { residual[i] } else { -0.0 }
                    };
                    for pool in [&Serial as &dyn Parallel, &Scoped(3)] {
                        let mut out = vec![0i32; m * n];
                        bound.run(&call, Output::new(&mut out[..], Epilogue::Sums), pool).unwrap();
                        assert!(out == expected, "{kernel:?} {residency:?} {content:?} m={m} n={n} k={k} {t:?}");
                        let mut out = vec![0f32; m * n];
                        let scale = if m % 7 < 4 {
                            ScalarOrPerColumn::PerColumn(&scales)
                        } else {
                            ScalarOrPerColumn::Scalar(scales[0])
                        };
                        let addend = addend.map(ScalarOrPerColumn::PerColumn);
                        for (gated, added) in [(false, false), (true, false), (false, true), (true, true)] {
                            let (gate, residual) = (gated.then_some(&gate[..]), added.then_some(&residual[..]));
                            let elementwise = Elementwise { gate, residual };
                            let output =
                                Output::new(&mut out[..], Epilogue::Dequantize { scale, addend, elementwise });
                            bound.run(&call, output, pool).unwrap();
                            let expected = (0..m * n).map(|i| finished(i, gated, added).to_bits());
                            let same = expected.zip(&out).all(|(a, b)| a == b.to_bits());
                            assert!(
                                same,
                                "floats {gated} {added} {kernel:?} {residency:?} {content:?} m={m} n={n} k={k} {t:?}"
                            );
                        }

                        let heads = heads(m, n);
                        let call = MatmulCall { heads: Some(heads), ..call };
                        let mut out = vec![0f32; m * n];
                        let place = |i: usize| {
                            let (row, column) = (i / n, i % n);
                            let (batch, head) = (row / heads.rows, column / heads.columns);
                            ((batch * (n / heads.columns) + head) * heads.rows + row % heads.rows) * heads.columns
                                + column % heads.columns
                        };
                        let mut moved = [vec![0.0; m * n], vec![0.0; m * n]];
                        for i in 0..m * n {
                            moved[0][place(i)] = gate[i];
                            moved[1][place(i)] = residual[i];
                        }
                        let elementwise = Elementwise { gate: Some(&moved[0]), residual: Some(&moved[1]) };
                        let output = Output::new(&mut out[..], Epilogue::Dequantize { scale, addend, elementwise });
                        bound.run(&call, output, pool).unwrap();
                        let same = (0..m * n).all(|i| out[place(i)].to_bits() == finished(i, true, true).to_bits());
                        assert!(same, "{heads:?} {kernel:?} {residency:?} {content:?} m={m} n={n} k={k} {t:?}");
                    }
                    check_bytes(bound, &call, &expected);
                    check_floats(bound, &w, MatmulCall { heads: None, ..call }, &x);
                }
            }
        }
    }
}

/// Requantised outputs of these sums against the definition.
fn check_bytes(prepared: Bound<'_, PreparedWeight>, call: &MatmulCall<'_>, sums: &[i32]) {
    let n = prepared.n();
    // So that many results lie on either side of the limits, and a few columns give NaN.
    let spread = sums.iter().map(|sum| sum.unsigned_abs()).max().unwrap_or(1).max(1) as f32;
    let scales: Vec<f32> =
        (0..n).map(|j| if j % 7 == 6 { f32::NAN } else { (100 + j % 300) as f32 / spread }).collect();
    for (scale, zero_point) in
        [(ScalarOrPerColumn::PerColumn(&scales), 3), (ScalarOrPerColumn::Scalar(190.5 / spread), 120)]
    {
        let expected = |i: usize, lowest: i32| {
            let scale = match scale {
                ScalarOrPerColumn::Scalar(scale) => scale,
                ScalarOrPerColumn::PerColumn(scales) => scales[i % n],
            };
            let value = (sums[i] as f32 * scale).max((lowest - zero_point) as f32);
            value.min((lowest + 255 - zero_point) as f32).round_ties_even() as i32 + zero_point
        };
        for pool in [&Serial as &dyn Parallel, &Scoped(3)] {
            let mut out = vec![77u8; sums.len()];
            let output = Output::new(&mut out[..], Epilogue::Requantize { scale, zero_point });
            prepared.run(call, output, pool).unwrap();
            let same = (0..out.len()).all(|i| i32::from(out[i]) == expected(i, 0));
            assert!(same, "uint8 {:?} m={} n={n}", prepared.kernel(), call.m);
            let mut out = vec![77i8; sums.len()];
            let output = Output::new(&mut out[..], Epilogue::Requantize { scale, zero_point });
            prepared.run(call, output, pool).unwrap();
            let same = (0..out.len()).all(|i| i32::from(out[i]) == expected(i, -128));
            assert!(same, "int8 {:?} m={} n={n}", prepared.kernel(), call.m);
        }
    }
}

/// Floats, and their bytes with a scale, against the definition.
fn check_floats(prepared: Bound<'_, PreparedWeight>, w: &[u8], call: MatmulCall<'_>, x: &[u8]) {
    let (n, k) = (prepared.n(), prepared.k());
    let floats: Vec<f32> = x.iter().map(|&x| (f32::from(x) - 91.3) * 0.37).collect();
    let quantizer = Quantizer::from(Range::of(&floats));
    let mut bytes = vec![MaybeUninit::uninit(); x.len()];
    let bytes = quantizer.quantize(&floats, &mut bytes);
    let (x_zero_point, x_scale) = (i32::from(quantizer.zero_point), Some(quantizer.scale));
    let quantised = MatmulCall { x: Activation::U8(bytes), x_zero_point, x_scale, ..call };
    let scales: Vec<f32> = (0..n).map(|j| 0.37 / (j + 3) as f32).collect();
    let sums = reference(w, prepared.weight_type(), n, k, &quantised);
    let expected = |i: usize| sums[i] as f32 * (quantizer.scale * scales[i % n]);
    for call in [quantised, MatmulCall { x: Activation::F32(&floats, None), ..call }] {
        for pool in [&Serial as &dyn Parallel, &Scoped(3)] {
            let mut out = vec![0f32; call.m * n];
            let scale = ScalarOrPerColumn::PerColumn(&scales);
            let output = Output::new(
                &mut out[..],
                Epilogue::Dequantize { scale, addend: None, elementwise: Elementwise::default() },
            );
            prepared.run(&call, output, pool).unwrap();
            let same = (0..out.len()).all(|i| out[i].to_bits() == expected(i).to_bits());
            assert!(same, "floats {:?} m={} n={n} k={k}", prepared.kernel(), call.m);
        }
    }
}

#[test]
fn the_expected_kernels_run() {
    let names: Vec<String> = Kernel::available().iter().map(|k| format!("{k:?}")).collect();
    println!("kernels: {names:?}");
    assert_eq!(names.last().unwrap(), "portable-u8i8i32-scalar");
    assert!(matches!(Kernel::by_name("sse9"), Err(Error::Kernel(_))));
}

/// A weight of six columns, k = 10, and its stream.
fn ones() -> (Vec<u8>, PreparedWeight) {
    let view = WeightView::new(&[1; 60], (6, 10), (10, 1), WeightType::I8).unwrap();
    let encoded = encode(&view, Profile::Balanced, Tiling::default()).unwrap();
    let options = PrepareOptions { residency: Residency::Compressed, kernel: Kernel::available()[0], threads: 1 };
    let prepared =
        PreparedWeight::new(&encoded.x2, &encoded.compress_index, &encoded.compress_info, options).unwrap();
    (encoded.x2, prepared)
}

/// Four rows for it.
const FOUR_ROWS: MatmulCall<'_> = MatmulCall {
    x: Activation::U8(&[1; 40]),
    m: 4,
    x_zero_point: 0,
    x_scale: None,
    w_zero_point: ZeroPoint::None,
    bias: None,
    heads: None,
};

#[test]
fn heads_that_do_not_fit_are_refused() {
    let (x2, prepared) = ones();
    for (rows, columns, fits) in
        [(4, 3, true), (2, 6, true), (3, 3, false), (4, 4, false), (0, 3, false), (4, 0, false)]
    {
        let call = MatmulCall { heads: Some(Heads { rows, columns }), ..FOUR_ROWS };
        let result =
            prepared.bind(&x2).unwrap().run(&call, Output::new(&mut [0i32; 24][..], Epilogue::Sums), &Serial);
        assert_eq!(result.is_ok(), fits, "{rows} {columns}");
    }
}

#[test]
fn activations_whose_heads_do_not_fit_are_refused() {
    let (x2, prepared) = ones();
    for (heads, rows, columns, fits) in
        [(2, 4, 5, true), (1, 2, 10, true), (3, 4, 5, false), (0, 4, 5, false), (usize::MAX, 2, 5, false)]
    {
        let split = SplitHeads { heads, rows, columns };
        let call = MatmulCall { x: Activation::F32(&[1.0; 40], Some(split)), ..FOUR_ROWS };
        let result =
            prepared.bind(&x2).unwrap().run(&call, Output::new(&mut [0i32; 24][..], Epilogue::Sums), &Serial);
        assert_eq!(result.is_ok(), fits, "{split:?}");
    }
}

#[test]
fn a_destination_of_another_type_is_refused() {
    let (x2, prepared) = ones();
    let bound = prepared.bind(&x2).unwrap();
    let scale = ScalarOrPerColumn::Scalar(1.0);
    let plain = Epilogue::Dequantize { scale, addend: None, elementwise: Elementwise::default() };
    let gated = Elementwise { gate: Some(&[1.0; 24]), residual: None };
    let gated = Epilogue::Dequantize { scale, addend: None, elementwise: gated };
    let requantized = Epilogue::Requantize { scale, zero_point: 0 };
    let epilogues = [Epilogue::Sums, plain, gated, requantized];
    // What each type can hold.
    type Of = fn(&mut Memory) -> Destination<'_>;
    let table: [(Of, [bool; 4]); 5] = [
        (|memory| (&mut memory.0[..]).into(), [true, false, false, false]),
        (|memory| (&mut memory.1[..]).into(), [false, true, true, false]),
        (|memory| (&mut memory.2[..]).into(), [false, true, false, false]),
        (|memory| (&mut memory.3[..]).into(), [false, false, false, true]),
        (|memory| (&mut memory.4[..]).into(), [false, false, false, true]),
    ];
    for (destination, fits) in table {
        for (epilogue, fits) in epilogues.into_iter().zip(fits) {
            let mut memory = Memory::default();
            let output = Output::new(destination(&mut memory), epilogue);
            let text = format!("{output:?}");
            match bound.run(&FOUR_ROWS, output, &Serial) {
                Ok(()) => assert!(fits, "{text}"),
                Err(error) => {
                    assert!(!fits && matches!(error, Error::Output { .. }), "{text}: {error}");
                    assert!(error.to_string().starts_with("an output of "));
                }
            }
        }
    }
}

/// Outputs of every type.
#[derive(Default)]
struct Memory([i32; 24], [f32; 24], [u16; 24], [u8; 24], [i8; 24]);

#[test]
fn gates_and_residuals_of_another_size_are_refused() {
    let (x2, prepared) = ones();
    let values = [1.0; 25];
    for (gate, residual, wrong) in [
        (Some(24), Some(24), ""),
        (Some(23), None, "gate"),
        (None, Some(25), "residual"),
        (None, Some(0), "residual"),
    ] {
        let elementwise =
            Elementwise { gate: gate.map(|len| &values[..len]), residual: residual.map(|len| &values[..len]) };
        let mut out = [0f32; 24];
        let scale = ScalarOrPerColumn::Scalar(1.0);
        let output = Output::new(&mut out[..], Epilogue::Dequantize { scale, addend: None, elementwise });
        let found = match prepared.bind(&x2).unwrap().run(&FOUR_ROWS, output, &Serial) {
            Ok(()) => "",
            Err(Error::Argument { what, .. }) => what,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(found, wrong);
    }
}

#[test]
fn shapes_around_every_edge() {
    let edges = |unit: usize| [unit - 1, unit, unit + 1];
    let mut shapes = vec![(1, 1), (1, 4), (2, 3), (16, 4), (5, 700), (300, 5)];
    for n in edges(16).into_iter().chain(edges(64)).chain(edges(128)) {
        for k in edges(32).into_iter().chain(edges(256)) {
            shapes.push((n, k));
        }
    }
    for (n, k) in shapes {
        check(Content::Bell(20), n, k, &[1, 2, 13], Profile::Balanced, Tiling::default());
    }
}

#[test]
fn rows_around_every_edge() {
    let ms: Vec<usize> = (0..=26).collect();
    check(Content::Bell(15), 80, 96, &ms, Profile::Balanced, Tiling::default());
    // Registers of 16 rows, up to four of them and more, with an even and with an odd number of fractals.
    for k in [96, 320] {
        check(Content::Bell(15), 80, k, &[31, 32, 33, 47, 48, 49, 63, 64, 65, 97], Profile::Small, Tiling::default());
    }
    // Several groups of rows.
    check(Content::Bell(15), 80, 96, &[70, 130], Profile::Fast, Tiling::default());
    // Strips so wide that they are decoded in two chunks, with one group of rows and with several.
    check(Content::Bell(15), 1000, 600, &[13, 25, 70], Profile::Balanced, Tiling { k: 1, n: 127 });
    // So many activations that threads pack them together.
    check(Content::Bell(15), 40, 600, &[230], Profile::Fast, Tiling::default());
    // Heads as wide as blocks, with several in a strip; more rows than stay in the second cache.
    check(Content::Bell(15), 384, 100, &[5, 48, 50, 200], Profile::Balanced, Tiling::default());
    check(Content::Bell(15), 280, 600, &[1, 6, 12, 13, 61], Profile::Small, Tiling { k: 5, n: 3 });
}

#[test]
fn every_content_in_every_profile() {
    for content in [
        Content::Bell(1),
        Content::Bell(60),
        Content::Noise,
        Content::Constant,
        Content::ExtremeRows,
        Content::TwoValues,
    ] {
        for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
            check(content, 150, 300, &[1, 3, 20, 33], profile, Tiling::default());
        }
    }
}
