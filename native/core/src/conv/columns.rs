//! Convolution of images whose channels stay first: their patches are the columns of a multiplication, by the weight's rows.
//!
//! A piece of the positions at a time, the runs of bytes that two weights of a row meet lie beside each other as 16-bit numbers, less
//! their zero point: processors add up the products of such pairs. Neither images nor results are transposed, and no patch is
//! gathered; that is worth more than faster products where they are few for each byte of an image.

use super::image::Image;
use super::phases::{Phases, write};
use super::pieces::{Piece, Pieces, of_channel};
use super::{ConvCall, Order};
use crate::aligned::Aligned;
use crate::arch::output::{Destination, Output};
use crate::arch::pairs::{ByteRuns, POSITIONS, ROWS};
use crate::arch::workspace::{ColumnMemory, Staging, Workspace};
use crate::decoder::Bound;
use crate::error::{Error, resize};
use crate::gemm::PreparedWeight;
use crate::parallel::{Parallel, run_all};
use crate::shared::Shared;

/// Bytes of what weights meet of a piece, about, and its positions at the least and at the most.
const PIECE: usize = 1 << 15;
const PIECE_POSITIONS: (usize, usize) = (128, 512);

/// Where there are threads: pieces for each of them, if none has fewer positions for that than so many.
const PIECES_PER_THREAD: usize = 4;
const LEAST_POSITIONS: usize = 64;

/// Pixels with what is beside them are so many times those of the image at the most.
const LARGEST: usize = 2;

/// Sums of a line are this share of its positions at the most, where products of bytes would not be exact.
const WIDEST: (usize, usize) = (9, 8);

/// Multiply-adds for each byte, about, that would be transposed, below which products of bytes are not worth that.
/// docs/experiments/2026-11-29-columns.md.
const WORK: usize = 55;

/// Products that are worth a task of their own.
const TASK: usize = 1 << 18;

/// Tasks for each thread at the most.
const TASKS_PER_THREAD: usize = 4;

/// Bytes that a task writes of channels with what is beside them.
const BYTES: usize = 1 << 16;

impl Bound<'_, PreparedWeight> {
    /// Whether [`Self::convolve_columns`] does a call, and sooner than patches are packed and multiplied: where exact products are
    /// those of 16-bit numbers either way, or are few for each byte that would be transposed. Results of one byte are no reason.
    pub(super) fn convolves_columns(&self, call: &ConvCall<'_>, output: &Output<'_>) -> bool {
        let saturates = self.kernel().saturates() && matches!(call.x, Image::U8(_));
        let bytes = matches!(output.destination, Destination::U8(_) | Destination::I8(_));
        if saturates || bytes || call.order == Order::ChannelsLast || !self.kernel().tile().rows().multiplies_pairs()
        {
            return false;
        }
        let Ok(phases) = Phases::new(&call.window) else { return false };
        if phases.channel > LARGEST * call.window.pixels() {
            return false;
        }
        let (n, k, channels) = (self.n() / call.groups, self.k(), call.channels / call.groups);
        if self.is_decoded() && self.multiplies_bytes(call.x.shift()) {
            return (2 * n).saturating_mul(k) < WORK * (4 * n + channels);
        }
        phases.size[2].saturating_mul(WIDEST.1) <= call.window.output[2].saturating_mul(WIDEST.0)
    }

    /// Convolves images with channels first by exact products; the call was checked.
    pub(super) fn convolve_columns(
        &self,
        call: &ConvCall<'_>,
        output: &Output<'_>,
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        Workspace::with_staging(|Staging { weights, factors, starts, lines, padded, .. }| {
            self.factors(call.operands.w_zero_point, weights, factors, pool)?;
            let phases = Phases::new(&call.window)?;
            phases.runs(&call.window, call.channels / call.groups, starts, lines)?;
            let pieces = Pieces::new(&call.window, phases.size, self.positions_of_a_piece(call, pool.threads()));
            let columns = Columns { weight: self, call, output, phases, pieces, factors, starts, lines };
            (0..call.batch * call.groups).try_for_each(|part| columns.part(part, padded, pool))
        })
    }

    /// As many as stay in the cache, and less where threads would have too few pieces to share.
    fn positions_of_a_piece(&self, call: &ConvCall<'_>, threads: usize) -> usize {
        let cached = (PIECE / (2 * self.k())).clamp(PIECE_POSITIONS.0, PIECE_POSITIONS.1);
        match threads {
            1 => cached,
            _ => cached.min(call.window.positions().div_ceil(threads * PIECES_PER_THREAD).max(LEAST_POSITIONS)),
        }
    }
}

/// One call.
struct Columns<'a> {
    weight: &'a PreparedWeight,
    call: &'a ConvCall<'a>,
    output: &'a Output<'a>,
    phases: Phases,
    pieces: Pieces,
    /// The weights less their zero points.
    factors: &'a [i16],
    /// Where the runs of all weights of an output channel begin.
    starts: &'a [usize],
    /// Where those of an image's lines do.
    lines: &'a [usize],
}

