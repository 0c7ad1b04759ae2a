//! Every kernel against the sum as written in the operator's definition, on shapes that straddle every block size.

use mcd_core::parallel::Scoped;
use mcd_core::quantize::{Quantizer, Range};
use mcd_core::{
    Activation, Destination, Elementwise, Epilogue, Error, Heads, Kernel, MatmulCall, Operands, Output, Parallel,
    PrepareOptions, PreparedWeight, Profile, Residency, ScalarOrPerColumn, Serial, SplitHeads, Tiling, WeightType,
    WeightView, ZeroPoint, encode, encode_packed, unpack,
};
use mcd_testkit::Rng;
use mcd_testkit::content::Content;
use mcd_testkit::forge::Forged;
use mcd_testkit::product::{Pairs, expected, sums_of};
use mcd_testkit::ways::{Element, Wanted, run, ways};
use std::mem::MaybeUninit;

/// Every kernel and residency, with these numbers of rows.
fn check(content: Content, n: usize, k: usize, ms: &[usize], profile: Profile, tiling: Tiling) {
    let mut rng = Rng::new((n * 1000 + k) as u64);
    let w = content.weight(n, k, &mut rng);
    // Around the middle of their range, as quantisers have them.
    let unsigned: Vec<u8> = w.iter().map(|w| w ^ 0x80).collect();
    for (weight_type, packed) in [(WeightType::I8, false), (WeightType::U8, false), (WeightType::I8, true)] {
        let w = if weight_type == WeightType::U8 { &unsigned } else { &w };
        let view = WeightView::new(w, (n, k), (k, 1), weight_type).unwrap();
        let encoded = if packed { encode_packed(&view, profile, tiling) } else { encode(&view, profile, tiling) };
        let encoded = Forged::from(encoded.unwrap());
        let parsed = encoded.parse().unwrap();
        for kernel in Kernel::available() {
            let unpacked = unpack(parsed.clone(), &encoded.x2, kernel, &Serial).unwrap();
            assert!(unpacked == *w, "round trip {kernel:?} {content:?} {n}×{k}");
        }
        for options in ways() {
            let prepared = &PreparedWeight::new(&encoded.x2, &encoded.index, &encoded.info, options).unwrap();
            let about = format!("{options:?} {content:?} n={n} k={k} {weight_type:?}");
            let subject = Subject { prepared, x2: &encoded.x2, w, about };
            for &m in ms {
                subject.check(&Arguments::new(m, n, k, &mut rng));
            }
        }
    }
}

/// What a weight is multiplied with; what is there of it changes with the number of rows.
struct Arguments {
    m: usize,
    x: Vec<u8>,
    signed: Vec<i8>,
    zeros: Vec<i32>,
    bias: Vec<i32>,
    scales: Vec<f32>,
    addends: Vec<f32>,
    gate: Vec<f32>,
    residual: Vec<f32>,
}

impl Arguments {
    fn new(m: usize, n: usize, k: usize, rng: &mut Rng) -> Self {
        let x: Vec<u8> = (0..m * k).map(|_| rng.byte()).collect();
        Self {
            m,
            signed: x.iter().map(|&v| v as i8).collect(),
            x,
            zeros: (0..n).map(|_| i32::from(rng.byte() as i8)).collect(),
            bias: (0..n).map(|_| rng.next() as i32).collect(),
            scales: (0..n).map(|j| 0.37 / (j + 3) as f32).collect(),
            addends: (0..n).map(|j| j as f32 - 4.3).collect(),
            gate: (0..m * n).map(|_| f32::from(rng.byte() as i8) * 0.013).collect(),
            residual: (0..m * n).map(|_| f32::from(rng.byte() as i8) * 7.3).collect(),
        }
    }

