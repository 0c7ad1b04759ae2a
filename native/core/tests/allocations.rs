//! Every allocation that a reader makes may fail: an error that says so, and never the end of the process.

use mcd_core::{
    Activation, CompressedWeight, ConvCall, EncodedWeight, Epilogue, Error, Image, Kernel, Layout, MatmulCall,
    Operands, Order, Output, Padding, Parallel, PrepareOptions, PreparedWeight, Profile, Residency,
    ScalarOrPerColumn, Serial, Tiling, VerifiedWeight, WeightType, WeightView, Window, ZeroPoint, encode,
    encode_packed, unpack,
};
use mcd_testkit::Rng;
use mcd_testkit::failing::{Counting, Failing, each_request_refused};
use std::mem::MaybeUninit;
use std::sync::Mutex;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Weights whose tiles are coded, raw and constant, with edges; the second leaves out what it can.
fn weights() -> Vec<(usize, usize, EncodedWeight)> {
    let mut all = Vec::new();
    for (n, k, width, profile) in [
        (200, 600, 40, Profile::Balanced),
        (1100, 40, 12, Profile::Small),
        (40, 9000, 100, Profile::Fast),
        (300, 300, 255, Profile::Fast),
    ] {
        let mut rng = Rng::new(n as u64);
        let mut bell = || (0..4).map(|_| rng.below(width) as i32).sum::<i32>() / 2 - width as i32;
        let w: Vec<u8> = (0..n * k).map(|i| if i < 64 * k && n < 300 { 9 } else { bell() as u8 }).collect();
        let view = WeightView::new(&w, (n, k), (k, 1), WeightType::I8).unwrap();
        all.push((n, k, encode(&view, profile, Tiling::default()).unwrap()));
        all.push((n, k, encode_packed(&view, profile, Tiling { k: 3, n: 2 }).unwrap()));
    }
    all
}

fn options(kernel: Kernel, residency: Residency, threads: usize) -> PrepareOptions {
    PrepareOptions { residency, kernel, threads }
}

const RESIDENCIES: [Residency; 2] = [Residency::Compressed, Residency::Decoded];

fn text(error: Error) -> String {
    error.to_string()
}

#[test]
fn loading() {
    for (n, k, weight) in weights() {
        let EncodedWeight { x2, compress_index: index, compress_info: info } = &weight;
        each_request_refused("parse", || CompressedWeight::parse(x2, index, info).map(drop).map_err(text));
        for kernel in Kernel::available() {
            for residency in RESIDENCIES {
                each_request_refused(&format!("prepare {n} x {k} {kernel:?} {residency:?}"), || {
                    PreparedWeight::new(x2, index, info, options(kernel, residency, 2)).map(drop).map_err(text)
                });
            }
            let decoded = PreparedWeight::new(x2, index, info, options(kernel, Residency::Decoded, 1)).unwrap();
            let of = |threads| decoded.is_of(x2, index, info, threads).map_err(text);
            each_request_refused("is_of", || of(1));
            each_request_refused("verify", || {
                VerifiedWeight::new(x2, index, info, kernel, 2).map(drop).map_err(text)
            });
        }
    }
}

#[test]
fn decoding() {
    for (n, k, weight) in weights() {
        let EncodedWeight { x2, compress_index: index, compress_info: info } = &weight;
        for kernel in Kernel::available() {
            let pools: [&dyn Parallel; 2] = [&Serial, &Counting(2)];
            for pool in pools {
                let what = format!("{n} x {k} {kernel:?}");
                let unpacked = || {
                    let parsed = CompressedWeight::parse(x2, index, info).map_err(text)?;
                    unpack(parsed, x2, kernel, pool).map_err(text)
                };
                each_request_refused(&format!("unpack {what}"), unpacked);
                let verified = VerifiedWeight::new(x2, index, info, kernel, 1).unwrap();
                let rows: Vec<usize> = (0..500).map(|i| i * 7 % n).collect();
                let mut places = vec![0; rows.len() * k];
                let places = Mutex::new(&mut places);
                each_request_refused(&format!("gather {what}"), || {
                    let sink = |part: mcd_core::RowPart<'_>| {
                        let mut places = places.lock().unwrap();
                        places[part.position * k + part.column..][..part.weights.len()].copy_from_slice(part.weights);
                    };
                    verified.bind(x2).unwrap().gather(&rows, pool, &sink).map_err(text)
                });
                let mut out = vec![MaybeUninit::new(0); n * k];
                let out = Mutex::new(&mut out);
                each_request_refused(&format!("decompress {what}"), || {
                    let mut out = out.lock().unwrap();
                    verified.bind(x2).unwrap().decompress(Layout::Kn, &mut out, pool).map_err(text)
                });
            }
        }
    }
}

