//! Convolution of images with a compressed weight: patches of the image, a strip of them at a time, as the rows of a multiplication.
//!
//! The weight is (n, k) with k = taps · channels, the channels of a tap beside each other. Where images have their channels first,
//! each gets them last ([`image`]), so that [`patches`] are few runs of bytes; the results of a strip, positions × channels, get
//! theirs first again on their way out. Images with channels last are read, and results written, where they are; a kernel that
//! sees one pixel multiplies all of them at once. Strips bound the memory: it is that of one image and of one strip; of all images
//! where they get the pixels beside them first ([`padded`]).
//! Groups of few output channels are convolved without patches ([`direct`]); and where channels of images and results need no other
//! order, as processors without dot products of bytes are as fast with, patches are [`columns`] instead of rows.

mod columns;
mod direct;
mod factors;
mod image;
mod padded;
mod patches;
mod phases;
mod pieces;
mod window;

pub use image::Image;
pub use window::{Padding, Window};

use crate::aligned::Aligned;
use crate::arch::output::{Destination, Epilogue, Output};
use crate::arch::transposition::{Strided, transpose_bytes, transpose_words};
use crate::arch::workspace::{Staging, Workspace};
use crate::decoder::Bound;
use crate::error::Error;
use crate::gemm::{Activation, MatmulCall, Operands, PreparedWeight, check_columns, check_length};
use crate::parallel::Parallel;
use image::{Pixels, Source, channels_last};
use padded::Padded;
use patches::Patches;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Bytes of the patches of a strip.
const STRIP_BYTES: usize = 1 << 20;
/// Positions of a strip at the least and at the most.
const STRIP_POSITIONS: (usize, usize) = (64, 2048);
/// Channels whose results one task brings to their place.
const CHANNELS: usize = 64;

/// Where images and results have their channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// (batch, channels, pixels).
    ChannelsFirst,
    /// (batch, pixels, channels).
    ChannelsLast,
}

/// What is convolved.
#[derive(Debug, Clone, Copy)]
pub struct ConvCall<'a> {
    /// (batch, channels, pixels) or (batch, pixels, channels), row-major.
    pub x: Image<'a>,
    /// Which of them; the output as well.
    pub order: Order,
    /// Images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Groups of channels, each of which its own output channels see. Where there are several, and those of a group are no whole
    /// strips of tiles, images have their channels first, and no products saturate.
    pub groups: usize,
    /// How the kernel goes over each.
    pub window: Window,
    /// What else goes into the sums; pixels beside an image are its `x_zero_point`.
    pub operands: Operands<'a>,
}

impl ConvCall<'_> {
    /// Checks every length that a convolution relies on.
    fn validate(&self, (k, n): (usize, usize), output: &Output<'_>) -> Result<(), Error> {
        let product = |all: &[usize]| all.iter().try_fold(1_usize, |product, &each| product.checked_mul(each));
        if self.groups == 0 || !self.channels.is_multiple_of(self.groups) || !n.is_multiple_of(self.groups) {
            let text = format!("{} groups of {} channels and {n} outputs", self.groups, self.channels);
            return Err(Error::Convolution(text));
        }
        let lengths = [
            ("x1", product(&[self.batch, self.channels, self.window.pixels()]), self.x.len()),
            ("the kernel", product(&[self.channels / self.groups, self.window.taps()]), k),
            ("the output", product(&[self.batch, n, self.window.positions()]), output.destination.len()),
        ];
        for (what, expected, found) in lengths {
            check_length(what, expected, found)?;
        }
        check_columns(n, &self.operands, output)?;
        if matches!(output.destination, Destination::F16(_)) {
            return Err(Error::Output { destination: "fp16", results: "results of a convolution" });
        }
        Ok(())
    }

    /// Positions of a strip whose rows are `k` long.
    fn strip(&self, k: usize) -> usize {
        (STRIP_BYTES / k).clamp(STRIP_POSITIONS.0, STRIP_POSITIONS.1)
    }
}

