//! Patches of an image as the rows of a multiplication (im2col), gathered when they are packed.
//!
//! The images have their channels last, so that what the kernel sees of one of their lines is one run of bytes. Pixels beside an
//! image are the activation's zero point.

use super::image::{Pixels, Source};
use super::padded::Padded;
use super::window::{DIMS, Window};
use crate::arch::{PIECE_K, Places, RowKernel};
use crate::error::{Error, refill};
use crate::gemm::RowSource;
use std::ops::Range;

/// Some of the places where a kernel is put: a row of activations each.
#[derive(Debug)]
pub struct Patches<'a> {
    pub pixels: Pixels<'a>,
    /// The images with what is beside them, if they are wanted like that.
    pub padded: Option<Padded<'a>>,
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
        let mut gather = Gather { pixels: self.pixels, way: Way::Packed(rows), to, inside: 0, outside: 0 };
        self.patch(Place::new(self.window, self.first + row), &mut gather);
        let missing = (gather.outside * self.pixels.channels) as i32;
        gather.inside.wrapping_add(missing.wrapping_mul(i32::from(self.pixels.outside)))
    }

    fn copy(&self, rows: Range<usize>, to: &mut [u8], stride: usize) {
        // SAFETY: the layout is the same.
        let to = unsafe { &mut *(std::ptr::from_mut(to) as *mut [i8]) };
        let mut place = Place::new(self.window, self.first + rows.start);
        for to in to.chunks_mut(stride).take(rows.len()) {
            self.patch(place, &mut Gather { pixels: self.pixels, way: Way::Bytes, to, inside: 0, outside: 0 });
            place.advance(self.window);
        }
    }

    fn in_pieces(&self, places: &mut Places) -> Result<Option<&[u8]>, Error> {
        let (Some(padded), Source::Given { start, .. }) = (self.padded, self.pixels.source) else { return Ok(None) };
        let (window, channels) = (self.window, self.pixels.channels);
        if !channels.is_multiple_of(PIECE_K) || u32::try_from(padded.bytes.len()).is_err() {
            return Ok(None);
        }
        // None of them is outside of the bytes, which were just seen to be so few.
        let place = |of: usize, at: [usize; DIMS]| {
            let pixel = ((of * padded.size[0] + at[0]) * padded.size[1] + at[1]) * padded.size[2] + at[2];
            (pixel * padded.apart) as u32
        };
        let Places { rows, blocks } = places;
        let mut corner = Place::new(window, self.first);
        let row = |_| {
            let at = place(corner.image, std::array::from_fn(|d| corner.at[d] * window.strides[d]));
            corner.advance(window);
            at + start as u32
        };
        refill(rows, (0..self.count).map(row), "places of rows")?;
        let (kernel, dilations) = (window.kernel, window.dilations);
        let block = |at: usize| {
            let (tap, channel) = (at * PIECE_K / channels, at * PIECE_K % channels);
            let at = Window::place(tap, kernel);
            place(0, std::array::from_fn(|d| at[d] * dilations[d])) + channel as u32
        };
        refill(blocks, (0..window.taps() * channels / PIECE_K).map(block), "places of blocks")?;
        Ok(Some(padded.bytes))
    }
}

impl Patches<'_> {
    /// Gathers what the kernel sees at a place.
    #[inline]
    fn patch(&self, place: Place, gather: &mut Gather<'_, '_>) {
        let Window { image, kernel, strides, dilations, pads, .. } = self.window;
        let start = place.image * self.window.pixels();
        // Where the first pixel under the kernel is; beside the image it is negative.
        let corner: [isize; 3] = std::array::from_fn(|d| (place.at[d] * strides[d]) as isize - pads[d] as isize);
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
    }
}

/// A place where the kernel is put.
#[derive(Clone, Copy)]
struct Place {
    /// Of the batch.
    image: usize,
    /// Pixel of the output.
    at: [usize; DIMS],
}

impl Place {
    /// Number `place` of all places, those of one image behind those of another.
    fn new(window: &Window, place: usize) -> Self {
        let positions = window.positions();
        Self { image: place / positions, at: Window::place(place % positions, window.output) }
    }

    /// The next one: without the divisions, which take as long as to copy a patch.
    fn advance(&mut self, window: &Window) {
        for d in (0..DIMS).rev() {
            self.at[d] += 1;
            if self.at[d] < window.output[d] {
                return;
            }
            self.at[d] = 0;
        }
        self.image += 1;
    }
}

/// The coordinate `offset` behind a corner, if it is in an image of that size.
fn inside(corner: isize, offset: usize, size: usize) -> Option<usize> {
    corner.checked_add_unsigned(offset).and_then(|at| usize::try_from(at).ok()).filter(|&at| at < size)
}

/// How pixels become a row.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// As a kernel packs them.
    Packed(&'a dyn RowKernel),
    /// uint8 as they are, without sums.
    Bytes,
}

/// A row that is filled from its beginning.
struct Gather<'a, 'b> {
    pixels: Pixels<'a>,
    way: Way<'a>,
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
        match (self.pixels.source, self.way) {
            (Source::Operand(data, sums), way) => {
                to.copy_from_slice(&data[first * channels..(first + count) * channels]);
                match way {
                    Way::Packed(_) => {
                        let sums = sums[first..first + count].iter();
                        self.inside = sums.fold(self.inside, |all, sum| all.wrapping_add(*sum));
                    }
                    Way::Bytes => to.iter_mut().for_each(|x| *x ^= i8::MIN),
                }
            }
            (Source::Given { image, start, apart }, way) => {
                // Pixels of all channels are one run.
                let run = if apart == channels { to.len() } else { channels };
                for (pixel, to) in to.chunks_exact_mut(run.max(1)).enumerate() {
                    let at = start + (first + pixel) * apart;
                    match way {
                        Way::Packed(rows) => {
                            self.inside = self.inside.wrapping_add(rows.pack(image.row(at, run), to));
                        }
                        Way::Bytes => to.copy_from_slice(image.bytes(at, run)),
                    }
                }
            }
        }
    }

    /// Takes pixels beside the image.
    #[inline]
    fn beside(&mut self, count: usize) {
        if count > 0 {
            let outside = match self.way {
                Way::Packed(_) => self.pixels.outside,
                Way::Bytes => self.pixels.outside ^ i8::MIN,
            };
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
