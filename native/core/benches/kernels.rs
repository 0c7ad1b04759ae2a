//! `cargo bench -p mcd-core`: encoding; by every kernel one multiplication, checked against the scalar one, a whole weight
//! decoded, and rows of a table.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mcd_core::{
    Activation, Epilogue, Kernel, Layout, MatmulCall, Output, PrepareOptions, PreparedWeight, Profile, Residency,
    Serial, Tiling, VerifiedWeight, WeightType, WeightView, ZeroPoint, encode,
};
use mcd_testkit::Rng;
use std::hint::black_box;
use std::mem::MaybeUninit;

const K: usize = 1024;
const N: usize = 1024;

/// Rows and columns of a table as language models have them.
const TABLE: (usize, usize) = (32128, 512);

/// Sums of twelve uniform values: bell shaped, standard deviation 12.
fn weights(count: usize) -> Vec<u8> {
    let mut rng = Rng::new(1);
    (0..count).map(|_| ((0..12).map(|_| rng.unit()).sum::<f64>() * 12.0 - 72.0).round() as i8 as u8).collect()
}

fn benchmarks(c: &mut Criterion) {
    let weights = weights(K * N);
    let view = WeightView::new(&weights, (N, K), (K, 1), WeightType::I8).expect("a valid weight");
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Bytes((N * K) as u64));
    for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
        group.bench_function(profile.name(), |b| b.iter(|| encode(black_box(&view), profile, Tiling::default())));
    }
    group.finish();
    for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
        let encoded = encode(&view, profile, Tiling::default()).expect("it encodes");
        let mut group = c.benchmark_group(format!("multiply/{}", profile.name()));
        group.throughput(Throughput::Bytes((N * K) as u64));
        for m in [1, 8, 64] {
            let x: Vec<u8> = (0..m * K).map(|i| (i * 37) as u8).collect();
            let call = MatmulCall {
                x: Activation::U8(&x),
                m,
                x_zero_point: 3,
                x_scale: None,
                w_zero_point: ZeroPoint::None,
                bias: None,
                heads: None,
            };
            let mut expected: Option<Vec<i32>> = None;
            // The scalar kernel comes last; the first one sets what all others must give.
            for kernel in Kernel::available() {
                let options = PrepareOptions { residency: Residency::Compressed, kernel, threads: 1 };
                let (x2, index, info) = (&encoded.x2, &encoded.compress_index, &encoded.compress_info);
                let weight = PreparedWeight::new(x2, index, info, options).expect("it is sound");
                let mut out = vec![0i32; m * N];
                let weight = weight.bind(x2).expect("its own bytes");
                let mut run = || {
                    let output = Output::new(&mut out[..], Epilogue::Sums);
                    weight.run(&call, output, &Serial).expect("it multiplies");
                };
                run();
                group.bench_function(format!("{}/m{m}", kernel.short_name()), |b| b.iter(&mut run));
                assert_eq!(expected.get_or_insert_with(|| out.clone()), &out, "{kernel:?}");
            }
        }
        group.finish();
    }
}

/// Whole weights: one that stays in the second cache, and one that does not fit in any.
fn decompress(c: &mut Criterion) {
    let weights = weights(64 << 20);
    for (name, n, k) in [("1 MiB", N, K), ("64 MiB", 8 * N, 8 * K)] {
        let view = WeightView::new(&weights, (n, k), (k, 1), WeightType::I8).expect("a valid weight");
        let encoded = encode(&view, Profile::Balanced, Tiling::default()).expect("it encodes");
        let mut group = c.benchmark_group(format!("decompress/{name}"));
        group.throughput(Throughput::Bytes((n * k) as u64));
        let mut out = vec![MaybeUninit::uninit(); n * k];
        for kernel in Kernel::available().into_iter().filter(|kernel| kernel.short_name() != "scalar") {
            let (x2, index, info) = (&encoded.x2, &encoded.compress_index, &encoded.compress_info);
            let weight = VerifiedWeight::new(x2, index, info, kernel, 1).expect("it is sound");
            let weight = weight.bind(x2).expect("its own bytes");
            for layout in [Layout::Nk, Layout::Kn] {
                group.bench_function(format!("{}/{layout:?}", kernel.short_name()), |b| {
                    b.iter(|| weight.decompress(layout, &mut out, &Serial).expect("it decodes"));
                });
            }
        }
        group.finish();
    }
}

/// Rows anywhere in a table.
fn gather(c: &mut Criterion) {
    let (rows, columns) = TABLE;
    let weights = weights(rows * columns);
    let view = WeightView::new(&weights, TABLE, (columns, 1), WeightType::I8).expect("a valid weight");
    for tiling in [Tiling::default(), Tiling { k: 16, n: 1 }] {
        let encoded = encode(&view, Profile::Balanced, tiling).expect("it encodes");
        let mut group = c.benchmark_group(format!("gather/{}x{}", tiling.k, tiling.n));
        for kernel in Kernel::available().into_iter().filter(|kernel| kernel.short_name() != "scalar") {
            let (x2, index, info) = (&encoded.x2, &encoded.compress_index, &encoded.compress_info);
            let table = VerifiedWeight::new(x2, index, info, kernel, 1).expect("it is sound");
            let table = table.bind(x2).expect("its own bytes");
            for count in [8, 64, 512] {
                let wanted: Vec<usize> = (0..count).map(|i| i * 7919 % rows).collect();
                group.bench_function(format!("{}/{count} rows", kernel.short_name()), |b| {
                    b.iter(|| table.gather(&wanted, &Serial, &|part| _ = black_box(part)).expect("they are there"));
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(std::time::Duration::from_secs(2));
    targets = benchmarks, decompress, gather
}
criterion_main!(benches);