impl Bound<'_, PreparedWeight> {
    /// Convolves; the output is (batch, n, positions), or with channels last (batch, positions, n). It is memory-safe whatever the
    /// weight's bytes are by now, and gives an error where they do not decode.
    pub fn convolve(&self, call: &ConvCall<'_>, output: Output<'_>, pool: &dyn Parallel) -> Result<(), Error> {
        call.validate((self.k(), self.n()), &output)?;
        if output.destination.is_empty() {
            return Ok(());
        }
        if call.groups > 1 && !self.has_whole_strips(self.n() / call.groups) {
            return self.convolve_directly(call, &output, pool);
        }
        if let Some(rows) = self.as_multiplication(call) {
            return self.run(&rows, output, pool);
        }
        if self.convolves_columns(call, &output) {
            return self.convolve_columns(call, &output, pool);
        }
        match call.order {
            Order::ChannelsFirst => self.convolve_first(call, &output, pool),
            Order::ChannelsLast => self.convolve_last(call, &output, pool),
        }
    }

    /// The multiplication that a convolution is whose kernel sees one pixel, where pixels are multiplied where they are.
    fn as_multiplication<'a>(&self, call: &ConvCall<'a>) -> Option<MatmulCall<'a>> {
        let Image::U8(pixels) = call.x else { return None };
        let one = call.order == Order::ChannelsLast && call.groups == 1 && call.window.sees_one_pixel();
        (one && self.multiplies_in_place(call.x.shift())).then(|| MatmulCall {
            x: Activation::U8(pixels),
            m: call.batch * call.window.positions(),
            operands: call.operands,
            heads: None,
        })
    }

    /// Convolves images with channels last: all of them are rows of one multiplication for each group.
    fn convolve_last(&self, call: &ConvCall<'_>, output: &Output<'_>, pool: &dyn Parallel) -> Result<(), Error> {
        Workspace::with_staging(|staging| {
            let padded = self.padded((call, call.x), (call.batch, call.channels), &mut staging.padded, pool)?;
            self.convolve_pixels(call, padded, output, pool)
        })
    }

    /// Images of bytes with what is beside them, where such are multiplied where they are; `apart` is that of pixels.
    fn padded<'a>(
        &self,
        (call, images): (&ConvCall<'_>, Image<'a>),
        (batch, apart): (usize, usize),
        memory: &'a mut Aligned<i8>,
        pool: &dyn Parallel,
    ) -> Result<Option<Padded<'a>>, Error> {
        let x_zero_point = call.operands.x_zero_point;
        match images {
            Image::U8(images) if self.is_decoded() && self.multiplies_bytes(call.x.shift()) => {
                Padded::new(images, (batch, apart), &call.window, x_zero_point as u8, memory, pool)
            }
            _ => Ok(None),
        }
    }

    /// As [`Self::convolve_last`], once it is known how pixels come to be multiplied.
    fn convolve_pixels(
        &self,
        call: &ConvCall<'_>,
        padded: Option<Padded<'_>>,
        output: &Output<'_>,
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        let (channels, n) = (call.channels / call.groups, self.n() / call.groups);
        let (positions, strip) = (call.batch * call.window.positions(), call.strip(self.k()));
        for group in 0..call.groups {
            let columns = group * n..(group + 1) * n;
            let pixels = Pixels {
                source: Source::Given { image: call.x, start: group * channels, apart: call.channels },
                channels,
                outside: call.x.outside(call.operands.x_zero_point),
                shift: call.x.shift(),
            };
            for first in (0..positions).step_by(strip) {
                let count = strip.min(positions - first);
                let patches = Patches { pixels, padded, window: &call.window, first, count };
                // SAFETY: `validate` has seen that the output has self.n() columns of each position; this call has it to itself.
                let to = unsafe { output.destination.part(first * self.n() + columns.start, self.n(), count, n) };
                self.strip(
                    call,
                    &patches,
                    columns.clone(),
                    Output { destination: to, epilogue: output.epilogue },
                    pool,
                )?;
            }
        }
        Ok(())
    }

    /// Multiplies the patches of a strip with some columns of the weight; the epilogue is that of all columns.
    fn strip(
        &self,
        call: &ConvCall<'_>,
        patches: &Patches<'_>,
        columns: Range<usize>,
        Output { destination, epilogue }: Output<'_>,
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        let epilogue = epilogue.part(epilogue.scale(), columns.start, columns.len(), 0);
        let matmul = MatmulCall {
            x: Activation::Rows(patches),
            m: patches.count,
            operands: call.operands.columns(columns.clone()),
            heads: None,
        };
        self.run_columns(columns, &matmul, Output { destination, epilogue }, pool)
    }

    /// Convolves images with channels first.
    fn convolve_first(&self, call: &ConvCall<'_>, output: &Output<'_>, pool: &dyn Parallel) -> Result<(), Error> {
        Workspace::with_staging(|staging| {
            let Staging { pixels, padded, sums, results, .. } = staging;
            let shape = (call.window.pixels(), call.channels / call.groups);
            let bytes = self.multiplies_bytes(call.x.shift());
            let form = (call.operands.x_zero_point, bytes);
            for part in 0..call.batch * call.groups {
                let image = (call.x, part * shape.0 * shape.1);
                let pixels = channels_last(image, shape, form, (&mut *pixels, &mut *sums), pool)?;
                let padded = match pixels.source {
                    Source::Given { image, .. } => self.padded((call, image), (1, shape.1), &mut *padded, pool)?,
                    Source::Operand(..) => None,
                };
                self.group(call, (pixels, padded), part, (output, &mut *results), pool)?;
            }
            Ok(())
        })
    }

    /// Convolves one group of one image; `part` counts those of all images.
    fn group(
        &self,
        call: &ConvCall<'_>,
        (pixels, padded): (Pixels<'_>, Option<Padded<'_>>),
        part: usize,
        (output, results): (&Output<'_>, &mut Aligned<u32>),
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        let (n, positions) = (self.n() / call.groups, call.window.positions());
        let start = part % call.groups * n;
        let columns = start..start + n;
        let strip = call.strip(self.k());
        for first in (0..positions).step_by(strip) {
            let count = strip.min(positions - first);
            let patches = Patches { pixels, padded, window: &call.window, first, count };
            let len = count.saturating_mul(n);
            results.reset(len, "results of a strip")?;
            let strip = in_memory(results, len, (&output.destination, output.epilogue));
            self.strip(call, &patches, columns.clone(), strip, pool)?;
            // SAFETY: `validate` has seen that the output has n rows of `positions` for each part; this call has it to itself.
            let to = unsafe { output.destination.part(part * n * positions + first, positions, n, count) };
            channels_first(results, to, pool);
        }
        Ok(())
    }
}

