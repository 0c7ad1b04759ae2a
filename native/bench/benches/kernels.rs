//! `cargo bench -p mcd-bench`: encoding, and one multiplication by every kernel, checked against the scalar one.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mcd_core::{
    Activation, Epilogue, Kernel, MatmulCall, Operands, Output, PrepareOptions, PreparedWeight, Profile, Residency,
    Serial, Tiling, WeightType, WeightView, ZeroPoint, encode,
};
use mcd_testkit::Rng;
use mcd_testkit::content::bell;
use std::hint::black_box;

const K: usize = 1024;
const N: usize = 1024;

fn benchmarks(c: &mut Criterion) {
    let weights = bell(K * N, &mut Rng::new(1));
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
                operands: Operands { x_zero_point: 3, x_scale: None, w_zero_point: ZeroPoint::None, bias: None },
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

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(std::time::Duration::from_secs(2));
    targets = benchmarks
}
criterion_main!(benches);
