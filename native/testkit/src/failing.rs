//! An allocator that refuses the N-th request: for tests that every one of them may be refused.
//!
//! Rust's own collections end the process where they cannot grow, unless they are asked in another way. So a test that goes
//! through all of N without an end has shown that whoever it tests asks in that way. Small requests are not counted: texts of
//! errors, boxes and lists of fixed sizes, which the standard library does not make fallible.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mcd_core::Parallel;
use mcd_core::parallel::Scoped;

/// The global allocator of a test's binary.
#[derive(Debug)]
pub struct Failing;

static ARMED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// Requests of so many bytes are counted, and those for more.
pub const COUNTED: usize = 1024;

thread_local! {
    /// Whether requests of this thread are counted: those of the test's runner never are.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// Does some work of the test's own, none of whose requests is counted.
pub fn unrefused<R>(work: impl FnOnce() -> R) -> R {
    let before = COUNTS.replace(false);
    let result = work();
    COUNTS.set(before);
    result
}

/// Whether a request is the one.
fn refused(bytes: usize) -> bool {
    bytes >= COUNTED
        && COUNTS.get()
        && ARMED.load(Ordering::Relaxed)
        && COUNT.fetch_add(1, Ordering::Relaxed) + 1 == NUMBER.load(Ordering::Relaxed)
}

// SAFETY: every call goes on to the system's allocator with the caller's own arguments, or is refused with null, which
// the trait allows.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        if refused(layout.size()) { null_mut() } else { unsafe { System.alloc(layout) } }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        if refused(layout.size()) { null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && refused(size) {
            return null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Threads whose requests are counted as well.
#[derive(Debug)]
pub struct Counting(pub usize);

impl Parallel for Counting {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let counts = COUNTS.get();
        Scoped(self.0).run(tasks, &|i| {
            let before = COUNTS.replace(counts);
            task(i);
            COUNTS.set(before);
        });
    }
}

/// Does some work on a thread of its own, whose memory is fresh, while request `number` is refused, the first being 1. Gives
/// how many there were as well.
fn with_failure<R: Send>(number: usize, work: &(impl Fn() -> R + Sync)) -> (R, usize) {
    let work = || {
        COUNT.store(0, Ordering::Relaxed);
        NUMBER.store(number, Ordering::Relaxed);
        ARMED.store(true, Ordering::Relaxed);
        COUNTS.set(true);
        let result = work();
        COUNTS.set(false);
        ARMED.store(false, Ordering::Relaxed);
        (result, COUNT.load(Ordering::Relaxed))
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panics"))
}

/// Does some work once for each request that it makes, which is refused: an error that says so, or the result as ever where it
/// could do without. Gives how many there were.
///
/// # Panics
/// If something else comes of it.
pub fn each_request_refused<R: PartialEq + Send>(what: &str, work: impl Fn() -> Result<R, String> + Sync) -> usize {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    let (expected, count) = with_failure(0, &work);
    let expected = expected.unwrap_or_else(|error| panic!("{what}: {error}"));
    for number in 1..=count {
        match with_failure(number, &work).0 {
            Ok(result) => assert!(result == expected, "{what}: request {number} of {count} gives something else"),
            Err(error) => {
                assert!(error.contains("out of memory"), "{what}: request {number} of {count}: {error}");
            }
        }
    }
    count
}
