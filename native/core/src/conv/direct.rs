//! Direct convolution, for groups whose output channels are no whole strips of tiles, as those of depthwise convolutions: a patch
//! for each position and a panel of 16 outputs would be padding for the most part.
//!
//! A channel is written as 16-bit numbers less its zero point, with what is beside the image, its *phases* one behind the other: with
//! strides s, pixel p is in phase p mod s. So what a tap meets from position to position lies in one run, and an output channel is
//! the sum of as many runs as there are weights, each times one of them.

use super::image::Image;
use super::phases::{Phases, write};
use super::{ConvCall, Order};
use crate::arch::output::ScalarOrPerColumn::{self, Scalar};
use crate::arch::output::{Destination, Elementwise, Epilogue, Output};
use crate::arch::rows::{Terms, WeightTerm, WeightedRuns};
use crate::arch::workspace::{DirectMemory, Staging, Workspace};
use crate::codec::WeightType;
use crate::decoder::Bound;
use crate::error::{Error, refill, resize};
use crate::gemm::{PreparedWeight, ZeroPoint};
use crate::parallel::Parallel;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

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
        Workspace::with_staging(|Staging { weights, starts, lines, .. }| {
            let stride = self.write_rows(weights)?;
            let (phases, channels) = (Phases::new(&call.window)?, call.channels / call.groups);
            // In the order of the weights: the channels of a tap beside each other.
            let places =
                (0..self.k()).map(|at| phases.tap(&call.window, at / channels) + at % channels * phases.channel);
            refill(starts, places, "places of taps")?;
            refill(lines, phases.lines(&call.window), "places of lines")?;
            Direct { weight: self, call, output, phases, weights, stride, starts, lines }.run(pool)
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
    /// (n, k), rows `stride` apart.
    weights: &'a [u8],
    stride: usize,
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
        let failure = Mutex::new(None);
        let run = |task: usize| {
            for part in parts * task / tasks..parts * (task + 1) / tasks {
                // SAFETY: this part is this task's.
                let done = Workspace::with(|workspace| unsafe { self.part(part, &mut workspace.direct) });
                if let Err(error) = done {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        };
        match tasks {
            1 => run(0),
            _ => pool.run(tasks, &run),
        }
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Convolves one group of one image; `part` counts those of all images.
    ///
    /// # Safety
    /// Nobody else has the results of this part meanwhile.
    unsafe fn part(&self, part: usize, memory: &mut DirectMemory) -> Result<(), Error> {
        let DirectMemory { channels, factors, sums, zeros } = memory;
        let (call, window) = (self.call, &self.call.window);
        let (count, outputs) = (call.channels / call.groups, self.weight.n() / call.groups);
        let (positions, pixels) = (window.positions(), window.pixels());
        let wanted = self.phases.sums(window);
        let len = wanted.next_multiple_of(SUMS);
        channels.reset(self.phases.channel.saturating_mul(count).saturating_add(len - wanted), CHANNELS)?;
        for (c, to) in channels.chunks_exact_mut(self.phases.channel).take(count).enumerate() {
            let at = (part * count + c) * pixels;
            let zero_point = call.operands.x_zero_point as i16;
            match call.x {
                Image::U8(x) => write(window, self.lines, &x[at..][..pixels], zero_point, to),
                Image::I8(x) => write(window, self.lines, &x[at..][..pixels], zero_point, to),
            }
        }
        sums.reset(len, "sums of positions")?;
        resize(zeros, positions, "sums of positions")?;
        for j in part % call.groups * outputs..(part % call.groups + 1) * outputs {
            self.factors(j, factors)?;
            let base = call.operands.bias.map_or(0, |bias| bias[j]);
            let runs = WeightedRuns { values: channels, starts: self.starts, factors };
            self.weight.kernel().tile().rows().weighted_sums(base, runs, sums);
            let at = (part / call.groups * self.weight.n() + j) * positions;
            // SAFETY: the output has so many positions for each output channel of each image, as was checked; the caller
            // answers for the rest.
            let destination = unsafe { self.output.destination.part(at, positions, 1, positions) };
            let epilogue = of_channel(&self.output.epilogue, call.operands.x_scale, j);
            self.write(sums, zeros, Output { destination, epilogue });
        }
        Ok(())
    }

    /// Writes the results of an output channel.
    fn write(&self, sums: &mut [i32], zeros: &[i32], mut output: Output<'_>) {
        match (&mut output.destination, output.epilogue) {
            (Destination::I32(to), Epilogue::Sums) => self.each(sums, to.row(0), |sum| sum),
            (Destination::F32(to), Epilogue::Dequantize { scale: Scalar(scale), addend: None, .. }) => {
                self.each(sums, to.row(0), |sum| sum as f32 * scale);
            }
            (
                Destination::F32(to),
                Epilogue::Dequantize { scale: Scalar(scale), addend: Some(Scalar(addend)), .. },
            ) => {
                self.each(sums, to.row(0), |sum| sum as f32 * scale + addend);
            }
            // Rounding takes instructions that not all processors have.
            _ => {
                self.close_gaps(sums);
                let terms = Terms { columns: zeros, weight: WeightTerm::Scalar(0), row_sums: &[0] };
                self.weight.kernel().tile().rows().epilogue(&sums[..zeros.len()], zeros.len(), &terms, output);
            }
        }
    }

    /// Writes what is made of the sums of all positions.
    fn each<T>(&self, sums: &[i32], to: &mut [MaybeUninit<T>], made: impl Fn(i32) -> T) {
        let width = self.call.window.output[2];
        for (line, to) in to.chunks_exact_mut(width).enumerate() {
            for (to, sum) in to.iter_mut().zip(&sums[self.line(line)..][..width]) {
                to.write(made(*sum));
            }
        }
    }

    /// Where the sums of a line begin.
    fn line(&self, line: usize) -> usize {
        let (lines, size) = (self.call.window.output[1], self.phases.size);
        (line / lines * size[1] + line % lines) * size[2]
    }

    /// The weights of an output channel, less their zero point.
    fn factors(&self, j: usize, factors: &mut Vec<i16>) -> Result<(), Error> {
        let zero_point = match self.call.operands.w_zero_point {
            ZeroPoint::None => 0,
            ZeroPoint::Scalar(zero_point) => zero_point,
            ZeroPoint::PerColumn(each) => each[j],
        } as i16;
        let weights = &self.weights[j * self.stride..][..self.starts.len()];
        let weights = weights.iter().map(|&weight| match self.weight.weight_type() {
            WeightType::U8 => i16::from(weight).wrapping_sub(zero_point),
            WeightType::I8 => i16::from(weight.cast_signed()).wrapping_sub(zero_point),
        });
        refill(factors, weights, "weights of an output channel")
    }

    /// Brings the sums of all positions together, at the beginning.
    fn close_gaps(&self, sums: &mut [i32]) {
        let [depth, lines, width] = self.call.window.output;
        for line in 1..depth * lines {
            let from = self.line(line);
            sums.copy_within(from..from + width, line * width);
        }
    }
}

/// The epilogue of one output channel, whose results are a row.
fn of_channel<'a>(epilogue: &Epilogue<'a>, x_scale: Option<f32>, j: usize) -> Epilogue<'a> {
    let of = |values: ScalarOrPerColumn<'_>| match values {
        Scalar(value) => value,
        ScalarOrPerColumn::PerColumn(values) => values[j],
    };
    let scale = |scale| Scalar(x_scale.map_or(of(scale), |factor| factor * of(scale)));
    match *epilogue {
        Epilogue::Sums => Epilogue::Sums,
        Epilogue::Dequantize { scale: all, addend, .. } => Epilogue::Dequantize {
            scale: scale(all),
            addend: addend.map(|addend| Scalar(of(addend))),
            elementwise: Elementwise::default(),
        },
        Epilogue::Requantize { scale: all, zero_point } => Epilogue::Requantize { scale: scale(all), zero_point },
    }
}