// SAFETY: each piece of the output is written by one task.
unsafe impl Sync for Columns<'_> {}

impl Columns<'_> {
    /// Convolves one group of one image; `part` counts those of all images.
    fn part(&self, part: usize, padded: &mut Aligned<i8>, pool: &dyn Parallel) -> Result<(), Error> {
        let (call, pixels) = (self.call, self.call.window.pixels());
        let channels = call.channels / call.groups;
        let image = call.x.bytes(part * channels * pixels, channels * pixels);
        let bytes = if self.phases.are_the_image(&call.window) { image } else { self.padded(image, padded, pool)? };
        // SAFETY: the layout is the same.
        let bytes = unsafe { &*(std::ptr::from_ref(bytes) as *const [u8]) };
        let outputs = self.weight.n() / call.groups;
        let work = outputs.saturating_mul(call.window.positions()).saturating_mul(self.starts.len());
        let threads = if pool.threads() == 1 { 1 } else { pool.threads() * TASKS_PER_THREAD };
        let (pieces, tasks) = (self.pieces.count(), (work / TASK).clamp(1, threads));
        let tasks = tasks.min(pieces.max(1));
        run_all(pool, tasks, |task| {
            Workspace::with(|workspace| {
                (pieces * task / tasks..pieces * (task + 1) / tasks).try_for_each(|piece| {
                    // SAFETY: this piece is this task's.
                    unsafe { self.piece(part, bytes, &self.pieces.piece(piece), &mut workspace.columns) }
                })
            })
        })
    }

    /// The channels of an image with what is beside them.
    fn padded<'a>(&self, image: &[i8], memory: &'a mut Aligned<i8>, pool: &dyn Parallel) -> Result<&'a [i8], Error> {
        let (window, pixels, len) = (&self.call.window, self.call.window.pixels(), self.phases.channel);
        let channels = image.len() / pixels.max(1);
        memory.reset(channels.saturating_mul(len), "channels with what is beside them")?;
        let zero_point = self.call.operands.x_zero_point as i8;
        let together = (BYTES / len.max(1)).max(1);
        let to = Shared::new(&mut memory[..]);
        run_all(pool, channels.div_ceil(together), |task| {
            for c in task * together..channels.min((task + 1) * together) {
                // SAFETY: there are so many channels, and this one is this task's.
                let to = unsafe { to.part(c * len, len) };
                to.fill(zero_point);
                write(window, self.lines, &image[c * pixels..][..pixels], |pixel| pixel, to);
            }
            Ok(())
        })?;
        Ok(&memory[..channels * len])
    }

    /// Makes all outputs of one group of one image at some positions.
    ///
    /// # Safety
    /// Nobody else has these results meanwhile.
    unsafe fn piece(
        &self,
        part: usize,
        bytes: &[u8],
        piece: &Piece,
        ColumnMemory { pairs, sums, zeros }: &mut ColumnMemory,
    ) -> Result<(), Error> {
        let (call, positions, outputs) =
            (self.call, self.call.window.positions(), self.weight.n() / self.call.groups);
        let (kernel, len) = (self.weight.kernel().tile(), piece.sums.len().next_multiple_of(POSITIONS));
        let of_a_row = self.starts.len().next_multiple_of(2);
        pairs.reset(len.saturating_mul(of_a_row), "pairs of pixels")?;
        sums.reset(len * ROWS, "sums of positions")?;
        resize(zeros, piece.positions(), "sums of positions")?;
        let zero_point = call.operands.x_zero_point as i16;
        let signed = matches!(call.x, Image::I8(_));
        let runs = ByteRuns { bytes, signed, zero_point, starts: self.starts };
        kernel.rows().pair(runs, piece.sums.clone(), pairs);
        let (group, image) = (part % call.groups, part / call.groups);
        let factors = &self.factors[group * outputs * of_a_row..][..outputs * of_a_row];
        for (block, factors) in factors.chunks(ROWS * of_a_row).enumerate() {
            let (first, count) = (group * outputs + block * ROWS, factors.len() / of_a_row);
            let bases: [i32; ROWS] = std::array::from_fn(|row| match call.operands.bias {
                Some(bias) if row < count => bias[first + row],
                _ => 0,
            });
            kernel.rows().pair_sums(pairs, factors, &bases[..count], &mut sums[..count * len]);
            for (j, sums) in (first..).zip(sums[..count * len].chunks_exact_mut(len)) {
                let at = (image * self.weight.n() + j) * positions + piece.first;
                // SAFETY: the output has so many positions for each output channel of each image, as was checked; the caller
                // answers for the rest.
                let destination = unsafe { self.output.destination.part(at, positions, 1, piece.positions()) };
                let epilogue = of_channel(&self.output.epilogue, call.operands.x_scale, j);
                piece.write(kernel, sums, zeros, Output { destination, epilogue });
            }
        }
        Ok(())
    }
}
