//! Patches of an image as the rows of a multiplication (im2col), gathered when they are packed.
//!
//! The images have their channels last, so that what the kernel sees of one of their lines is one run of bytes. Pixels beside an
//! image are the activation's zero point.

use super::image::{Pixels, Source};
use super::window::Window;
use crate::arch::RowKernel;
use crate::gemm::RowSource;

/// Some of the places where a kernel is put: a row of activations each.
#[derive(Debug)]
pub struct Patches<'a> {
    pub pixels: Pixels<'a>,
    pub window: &'a Window,
    /// The first place; those of the second image are behind those of the first.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl RowSource for Patches<'_> {
    fn elements(&self) -> usize {
        self.count * self.window.taps() * self.pixels.channels
    }

    fn shift(&self) -> i32 {
        self.pixels.shift
    }

    fn pack(&self, rows: &dyn RowKernel, row: usize, to: &mut [i8]) -> i32 {
        let Window { image, output, kernel, strides, dilations, pads } = self.window;
        let positions = self.window.positions();
        let (of, position) = ((self.first + row) / positions, (self.first + row) % positions);
        let start = of * self.window.pixels();
        let at = [position / output[2] / output[1], position / output[2] % output[1], position % output[2]];
        // Where the first pixel under the kernel is; beside the image it is negative.
        let corner: [isize; 3] = std::array::from_fn(|d| (at[d] * strides[d]) as isize - pads[d] as isize);
        let mut gather = Gather { pixels: self.pixels, rows, to, inside: 0, outside: 0 };
        for z in 0..kernel[0] {
            let line_z = inside(corner[0], z * dilations[0], image[0]);
            for y in 0..kernel[1] {
                let line_y = inside(corner[1], y * dilations[1], image[1]);
                match line_z.zip(line_y) {
                    Some((z, y)) => {
                        let line = start + (z * image[1] + y) * image[2];
                        gather.line(line, image[2], corner[2], kernel[2], dilations[2]);
                    }
                    None => gather.beside(kernel[2]),
                }
            }
        }
        let missing = (gather.outside * self.pixels.channels) as i32;
        gather.inside.wrapping_add(missing.wrapping_mul(i32::from(self.pixels.outside)))
    }
}

/// The coordinate `offset` behind a corner, if it is in an image of that size.
fn inside(corner: isize, offset: usize, size: usize) -> Option<usize> {
    corner.checked_add_unsigned(offset).and_then(|at| usize::try_from(at).ok()).filter(|&at| at < size)
}

/// A row that is filled from its beginning.
struct Gather<'a, 'b> {
    pixels: Pixels<'a>,
    rows: &'a dyn RowKernel,
    to: &'b mut [i8],
    /// Sum of the pixels that were there.
    inside: i32,
    /// How many were not.
    outside: usize,
}

impl<'b> Gather<'_, 'b> {
    /// Takes `count` pixels, `dilation` apart, of the line of `width` that begins at pixel `start`; the first at `x`.
    #[inline]
    fn line(&mut self, start: usize, width: usize, x: isize, count: usize, dilation: usize) {
        if dilation == 1 {
            // Those in front of the line, those in it, those behind it.
            let before = x.min(0).unsigned_abs().min(count);
            let behind = x.saturating_add_unsigned(count).saturating_sub_unsigned(width).max(0).unsigned_abs();
            let behind = behind.min(count - before);
            self.beside(before);
            let run = count - before - behind;
            if run > 0 {
                self.run(start + x.max(0).unsigned_abs(), run);
            }
            self.beside(behind);
            return;
        }
        for i in 0..count {
            match inside(x, i * dilation, width) {
                Some(x) => self.run(start + x, 1),
                None => self.beside(1),
            }
        }
    }

    /// Takes pixels that are beside each other.
    #[inline]
    fn run(&mut self, first: usize, count: usize) {
        let channels = self.pixels.channels;
        let to = self.next(count * channels);
        match self.pixels.source {
            Source::Operand(data, sums) => {
                to.copy_from_slice(&data[first * channels..(first + count) * channels]);
                self.inside = sums[first..first + count].iter().fold(self.inside, |all, sum| all.wrapping_add(*sum));
            }
            Source::Given { image, start, apart } => {
                // Pixels of all channels are one run.
                let run = if apart == channels { to.len() } else { channels };
                for (pixel, to) in to.chunks_exact_mut(run.max(1)).enumerate() {
                    let from = image.row(start + (first + pixel) * apart, run);
                    self.inside = self.inside.wrapping_add(self.rows.pack(from, to));
                }
            }
        }
    }

    /// Takes pixels beside the image.
    #[inline]
    fn beside(&mut self, count: usize) {
        if count > 0 {
            let outside = self.pixels.outside;
            self.next(count * self.pixels.channels).fill(outside);
            self.outside += count;
        }
    }

    /// Room for what comes next.
    fn next(&mut self, len: usize) -> &'b mut [i8] {
        let (next, rest) = std::mem::take(&mut self.to).split_at_mut(len);
        self.to = rest;
        next
    }
}