    fn call(&self) -> MatmulCall<'_> {
        let is_signed = self.m.is_multiple_of(2);
        MatmulCall {
            x: if is_signed { Activation::I8(&self.signed) } else { Activation::U8(&self.x) },
            m: self.m,
            operands: Operands {
                x_zero_point: if is_signed { -7 } else { 131 },
                x_scale: None,
                w_zero_point: match self.m % 5 {
                    0 => ZeroPoint::None,
                    1 => ZeroPoint::Scalar(5),
                    3 => ZeroPoint::Scalar(128),
                    _ => ZeroPoint::PerColumn(&self.zeros),
                },
                bias: (self.m % 4 < 2).then_some(&self.bias[..]),
            },
            heads: None,
        }
    }

    fn dequantized<'a>(&'a self, gate: Option<&'a [f32]>, residual: Option<&'a [f32]>) -> Wanted<'a> {
        let scale = if self.m % 7 < 4 {
            ScalarOrPerColumn::PerColumn(&self.scales)
        } else {
            ScalarOrPerColumn::Scalar(self.scales[0])
        };
        let addend = (self.m % 5 < 3).then_some(ScalarOrPerColumn::PerColumn(&self.addends));
        (Element::F32, Epilogue::Dequantize { scale, addend, elementwise: Elementwise { gate, residual } })
    }
}

/// A weight that is made ready in one way.
struct Subject<'a> {
    prepared: &'a PreparedWeight,
    x2: &'a [u8],
    w: &'a [u8],
    about: String,
}

