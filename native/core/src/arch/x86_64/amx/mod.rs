//! AMX (Sapphire Rapids and later): decoding as with AVX-512, products in tile registers.
//!
//! A tile register of weights is 64 along k by 16 columns, 16 rows of 64 bytes: a panel's groups as they lie in memory,
//! two fractals of them. One of activations is up to 16 rows by 64 along k. Their product adds to one of sums, up to 16 rows
//! by 16 columns of int32. `fused` multiplies while it decodes, `block` what is decoded already.
//!
//! The heights of the registers are set by a configuration, which a thread loads when the number of rows changes, and drops
//! at the end of its part of the work. Other code in the process that uses AMX loads its own before its own work, as the
//! ABI demands, for the registers belong to whoever runs.
//!
//! In `block`, tile registers live in one `asm!` block. In `fused`, sums live from one to the next: that file says why it may rely
//! on them, and which test holds that.

mod block;
mod fused;
mod registers;

use super::avx512::Avx512;
use super::avx512::block::{Accumulate, check_operands};
use super::avx512::decode::{Memory, decode_tile};
use super::avx512::epilogue::Outputs;
use super::results::Dequantized;
use crate::arch::feature::Feature;
use crate::arch::kernel::{Multiplier, NoMemory, Refused, RowKernel, TileKernel};
use crate::arch::operands::{Accumulators, ByteRows, Coded, Extent, Rows, Symbols};
use crate::arch::output::Output;
use crate::arch::rows::Terms;
use crate::arch::workspace::Scratch;
use registers::STEP;

/// Proof that the processor has the instructions, and that the system lets this process use them.
#[derive(Debug)]
pub struct Amx(Avx512);

impl Amx {
    /// What it needs besides what [`Avx512`] does. The permission is last, for to ask whether it is there is to get it.
    pub const NEEDS: &[Feature] = &[Feature::AmxInt8, Feature::AmxPermission];

    /// # Safety
    /// Processor and system have all of [`Self::NEEDS`] and of [`Avx512::NEEDS`].
    pub const unsafe fn assume() -> Self {
        // SAFETY: the caller's contract.
        Self(unsafe { Avx512::assume() })
    }
}

impl Multiplier for Amx {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-amx"
    }

    fn block_rows(&self) -> usize {
        block::CHUNK
    }

    fn within(&self, work: &mut dyn FnMut()) {
        registers::within(work);
    }

    fn multiply(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), NoMemory> {
        if block::too_few(rows.m(), extent) {
            return self.0.multiply(symbols, extent, rows, acc, scratch);
        }
        assert!(symbols.bytes.len() >= extent.weights());
        check_operands(extent, &rows, acc);
        let stride = acc.stride();
        let (data, overwrite) = acc.data_or_overwrite();
        let to = Accumulate { at: data.as_mut_ptr(), stride, overwrite };
        // SAFETY: `self` proves the features; the two checks above cover every address that the loops form.
        self.within(&mut || unsafe { block::multiply(symbols.bytes.as_ptr(), extent, &rows, to) });
        Ok(())
    }

    fn multiply_epilogue(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        terms: &Terms<'_>,
        out: &mut Output<'_>,
    ) -> bool {
        if block::too_few(rows.m(), extent) {
            return self.0.multiply_epilogue(symbols, extent, rows, terms, out);
        }
        assert!(symbols.bytes.len() >= extent.weights() && rows.covers(extent.k()));
        let whole = extent.panels() == block::QUAD && terms.columns.len() == extent.columns();
        if !whole || terms.row_sums.len() != rows.m() || !extent.fractals().is_multiple_of(STEP) {
            return false;
        }
        let Some(to) = Outputs::<Dequantized<'_>>::new(terms, out) else { return false };
        // SAFETY: `self` proves the features; the checks above cover symbols and rows, and the outputs are of this extent.
        self.within(&mut || unsafe { block::multiply_epilogue(symbols.bytes.as_ptr(), extent, &rows, &to) });
        true
    }

    fn rows(&self) -> &dyn RowKernel {
        self.0.rows()
    }
}

impl TileKernel for Amx {
    fn fused_rows(&self) -> usize {
        fused::ROWS
    }

    fn prefetch(&self, bytes: &[u8]) {
        self.0.prefetch(bytes);
    }

    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        self.0.decode(coded, out, stride, scratch)
    }

    unsafe fn decode_rows(
        &self,
        coded: Coded<'_>,
        to: ByteRows,
        scratch: &mut Scratch,
    ) -> Option<Result<(), Refused>> {
        // SAFETY: the caller's contract.
        unsafe { self.0.decode_rows(coded, to, scratch) }
    }

    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        if rows.m() == 1 {
            return self.0.multiply_coded(coded, rows, acc, scratch);
        }
        let extent = coded.extent;
        check_operands(extent, &rows, acc);
        let stride = acc.stride();
        let (data, overwrite) = acc.data_or_overwrite();
        let to = Accumulate { at: data.as_mut_ptr(), stride, overwrite };
        let memory = scratch.of::<Memory>();
        let panels = memory.panels.room_for(fused::PANELS * extent.panel())?;
        let mut result = Ok(());
        self.within(&mut || {
            // SAFETY: `self` proves the features; the buffer begins on a line, and the check above covers the rest. The
            // decoder uses no tile registers.
            unsafe {
                let mut sink = fused::PipelinedSink::new(panels, extent, rows, to);
                result = decode_tile(coded, &mut memory.levels, &mut sink);
                sink.flush();
            }
        });
        result
    }
}
