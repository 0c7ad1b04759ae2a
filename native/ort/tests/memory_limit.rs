//! What a session's limit counts where its weights are verified at the first run.

use std::ffi::{CStr, CString, c_char};
use std::sync::Barrier;

use mcd_core::container::memory_needed;
use mcd_core::{Profile, Tiling, WeightType, WeightView, encode_packed};
use mcd_testkit::Rng;
use mcd_testkit::onnxruntime::{Kernel, Node, NodeInput, Tensor, register};

const INT8: i32 = 3;

/// One that does not tell an initializer of an outer graph from a computed tensor, but has config entries.
unsafe extern "system" fn version() -> *const c_char {
    c"1.28.0".as_ptr()
}

#[test]
fn a_weight_that_several_runs_verify_at_once_is_counted_once() {
    // SAFETY: an entry point for onnxruntime; its operators live for good.
    let operators = unsafe { register(mcd_ort::RegisterCustomOps, version) };
    let name: &CStr = c"DecompressWeight";
    let operator = operators.into_iter().find(|operator| operator.name() == name).unwrap();
    let (n, k) = (1000, 1000);
    let mut rng = Rng::new(3);
    let w: Vec<u8> = (0..n * k).map(|_| (0..4).map(|_| rng.below(9)).sum::<usize>() as u8).collect();
    let view = WeightView::new(&w, (n, k), (k, 1), WeightType::I8).unwrap();
    let weight = encode_packed(&view, Profile::Balanced, Tiling::default()).unwrap();
    let input =
        |bytes: &[u8]| Some(NodeInput { tensor: Tensor::new(INT8, &[bytes.len() as i64], bytes), constant: false });
    let loading = memory_needed(weight.compress_index.len(), &weight.compress_info, None);
    // Room for its tables and, as a node has to have when it is created, for what a run decodes; not for the tables twice.
    let limit = loading + (n * k) as u64;
    let node = Node {
        inputs: vec![input(&weight.x2), input(&weight.compress_index)],
        compress_info: Some(weight.compress_info.to_vec()),
        numbers: vec![(c"dtype", i64::from(INT8))],
        lists: vec![(c"shape", vec![k as i64, n as i64])],
        entries: vec![(c"mcd.memory_limit", CString::new(limit.to_string()).unwrap())],
        ..Node::default()
    };
    for turn in 0..20 {
        let kernel = operator.create(&node).unwrap();
        let (kernel, barrier) = (Shared(&kernel), Barrier::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let kernel = &kernel;
                    barrier.wait();
                    kernel.0.run(&node).unwrap();
                });
            }
        });
        // Another node of the session is told what is left.
        operator.create(&node).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
    }
}

/// A kernel that several threads run.
struct Shared<'a>(&'a Kernel);

// SAFETY: the library's kernels are made to be run on several threads at once, as onnxruntime does.
unsafe impl Sync for Shared<'_> {}