impl Subject<'_> {
    fn check(&self, operands: &Arguments) {
        let n = self.prepared.n();
        let call = operands.call();
        let sums = self.sums(&call);
        self.hold(&call, (Element::I32, Epilogue::Sums), &expected(&sums, n, (Element::I32, Epilogue::Sums)));
        for (gated, added) in [(false, false), (true, false), (false, true), (true, true)] {
            let (gate, residual) = (gated.then_some(&operands.gate[..]), added.then_some(&operands.residual[..]));
            let wanted = operands.dequantized(gate, residual);
            self.hold(&call, wanted, &expected(&sums, n, wanted));
        }
        self.check_heads(operands, &sums);
        self.check_bytes(&call, &sums);
        self.check_floats(call, &operands.x);
    }

    /// The sums as the definition has them.
    fn sums(&self, call: &MatmulCall<'_>) -> Vec<i32> {
        let pairs = if self.prepared.kernel().saturates() { Pairs::Saturate } else { Pairs::AreExact };
        sums_of(pairs, self.w, self.prepared.weight_type(), (self.prepared.n(), self.prepared.k()), call)
    }

    /// The results have these bits, with one thread and with several.
    fn hold(&self, call: &MatmulCall<'_>, wanted: Wanted<'_>, expected: &[u32]) {
        for pool in [&Serial as &dyn Parallel, &Scoped(3)] {
            let found = run(self.prepared, self.x2, call, wanted, pool).unwrap();
            assert!(found == expected, "{} m={} {:?} {:?}", self.about, call.m, wanted.0, call.heads);
        }
    }

    /// Results in heads, of 64 columns if that divides n, and with a batch of 2 or 3 if that divides m.
    fn check_heads(&self, operands: &Arguments, sums: &[i32]) {
        let (m, n) = (operands.m, self.prepared.n());
        let divisor = |of: usize, wanted: &[usize]| wanted.iter().copied().find(|d| of.is_multiple_of(*d));
        let batch = divisor(m, &[2, 3]).unwrap_or(1);
        let heads = Heads { rows: (m / batch).max(1), columns: divisor(n, &[64, 16, 5, 3]).unwrap_or(n) };
        let place = |i: usize| {
            let (row, column) = (i / n, i % n);
            let (batch, head) = (row / heads.rows, column / heads.columns);
            ((batch * (n / heads.columns) + head) * heads.rows + row % heads.rows) * heads.columns
                + column % heads.columns
        };
        let moved = |values: &[f32]| {
            let mut moved = vec![0.0; m * n];
            (0..m * n).for_each(|i| moved[place(i)] = values[i]);
            moved
        };
        let (gate, residual) = (moved(&operands.gate), moved(&operands.residual));
        let in_rows = expected(sums, n, operands.dequantized(Some(&operands.gate), Some(&operands.residual)));
        let mut in_heads = vec![0; m * n];
        (0..m * n).for_each(|i| in_heads[place(i)] = in_rows[i]);
        let call = MatmulCall { heads: Some(heads), ..operands.call() };
        self.hold(&call, operands.dequantized(Some(&gate), Some(&residual)), &in_heads);
    }

    /// Requantised outputs.
    fn check_bytes(&self, call: &MatmulCall<'_>, sums: &[i32]) {
        let n = self.prepared.n();
        // So that many results lie on either side of the limits, and a few columns give NaN, or more than 32 bits hold.
        let spread = sums.iter().map(|sum| sum.unsigned_abs()).max().unwrap_or(1).max(1) as f32;
        let scale = |j: usize| match j % 14 {
            5 => f32::MAX,
            6 | 13 => f32::NAN,
            12 => f32::INFINITY,
            _ => (100 + j % 300) as f32 / spread,
        };
        let scales: Vec<f32> = (0..n).map(scale).collect();
        for (scale, zero_point) in
            [(ScalarOrPerColumn::PerColumn(&scales), 3), (ScalarOrPerColumn::Scalar(190.5 / spread), 120)]
        {
            for element in [Element::U8, Element::I8] {
                let wanted = (element, Epilogue::Requantize { scale, zero_point });
                self.hold(call, wanted, &expected(sums, n, wanted));
            }
        }
    }

    /// Floats, and their bytes with a scale.
    fn check_floats(&self, call: MatmulCall<'_>, x: &[u8]) {
        let n = self.prepared.n();
        let floats: Vec<f32> = x.iter().map(|&x| (f32::from(x) - 91.3) * 0.37).collect();
        let quantizer = Quantizer::from(Range::of(&floats));
        let mut bytes = vec![MaybeUninit::uninit(); x.len()];
        let bytes = quantizer.quantize(&floats, &mut bytes);
        let (x_zero_point, x_scale) = (i32::from(quantizer.zero_point), Some(quantizer.scale));
        let of_bytes = Operands { x_zero_point, x_scale, ..call.operands };
        let quantized = MatmulCall { x: Activation::U8(bytes), operands: of_bytes, ..call };
        let sums = self.sums(&quantized);
        let scales: Vec<f32> = (0..n).map(|j| 0.37 / (j + 3) as f32).collect();
        let products: Vec<f32> = scales.iter().map(|scale| quantizer.scale * scale).collect();
        let [wanted, whole] = [&scales, &products].map(|scales| {
            let scale = ScalarOrPerColumn::PerColumn(scales);
            (Element::F32, Epilogue::Dequantize { scale, addend: None, elementwise: Elementwise::default() })
        });
        let expected = expected(&sums, n, whole);
        for call in [quantized, MatmulCall { x: Activation::F32(&floats, None), ..call }] {
            self.hold(&call, wanted, &expected);
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
    operands: Operands { x_zero_point: 0, x_scale: None, w_zero_point: ZeroPoint::None, bias: None },
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
    // Rows that end with any group of four, which a kernel may multiply where they lie.
    for k in [4, 36, 56, 108] {
        check(Content::Bell(15), 80, k, &[1, 3, 13], Profile::Balanced, Tiling::default());
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

/// Products as `vpmaddubsw` has them, by every kernel that has such, against the definition: on weights and activations that
/// saturate and such of which several can be added in 16 bits, on shapes around the edges of groups, fractals, panels and tiles.
#[test]
fn products_that_saturate() {
    let mut rng = Rng::new(0x5a7);
    let shapes =
        [(1, 1), (5, 2), (16, 31), (17, 33), (33, 300), (130, 257), (96, 1000), (40, 64), (133, 96), (7, 1024)];
    for (content, (n, k)) in
        [Content::Noise, Content::Constant, Content::ExtremeRows, Content::Bell(60), Content::Bell(17)]
            .into_iter()
            .flat_map(|content| shapes.map(|shape| (content, shape)))
    {
        let w = content.weight(n, k, &mut rng);
        for weight_type in [WeightType::I8, WeightType::U8] {
            let view = WeightView::new(&w, (n, k), (k, 1), weight_type).unwrap();
            let encoded = Forged::from(encode(&view, Profile::Balanced, Tiling { k: 3, n: 2 }).unwrap());
            let saturating =
                ways().filter_map(|options| Some(PrepareOptions { kernel: options.kernel.saturating()?, ..options }));
            for options in saturating {
                let prepared = &PreparedWeight::new(&encoded.x2, &encoded.index, &encoded.info, options).unwrap();
                let about = format!("{options:?} {content:?} n={n} k={k} {weight_type:?}");
                let subject = Subject { prepared, x2: &encoded.x2, w: &w, about };
                for m in [1, 2, 3, 5, 13, 28] {
                    subject.check(&Arguments::new(m, n, k, &mut rng));
                }
            }
        }
    }
}
