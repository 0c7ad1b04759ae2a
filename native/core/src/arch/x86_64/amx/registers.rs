//! The configuration of a thread's tile registers.

use std::arch::asm;
use std::cell::Cell;

/// Rows of a tile register.
pub const HEIGHT: usize = 16;
/// Bytes of a row of a tile register.
pub const WIDTH: usize = 64;
/// Length along k of a tile register of weights or activations, in fractals.
pub const STEP: usize = 2;
/// Tile registers.
const COUNT: usize = 8;

/// Rows that each tile register has; all rows have 64 bytes.
pub type Heights = [u8; COUNT];

thread_local! {
    /// Whether a part of the work is under way on this thread.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
    /// What this thread's tile registers are configured for; nothing outside of such a part.
    static CONFIGURED: Cell<Option<Heights>> = const { Cell::new(None) };
}

/// Does a part of the work, and drops the configuration afterwards if there is one: the system saves no tiles of a thread
/// that has none.
pub fn within(work: &mut dyn FnMut()) {
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            WITHIN.set(false);
            if CONFIGURED.take().is_some() {
                // SAFETY: a configuration was loaded, so the instruction exists; no work is under way.
                unsafe {
                    asm!(
                        "tilerelease",
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, nomem, preserves_flags)
                    );
                }
            }
        }
    }
    let _release = (!WITHIN.replace(true)).then(|| Release);
    work();
}

/// Operand of LDTILECFG.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Gives this thread's tile registers their heights, unless they have them.
///
/// # Safety
/// The process is permitted to use them, and the call is inside of [`within`].
///
/// # Panics
/// If a height is not 1 to 16.
pub unsafe fn configure(heights: Heights) {
    if CONFIGURED.get() == Some(heights) {
        return;
    }
    assert!(heights.iter().all(|&rows| (1..=HEIGHT).contains(&rows.into())));
    debug_assert!(WITHIN.get());
    let mut configuration =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    configuration.rows[..COUNT].copy_from_slice(&heights);
    configuration.row_bytes[..COUNT].fill(WIDTH as u16);
    // SAFETY: palette 1 has eight registers of 1 to 16 rows of up to 64 bytes; the instruction reads the 64 bytes of its
    // operand.
    unsafe {
        asm!(
            "ldtilecfg [{}]",
            in(reg) &raw const configuration,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly, preserves_flags),
        );
    }
    CONFIGURED.set(Some(heights));
}
