//! Convolutions of every kernel against a plain loop.

use mcd_core::parallel::Scoped;
use mcd_core::{
    ConvCall, Elementwise, Epilogue, Error, Image, Kernel, Operands, Order, Output, Padding, Parallel,
    PrepareOptions, PreparedWeight, Profile, Residency, ScalarOrPerColumn, Serial, Tiling, WeightType, WeightView,
    Window, ZeroPoint, encode,
};

/// A convolution: sizes and how the kernel goes over an image.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    channels: usize,
    groups: usize,
    n: usize,
    image: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: (Vec<usize>, Vec<usize>),
}

impl Case {
    fn new(batch: usize, (channels, n): (usize, usize), image: &[usize], kernel: &[usize]) -> Self {
        let rank = kernel.len();
        let same: Vec<usize> = kernel.iter().map(|size| size / 2).collect();
        Self {
            batch,
            channels,
            groups: 1,
            n,
            image: image.into(),
            kernel: kernel.into(),
            strides: vec![1; rank],
            dilations: vec![1; rank],
            pads: (same.clone(), same),
        }
    }

    fn window(&self) -> Window {
        let padding = Padding::Explicit(&self.pads.0, &self.pads.1);
        Window::new(&self.image, &self.kernel, &self.strides, &self.dilations, padding).unwrap()
    }

    fn k(&self) -> usize {
        self.channels / self.groups * self.kernel.iter().product::<usize>()
    }
}

/// Bytes that look like noise.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// All indices of some dimensions, the last the fastest.
fn indices(dims: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..dims.iter().product::<usize>()).map(|mut at| {
        let mut index = vec![0; dims.len()];
        for (i, dim) in dims.iter().enumerate().rev() {
            (index[i], at) = (at % dim, at / dim);
        }
        index
    })
}

