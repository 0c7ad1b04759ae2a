//! Direct convolution, for groups whose output channels are no whole strips of tiles, as those of depthwise convolutions: a patch
//! for each position and a panel of 16 outputs would be padding for the most part.
//!
//! A channel is written as 16-bit numbers less its zero point, with what is beside the image, its *phases* one behind the other: with
//! strides s, pixel p is in phase p mod s. So what a tap meets from position to position lies in one run, and an output channel is
//! the sum of as many runs as there are weights, each times one of them.

use super::image::Image;
use super::phases::{Phases, write};
use super::pieces::{Pieces, of_channel};
use super::{ConvCall, Order};
use crate::arch::output::Output;
use crate::arch::rows::WeightedRuns;
use crate::arch::workspace::{DirectMemory, Staging, Workspace};
use crate::decoder::Bound;
use crate::error::{Error, resize};
use crate::gemm::PreparedWeight;
use crate::parallel::{Parallel, run_all};

/// Products that are worth a task of their own.
const TASK: usize = 1 << 18;

/// Tasks for each thread at the most.
const TASKS_PER_THREAD: usize = 4;

/// Sums are made so many at a time, whether all of them are wanted or not.
const SUMS: usize = 32;

impl Bound<'_, PreparedWeight> {
    /// Convolves images with channels first; the call was checked.
    pub(super) fn convolve_directly(
        &self,
        call: &ConvCall<'_>,
        output: &Output<'_>,
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        let of_a_group = self.n() / call.groups;
        let saturates = self.kernel().saturates() && matches!(call.x, Image::U8(_));
        if call.order == Order::ChannelsLast || saturates {
            let why = if saturates { "products that saturate" } else { "channels last" };
            return Err(Error::Convolution(format!("groups of {of_a_group} output channels with {why}")));
        }
        Workspace::with_staging(|Staging { weights, factors, starts, lines, .. }| {
            self.factors(call.operands.w_zero_point, weights, factors, pool)?;
            let phases = Phases::new(&call.window)?;
            phases.runs(&call.window, call.channels / call.groups, starts, lines)?;
            Direct { weight: self, call, output, phases, factors, starts, lines }.run(pool)
        })
    }
}

const CHANNELS: &str = "channels with what is beside them";

/// One call.
struct Direct<'a> {
    weight: &'a PreparedWeight,
    call: &'a ConvCall<'a>,
    output: &'a Output<'a>,
    phases: Phases,
    /// The weights less their zero points.
    factors: &'a [i16],
    /// Where the runs of all weights of an output channel begin.
    starts: &'a [usize],
    /// Where those of an image's lines do.
    lines: &'a [usize],
}

// SAFETY: `run` gives each part of the output to one thread.
unsafe impl Sync for Direct<'_> {}

impl Direct<'_> {
    /// Convolves all groups of all images.
    fn run(&self, pool: &dyn Parallel) -> Result<(), Error> {
        let parts = self.call.batch * self.call.groups;
        let products = parts.saturating_mul(self.starts.len() * (self.weight.n() / self.call.groups));
        let tasks = products.saturating_mul(self.call.window.positions()) / TASK;
        let tasks = tasks.min(pool.threads() * TASKS_PER_THREAD).clamp(1, parts.max(1));
        run_all(pool, tasks, |task| {
            (parts * task / tasks..parts * (task + 1) / tasks).try_for_each(|part| {
                // SAFETY: this part is this task's.
                Workspace::with(|workspace| unsafe { self.part(part, &mut workspace.direct) })
            })
        })
    }

    /// Convolves one group of one image; `part` counts those of all images.
    ///
    /// # Safety
    /// Nobody else has the results of this part meanwhile.
    unsafe fn part(&self, part: usize, memory: &mut DirectMemory) -> Result<(), Error> {
        let DirectMemory { channels, sums, zeros } = memory;
        let (call, window) = (self.call, &self.call.window);
        let (count, outputs) = (call.channels / call.groups, self.weight.n() / call.groups);
        let (positions, pixels) = (window.positions(), window.pixels());
        let piece = Pieces::new(window, self.phases.size, usize::MAX).piece(0);
        let wanted = piece.sums.len();
        let len = wanted.next_multiple_of(SUMS);
        channels.reset(self.phases.channel.saturating_mul(count).saturating_add(len - wanted), CHANNELS)?;
        for (c, to) in channels.chunks_exact_mut(self.phases.channel).take(count).enumerate() {
            let at = (part * count + c) * pixels;
            let zero_point = call.operands.x_zero_point as i16;
            to.fill(0);
            match call.x {
                Image::U8(x) => {
                    write(window, self.lines, &x[at..][..pixels], |x| i16::from(x).wrapping_sub(zero_point), to);
                }
                Image::I8(x) => {
                    write(window, self.lines, &x[at..][..pixels], |x| i16::from(x).wrapping_sub(zero_point), to);
                }
            }
        }
        sums.reset(len, "sums of positions")?;
        resize(zeros, positions, "sums of positions")?;
        for j in part % call.groups * outputs..(part % call.groups + 1) * outputs {
            let factors = &self.factors[j * self.starts.len().next_multiple_of(2)..][..self.starts.len()];
            let base = call.operands.bias.map_or(0, |bias| bias[j]);
            let runs = WeightedRuns { values: channels, starts: self.starts, factors };
            self.weight.kernel().tile().rows().weighted_sums(base, runs, sums);
            let at = (part / call.groups * self.weight.n() + j) * positions;
            // SAFETY: the output has so many positions for each output channel of each image, as was checked; the caller
            // answers for the rest.
            let destination = unsafe { self.output.destination.part(at, positions, 1, positions) };
            let epilogue = of_channel(&self.output.epilogue, call.operands.x_scale, j);
            piece.write(self.weight.kernel().tile(), sums, zeros, Output { destination, epilogue });
        }
        Ok(())
    }
}