/// The results of a strip, (positions, n), as an output of their own, of the type that they have in `destination`.
fn in_memory<'a>(
    results: &'a mut [u32],
    len: usize,
    (destination, epilogue): (&Destination<'_>, Epilogue<'a>),
) -> Output<'a> {
    fn of<T>(results: &mut [u32], len: usize) -> &mut [MaybeUninit<T>] {
        assert!(size_of::<T>() <= size_of::<u32>() && len <= results.len());
        // SAFETY: there is room for `len` of them, aligned for words; anything may be written to it.
        unsafe { std::slice::from_raw_parts_mut(results.as_mut_ptr().cast(), len) }
    }
    match destination {
        Destination::I32(_) => Output::new(of::<i32>(results, len), epilogue),
        Destination::F32(_) => Output::new(of::<f32>(results, len), epilogue),
        Destination::F16(_) => Output::new(of::<u16>(results, len), epilogue),
        Destination::U8(_) => Output::new(of::<u8>(results, len), epilogue),
        Destination::I8(_) => Output::new(of::<i8>(results, len), epilogue),
    }
}

/// Where results go, as words or bytes.
#[derive(Clone, Copy)]
enum Target {
    Words(Strided<*mut MaybeUninit<u32>>),
    Bytes(Strided<*mut MaybeUninit<u8>>),
}

// SAFETY: a pointer; writing to it is unsafe by itself.
unsafe impl Sync for Target {}

/// Writes the results of a strip, (positions, n), to the rows of an output, (n, positions).
fn channels_first(results: &[u32], mut to: Destination<'_>, pool: &dyn Parallel) {
    let (n, count, target) = match &mut to {
        Destination::I32(to) => (to.rows(), to.columns(), Target::words(to.as_mut_ptr(), to.stride())),
        Destination::F32(to) => (to.rows(), to.columns(), Target::words(to.as_mut_ptr(), to.stride())),
        Destination::U8(to) => (to.rows(), to.columns(), Target::bytes(to.as_mut_ptr(), to.stride())),
        Destination::I8(to) => (to.rows(), to.columns(), Target::bytes(to.as_mut_ptr(), to.stride())),
        Destination::F16(_) => unreachable!("`validate` was asked before"),
    };
    let run = |task: usize| {
        let (j, columns) = (task * CHANNELS, CHANNELS.min(n - task * CHANNELS));
        // SAFETY: rows j and behind of the output are this task's; results has n of each of `count` positions.
        unsafe {
            match target {
                Target::Words(to) => {
                    let from = Strided { at: results.as_ptr().add(j), stride: n };
                    transpose_words(from, (count, columns), Strided { at: to.at.add(j * to.stride), ..to });
                }
                Target::Bytes(to) => {
                    let from = Strided { at: results.as_ptr().cast::<u8>().add(j), stride: n };
                    transpose_bytes(from, (count, columns), Strided { at: to.at.add(j * to.stride), ..to }, 0);
                }
            }
        }
    };
    match n.div_ceil(CHANNELS) {
        1 => run(0),
        tasks => pool.run(tasks, &run),
    }
}

impl Target {
    fn words<T>(at: *mut T, stride: usize) -> Self {
        const { assert!(size_of::<T>() == 4) };
        Self::Words(Strided { at: at.cast(), stride })
    }

    fn bytes<T>(at: *mut T, stride: usize) -> Self {
        const { assert!(size_of::<T>() == 1) };
        Self::Bytes(Strided { at: at.cast(), stride })
    }
}