#[test]
fn multiplying() {
    for (n, k, weight) in weights() {
        let EncodedWeight { x2, compress_index: index, compress_info: info } = &weight;
        let m_most = 70;
        let x: Vec<u8> = (0..m_most * k).map(|i| (i * 31 % 251) as u8).collect();
        let floats: Vec<f32> = x.iter().map(|&v| f32::from(v)).collect();
        let zeros: Vec<i32> = (0..n as i32).map(|j| j % 7).collect();
        let scales: Vec<f32> = zeros.iter().map(|&z| z as f32 * 0.01).collect();
        let mut out = vec![0.0_f32; m_most * n];
        let out = Mutex::new(&mut out);
        for kernel in Kernel::available() {
            for residency in RESIDENCIES {
                let prepared = PreparedWeight::new(x2, index, info, options(kernel, residency, 1)).unwrap();
                for m in [1, 3, m_most] {
                    let activations = [Activation::U8(&x[..m * k]), Activation::F32(&floats[..m * k], None)];
                    let pools: [&dyn Parallel; 2] = [&Serial, &Counting(2)];
                    for (activation, pool) in activations.into_iter().zip(pools) {
                        let call = MatmulCall {
                            x: activation,
                            m,
                            operands: Operands {
                                x_zero_point: 3,
                                x_scale: Some(0.5),
                                w_zero_point: ZeroPoint::PerColumn(&zeros),
                                bias: Some(&zeros),
                            },
                            heads: None,
                        };
                        let scale = ScalarOrPerColumn::PerColumn(&scales);
                        let epilogue = Epilogue::Dequantize { scale, addend: None, elementwise: Default::default() };
                        each_request_refused(&format!("{m} x {k} x {n} {kernel:?} {residency:?}"), || {
                            let mut out = out.lock().unwrap();
                            let output = Output::new(&mut out[..m * n], epilogue);
                            prepared.bind(x2).unwrap().run(&call, output, pool).map_err(text)
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn convolving() {
    let (channels, n, side) = (64, 96, 20);
    let k = channels * 9;
    let mut rng = Rng::new(1);
    let w: Vec<u8> = (0..n * k).map(|_| rng.below(17) as u8).collect();
    let view = WeightView::new(&w, (n, k), (k, 1), WeightType::I8).unwrap();
    let EncodedWeight { x2, compress_index, compress_info } =
        encode(&view, Profile::Balanced, Tiling::default()).unwrap();
    let x: Vec<u8> = (0..channels * side * side).map(|i| (i * 31 % 251) as u8).collect();
    let pads = [1, 1];
    let window = Window::new(&[side, side], &[3, 3], &[1, 1], &[1, 1], Padding::Explicit(&pads, &pads)).unwrap();
    let mut out = vec![0_i32; n * window.positions()];
    let out = Mutex::new(&mut out);
    for kernel in Kernel::available() {
        for residency in RESIDENCIES {
            let prepared =
                PreparedWeight::new(&x2, &compress_index, &compress_info, options(kernel, residency, 1)).unwrap();
            for order in [Order::ChannelsFirst, Order::ChannelsLast] {
                each_request_refused(&format!("convolve {kernel:?} {residency:?} {order:?}"), || {
                    let call = ConvCall {
                        x: Image::U8(&x),
                        order,
                        batch: 1,
                        channels,
                        groups: 1,
                        window,
                        operands: Operands { x_zero_point: 3, ..Operands::default() },
                    };
                    let mut out = out.lock().unwrap();
                    let output = Output::new(&mut out[..], Epilogue::Sums);
                    prepared.bind(&x2).unwrap().convolve(&call, output, &Serial).map_err(text)
                });
            }
        }
    }
}
