//! `cargo bench -p mcd-bench`: by every kernel a whole weight decoded, and rows of a table.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mcd_core::{Kernel, Layout, Profile, Serial, Tiling, VerifiedWeight, WeightType, WeightView, encode};
use mcd_testkit::Rng;
use mcd_testkit::content::bell;
use std::hint::black_box;
use std::mem::MaybeUninit;

const K: usize = 1024;
const N: usize = 1024;

/// Rows and columns of a table as language models have them.
const TABLE: (usize, usize) = (32128, 512);

/// Whole weights: one that stays in the second cache, and one that does not fit in any.
fn decompress(c: &mut Criterion) {
    let weights = bell(64 << 20, &mut Rng::new(1));
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
    let weights = bell(rows * columns, &mut Rng::new(1));
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
    targets = decompress, gather
}
criterion_main!(benches);
