//! A multiplication allocates nothing once its thread has done one like it: threads keep what they need of memory.

use mcd_core::{
    Activation, Elementwise, Epilogue, Kernel, MatmulCall, Operands, Output, PrepareOptions, PreparedWeight, Profile,
    Residency, ScalarOrPerColumn, Serial, Tiling, WeightType, WeightView, ZeroPoint, encode,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator; counts how often each thread asks it.
struct Counting;

// SAFETY: everything is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const N: usize = 70;
const K: usize = 130;

#[test]
fn a_multiplication_like_the_one_before_allocates_nothing() {
    let w: Vec<u8> = (0..N * K).map(|i| (i * i % 23) as u8).collect();
    let view = WeightView::new(&w, (N, K), (K, 1), WeightType::U8).unwrap();
    let encoded = encode(&view, Profile::Balanced, Tiling::default()).unwrap();
    let (zeros, bias): (Vec<i32>, Vec<i32>) = (0..N as i32).map(|j| (j % 7, j * 31)).unzip();
    let scales: Vec<f32> = (0..N).map(|j| 0.01 * j as f32).collect();
    let scale = ScalarOrPerColumn::PerColumn(&scales);
    let operands = Operands {
        x_zero_point: 3,
        x_scale: Some(0.5),
        w_zero_point: ZeroPoint::PerColumn(&zeros),
        bias: Some(&bias),
    };
    // The portable kernel multiplies what the reference decoder gives, in vectors of its own.
    for kernel in Kernel::available().into_iter().filter(|kernel| kernel.short_name() != "scalar") {
        for residency in [Residency::Compressed, Residency::Decoded] {
            let options = PrepareOptions { residency, kernel, threads: 1 };
            let (x2, index, info) = (&encoded.x2, &encoded.compress_index, &encoded.compress_info);
            let weight = PreparedWeight::new(x2, index, info, options).unwrap();
            let weight = weight.bind(x2).unwrap();
            for m in [1, 5, 70] {
                let (bytes, floats) = (vec![9; m * K], vec![0.3; m * K]);
                let mut out = vec![0_f32; m * N];
                for x in [Activation::U8(&bytes), Activation::F32(&floats, None)] {
                    let call = MatmulCall { x, m, operands, heads: None };
                    let mut allocations = || {
                        let epilogue =
                            Epilogue::Dequantize { scale, addend: Some(scale), elementwise: Elementwise::default() };
                        let before = ALLOCATIONS.get();
                        weight.run(&call, Output::new(&mut out[..], epilogue), &Serial).unwrap();
                        ALLOCATIONS.get() - before
                    };
                    allocations();
                    assert_eq!(allocations(), 0, "{kernel:?} {residency:?} {m} rows {x:?}");
                }
            }
        }
    }
}