/// What the definition says: `Σ (x − x₀)(w − w₀) + bias`, where a pixel beside the image is x₀.
fn reference(case: &Case, x: &[i32], w: &[i32], zeros: (i32, &[i32]), bias: &[i32]) -> Vec<i32> {
    let window = case.window();
    let rank = case.image.len();
    let (pixels, taps) = (case.image.iter().product::<usize>(), case.kernel.iter().product::<usize>());
    let mut out = Vec::new();
    for b in 0..case.batch {
        for j in 0..case.n {
            for position in indices(window.output(rank)) {
                let mut sum = bias[j];
                for (tap, offset) in indices(&case.kernel).enumerate() {
                    let at: Option<usize> = (0..rank).try_fold(0, |at, d| {
                        let here = (position[d] * case.strides[d] + offset[d] * case.dilations[d])
                            .checked_sub(case.pads.0[d])?;
                        (here < case.image[d]).then_some(at * case.image[d] + here)
                    });
                    let Some(at) = at else { continue };
                    let channels = case.channels / case.groups;
                    for c in 0..channels {
                        let of = j / (case.n / case.groups) * channels + c;
                        let x = x[(b * case.channels + of) * pixels + at] - zeros.0;
                        // The channels of a tap beside each other.
                        sum = sum.wrapping_add(x * (w[(j * taps + tap) * channels + c] - zeros.1[j]));
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

fn cases() -> Vec<Case> {
    let of = Case::new;
    vec![
        of(1, (64, 64), &[13, 11], &[3, 3]),
        of(2, (3, 17), &[9, 8], &[3, 5]),
        Case { strides: vec![2, 3], ..of(1, (33, 130), &[17, 16], &[3, 3]) },
        Case { dilations: vec![2, 3], pads: (vec![2, 0], vec![1, 4]), ..of(1, (16, 16), &[12, 14], &[3, 3]) },
        Case { pads: (vec![7, 7], vec![9, 9]), ..of(1, (5, 20), &[3, 4], &[2, 3]) },
        of(3, (48, 40), &[37], &[7]),
        Case { strides: vec![2], dilations: vec![3], ..of(1, (31, 16), &[100], &[4]) },
        Case { strides: vec![1, 2, 2], ..of(1, (9, 33), &[5, 6, 7], &[3, 2, 3]) },
        of(1, (32, 32), &[1, 1], &[1, 1]),
        Case { groups: 4, ..of(2, (12, 64), &[9, 8], &[3, 3]) },
        Case { groups: 2, ..of(1, (66, 96), &[50], &[9]) },
        // Several strips of positions.
        of(1, (4, 5), &[70, 40], &[3, 3]),
        of(1, (600, 24), &[40, 9], &[3, 3]),
        // Channels that stay first with some kernels: as images have them, or with pixels beside them, one weight by itself.
        of(2, (40, 23), &[6, 100], &[1, 1]),
        of(1, (3, 7), &[21, 70], &[3, 3]),
        Case { strides: vec![2, 2], ..of(2, (8, 14), &[30, 97], &[3, 3]) },
        Case { strides: vec![2, 3], pads: (vec![0, 0], vec![0, 0]), ..of(1, (20, 6), &[9, 50], &[1, 1]) },
        Case { groups: 2, ..of(2, (10, 64), &[300], &[5]) },
        Case { dilations: vec![1, 2, 2], ..of(1, (5, 19), &[4, 5, 60], &[2, 3, 3]) },
        of(1, (7, 1), &[1300], &[3]),
    ]
}

/// Cases whose groups have output channels that are no whole panels.
fn cases_of_narrow_groups() -> Vec<Case> {
    let of = Case::new;
    let groups = |groups: usize, case: Case| Case { groups, ..case };
    vec![
        groups(40, of(2, (40, 40), &[13, 11], &[3, 3])),
        // Several outputs for each channel, several channels for each output, and more groups than a panel has columns.
        groups(20, of(1, (20, 60), &[6, 40], &[5, 5])),
        groups(5, of(1, (15, 20), &[9, 8], &[3, 4])),
        groups(2, of(2, (6, 40), &[7, 30], &[3, 1])),
        groups(70, Case { strides: vec![2, 1], ..of(1, (70, 70), &[12, 33], &[5, 5]) }),
        groups(9, Case { strides: vec![2, 3], dilations: vec![3, 2], ..of(1, (9, 9), &[17, 16], &[3, 3]) }),
        groups(4, Case { strides: vec![4, 4], pads: (vec![0, 0], vec![0, 0]), ..of(2, (4, 12), &[11, 15], &[2, 2]) }),
        groups(33, Case { pads: (vec![7, 7], vec![9, 9]), ..of(1, (33, 33), &[3, 4], &[2, 3]) }),
        groups(17, of(3, (17, 17), &[37], &[7])),
        groups(3, Case { dilations: vec![70], pads: (vec![200], vec![200]), ..of(1, (3, 6), &[9], &[5]) }),
        groups(3, Case { strides: vec![40], pads: (vec![3], vec![0]), ..of(1, (3, 6), &[90], &[5]) }),
        groups(6, Case { strides: vec![1, 2, 2], ..of(1, (12, 18), &[5, 6, 7], &[3, 2, 3]) }),
        groups(4, of(1, (4, 4), &[1, 1], &[1, 1])),
        groups(8, of(1, (160, 8), &[40, 30], &[3, 3])),
    ]
}

/// The tiling of a weight whose groups have so many columns: each has whole strips.
fn tiling(columns: usize) -> Tiling {
    let panels = columns / 16;
    Tiling { k: 8, n: (1..=8).rev().find(|&n: &usize| panels.is_multiple_of(n)).unwrap_or(1) }
}

fn packed(
    w: &[u8],
    (n, k): (usize, usize),
    of: WeightType,
    kernel: Kernel,
    residency: Residency,
    tiling: Tiling,
) -> (PreparedWeight, Vec<u8>) {
    let view = WeightView::new(w, (n, k), (k, 1), of).unwrap();
    let encoded = encode(&view, Profile::Balanced, tiling).unwrap();
    let options = PrepareOptions { residency, kernel, threads: 1 };
    (PreparedWeight::new(&encoded.x2, &encoded.compress_index, &encoded.compress_info, options).unwrap(), encoded.x2)
}

/// (batch, channels, pixels) with the channels last.
fn turned<T: Copy>(values: &[T], channels: usize, pixels: usize) -> Vec<T> {
    let image =
        |image: &[T]| (0..image.len()).map(|at| image[at % channels * pixels + at / channels]).collect::<Vec<_>>();
    values.chunks_exact((channels * pixels).max(1)).flat_map(image).collect()
}

#[test]
fn every_kernel_computes_the_definition() {
    for (number, case) in cases().into_iter().chain(cases_of_narrow_groups()).enumerate() {
        let (k, n, window) = (case.k(), case.n, case.window());
        let narrow = case.groups > 1 && !(n / case.groups).is_multiple_of(16);
        let x = bytes(case.batch * case.channels * window.pixels(), number as u64);
        let w: Vec<u8> = bytes(n * k, 99 + number as u64).iter().map(|byte| byte & 63).collect();
        let signed = number % 2 == 1;
        let x32: Vec<i32> = x.iter().map(|&x| if signed { (x as i8).into() } else { x.into() }).collect();
        let last = turned(&x, case.channels, window.pixels());
        let signs = |x: &[u8]| x.iter().map(|&x| x as i8).collect::<Vec<i8>>();
        let (xi, lasti) = (signs(&x), signs(&last));
        let images = match signed {
            true => [(Order::ChannelsFirst, Image::I8(&xi)), (Order::ChannelsLast, Image::I8(&lasti))],
            false => [(Order::ChannelsFirst, Image::U8(&x)), (Order::ChannelsLast, Image::U8(&last))],
        };
        let w32: Vec<i32> = w.iter().map(|&w| w.into()).collect();
        let x_zero_point = if signed { -7 } else { 131 };
        let zeros: Vec<i32> = (0..n as i32).map(|j| j % 5).collect();
        let bias: Vec<i32> = (0..n as i32).map(|j| j * 1000 - 7).collect();
        let scales: Vec<f32> = (1..=n).map(|j| 0.02 / j as f32).collect();
        let expected = reference(&case, &x32, &w32, (x_zero_point, &zeros), &bias);
        let expected_last = turned(&expected, n, window.positions());
        for kernel in Kernel::available() {
            for residency in [Residency::Compressed, Residency::Decoded] {
                let (weight, x2) = packed(
                    &w,
                    (n, k),
                    WeightType::U8,
                    kernel,
                    residency,
                    if case.groups == 1 || narrow { Tiling::default() } else { tiling(n / case.groups) },
                );
                let weight = weight.bind(&x2).unwrap();
                for (order, x) in images.into_iter().take(if narrow { 1 } else { 2 }) {
                    let operands = Operands {
                        x_zero_point,
                        x_scale: None,
                        w_zero_point: ZeroPoint::PerColumn(&zeros),
                        bias: Some(&bias),
                    };
                    let Case { batch, channels, groups, .. } = case;
                    let call = ConvCall { x, order, batch, channels, groups, window, operands };
                    let expected = match order {
                        Order::ChannelsFirst => &expected,
                        Order::ChannelsLast => &expected_last,
                    };
                    for pool in [&Serial as &dyn Parallel, &Scoped(3)] {
                        let what = format!("{case:?} {kernel:?} {residency:?} {order:?}");
                        let mut sums = vec![0_i32; expected.len()];
                        weight.convolve(&call, Output::new(&mut sums[..], Epilogue::Sums), pool).unwrap();
                        assert!(sums == *expected, "{what}");
                        let column = |at: usize| match order {
                            Order::ChannelsFirst => at / window.positions() % n,
                            Order::ChannelsLast => at % n,
                        };
                        let scale = ScalarOrPerColumn::PerColumn(&scales);
                        for addend in
                            [None, Some(ScalarOrPerColumn::PerColumn(&scales)), Some(ScalarOrPerColumn::Scalar(0.7))]
                        {
                            let mut floats = vec![0_f32; expected.len()];
                            let epilogue =
                                Epilogue::Dequantize { scale, addend, elementwise: Elementwise::default() };
                            weight.convolve(&call, Output::new(&mut floats[..], epilogue), pool).unwrap();
                            let dequantized = |(at, &sum): (usize, &i32)| {
                                let scaled = sum as f32 * scales[column(at)];
                                match addend {
                                    None => scaled,
                                    Some(ScalarOrPerColumn::Scalar(addend)) => scaled + addend,
                                    Some(ScalarOrPerColumn::PerColumn(addends)) => scaled + addends[column(at)],
                                }
                            };
                            assert!(
                                floats == expected.iter().enumerate().map(dequantized).collect::<Vec<_>>(),
                                "{what}"
                            );
                        }
                        let mut bytes = vec![0_u8; expected.len()];
                        let epilogue = Epilogue::Requantize { scale, zero_point: 3 };
                        weight.convolve(&call, Output::new(&mut bytes[..], epilogue), pool).unwrap();
                        let requantized = |(at, &sum): (usize, &i32)| {
                            let scaled = sum as f32 * scales[column(at)];
                            (scaled.clamp(-3.0, 252.0).round_ties_even() as i32 + 3) as u8
                        };
                        assert!(bytes == expected.iter().enumerate().map(requantized).collect::<Vec<_>>(), "{what}");
                    }
                }
            }
        }
    }
}

/// Cases whose patches are multiplied where they lie, in pieces of 16 channels, and such whose are not.
fn cases_in_pieces() -> Vec<Case> {
    let of = Case::new;
    vec![
        of(1, (32, 40), &[13, 11], &[3, 3]),
        // Half a fractal is left over, and some kernels have more of it in padding.
        of(2, (48, 33), &[9, 8], &[3, 5]),
        of(1, (240, 64), &[5, 7], &[1, 1]),
        of(1, (16, 17), &[6, 6], &[1, 1]),
        of(2, (36, 40), &[6, 7], &[1, 1]),
        Case { strides: vec![2, 2], ..of(1, (32, 16), &[9, 8], &[1, 1]) },
        Case { strides: vec![2, 3], ..of(2, (16, 48), &[17, 16], &[3, 3]) },
        Case { dilations: vec![2, 3], pads: (vec![2, 0], vec![1, 4]), ..of(1, (64, 16), &[12, 14], &[3, 3]) },
        // The kernel does not see the end of the image.
        Case { strides: vec![4, 4], pads: (vec![0, 0], vec![0, 0]), ..of(2, (32, 16), &[11, 15], &[2, 2]) },
        of(3, (32, 40), &[37], &[7]),
        Case { dilations: vec![3], pads: (vec![9], vec![9]), ..of(1, (64, 64), &[100], &[7]) },
        // More padding than image: it is not copied with that.
        Case { dilations: vec![700], pads: (vec![2000], vec![2000]), ..of(1, (32, 16), &[9], &[5]) },
        Case { strides: vec![1, 2, 2], ..of(1, (16, 33), &[5, 6, 7], &[3, 2, 3]) },
        Case { groups: 2, ..of(2, (64, 96), &[7, 9], &[3, 3]) },
        Case { groups: 2, ..of(1, (24, 32), &[50], &[4]) },
        // Several strips of positions, and channels that are not pieces.
        of(1, (16, 5), &[70, 40], &[3, 3]),
        of(1, (60, 24), &[40, 9], &[1, 3]),
    ]
}

#[test]
fn uint8_images_are_multiplied_where_they_lie() {
    let portable = Kernel::by_name("scalar").unwrap();
    let saturating = || Kernel::available().into_iter().filter_map(Kernel::saturating);
    let ways = [(portable, Kernel::available()), (portable.saturating().unwrap(), saturating().collect())];
    for (number, case) in cases_in_pieces().into_iter().enumerate() {
        let (k, n, window) = (case.k(), case.n, case.window());
        let x = bytes(case.batch * case.channels * window.pixels(), number as u64);
        let last = turned(&x, case.channels, window.pixels());
        let bias: Vec<i32> = (0..n as i32).map(|j| j * 1000 - 7).collect();
        let scales: Vec<f32> = (1..=n).map(|j| 0.004 / j as f32).collect();
        // Of all of int8, so that pairs saturate; some of them, with a zero point; and such of which several are added in 16 bits.
        for width in [255, 80, 12] {
            let small = |byte: &u8| (i32::from(*byte) % (width + 1) - width / 2) as i8 as u8;
            let w: Vec<u8> = bytes(n * k, 7 + number as u64).iter().map(small).collect();
            let tiling = if case.groups == 1 { Tiling::default() } else { tiling(n / case.groups) };
            let results = |kernel: Kernel, residency, (order, x): (Order, &[u8]), pool: &dyn Parallel| {
                let (weight, x2) = packed(&w, (n, k), WeightType::I8, kernel, residency, tiling);
                let w_zero_point = if width == 80 { ZeroPoint::Scalar(3) } else { ZeroPoint::None };
                let operands = Operands { x_zero_point: 131, w_zero_point, bias: Some(&bias), ..Operands::default() };
                let Case { batch, channels, groups, .. } = case;
                let call = ConvCall { x: Image::U8(x), order, batch, channels, groups, window, operands };
                let weight = weight.bind(&x2).unwrap();
                let len = case.batch * n * window.positions();
                let (mut sums, mut unsigned, mut signed) = (vec![0_i32; len], vec![0_u8; len], vec![0_i8; len]);
                weight.convolve(&call, Output::new(&mut sums[..], Epilogue::Sums), pool).unwrap();
                let scale = ScalarOrPerColumn::PerColumn(&scales);
                let epilogue = |zero_point| Epilogue::Requantize { scale, zero_point };
                weight.convolve(&call, Output::new(&mut unsigned[..], epilogue(251)), pool).unwrap();
                weight.convolve(&call, Output::new(&mut signed[..], epilogue(-99)), pool).unwrap();
                (sums, unsigned, signed)
            };
            for (order, x) in [(Order::ChannelsFirst, &x[..]), (Order::ChannelsLast, &last[..])] {
                for (portable, kernels) in &ways {
                    let expected = results(*portable, Residency::Compressed, (order, x), &Serial);
                    let residencies = [Residency::Compressed, Residency::Decoded];
                    let ways = kernels.iter().flat_map(|kernel| residencies.map(|residency| (*kernel, residency)));
                    for (kernel, residency) in ways {
                        for pool in [&Serial as &dyn Parallel, &Scoped(3)] {
                            let found = results(kernel, residency, (order, x), pool);
                            assert!(found == expected, "{case:?} {width} {kernel:?} {residency:?} {order:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn narrow_groups_take_neither_channels_last_nor_products_that_saturate() {
    let case = Case { groups: 8, ..Case::new(1, (8, 16), &[5, 5], &[3, 3]) };
    let x = bytes(200, 2);
    for (kernel, order, accepted) in [
        (Kernel::best(), Order::ChannelsFirst, true),
        (Kernel::best(), Order::ChannelsLast, false),
        (Kernel::by_name("scalar").unwrap().saturating().unwrap(), Order::ChannelsFirst, false),
    ] {
        let (weight, x2) =
            packed(&bytes(16 * 9, 1), (16, 9), WeightType::I8, kernel, Residency::Compressed, Tiling::default());
        let (x, window, operands) = (Image::U8(&x), case.window(), Operands::default());
        let call = ConvCall { x, order, batch: 1, channels: 8, groups: 8, window, operands };
        let mut sums = vec![0_i32; 400];
        let result = weight.bind(&x2).unwrap().convolve(&call, Output::new(&mut sums[..], Epilogue::Sums), &Serial);
        match result {
            Ok(()) => assert!(accepted),
            Err(error) => assert!(!accepted && matches!(error, Error::Convolution(_)), "{error:?}"),
        }
    }
}

#[test]
fn narrow_groups_do_not_take_memory_for_what_is_far_beside_an_image() {
    let far = 1 << 30;
    let case =
        Case { groups: 8, dilations: vec![far], pads: (vec![far], vec![far]), ..Case::new(1, (8, 16), &[25], &[3]) };
    let (weight, x2) =
        packed(&bytes(16 * 3, 1), (16, 3), WeightType::I8, Kernel::best(), Residency::Compressed, Tiling::default());
    let (x, window, operands) = (bytes(200, 2), case.window(), Operands::default());
    let call = ConvCall {
        x: Image::U8(&x),
        order: Order::ChannelsFirst,
        batch: 1,
        channels: 8,
        groups: 8,
        window,
        operands,
    };
    let mut sums = vec![0_i32; 16 * window.positions()];
    let result = weight.bind(&x2).unwrap().convolve(&call, Output::new(&mut sums[..], Epilogue::Sums), &Serial);
    assert!(matches!(result, Err(Error::Convolution(_))), "{result:?}");
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let case = Case::new(1, (8, 16), &[5, 5], &[3, 3]);
    let (weight, x2) = packed(
        &bytes(16 * 72, 1),
        (16, 72),
        WeightType::I8,
        Kernel::best(),
        Residency::Compressed,
        Tiling::default(),
    );
    let weight = weight.bind(&x2).unwrap();
    let x = bytes(200, 2);
    let call = ConvCall {
        x: Image::U8(&x),
        order: Order::ChannelsFirst,
        batch: 1,
        channels: 8,
        groups: 1,
        window: case.window(),
        operands: Operands::default(),
    };
    let mut sums = vec![0_i32; 400];
    let mut refused = |call: ConvCall<'_>, len: usize| {
        let result = weight.convolve(&call, Output::new(&mut sums[..len], Epilogue::Sums), &Serial);
        match result {
            Err(Error::Argument { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(ConvCall { x: Image::U8(&x[1..]), ..call }, 400), "x1");
    assert_eq!(refused(ConvCall { batch: usize::MAX, ..call }, 400), "x1");
    assert_eq!(refused(ConvCall { channels: 4, batch: 2, ..call }, 400), "the kernel");
    assert!(matches!(
        weight.convolve(&ConvCall { groups: 3, ..call }, Output::new(&mut [0_i32; 400][..], Epilogue::Sums), &Serial),
        Err(Error::Convolution(_))
    ));
    assert_eq!(refused(call, 399), "the output");
    assert_eq!(refused(ConvCall { operands: Operands { bias: Some(&[1]), ..call.operands }, ..call }, 400), "bias");
}
