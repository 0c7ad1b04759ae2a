//! Images as a model has them, and those with their channels first as patches are gathered from them, channels last.

use crate::aligned::Aligned;
use crate::arch::rows::ActivationRow;
use crate::arch::transposition::{Strided, transpose_bytes};
use crate::error::{Error, resize};
use crate::parallel::Parallel;
use crate::shared::Shared;

/// Images of bytes, (batch, channels, pixels) or (batch, pixels, channels).
#[derive(Debug, Clone, Copy)]
pub enum Image<'a> {
    /// uint8.
    U8(&'a [u8]),
    /// int8.
    I8(&'a [i8]),
}

impl<'a> Image<'a> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(x) => x.len(),
            Self::I8(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the kernels' operand falls short of the activation by.
    pub(super) fn shift(&self) -> i32 {
        match self {
            Self::U8(_) => 128,
            Self::I8(_) => 0,
        }
    }

    /// Some elements as a part of a row of activations.
    pub(super) fn row(&self, at: usize, len: usize) -> ActivationRow<'a> {
        match self {
            Self::U8(x) => ActivationRow::U8(&x[at..][..len]),
            Self::I8(x) => ActivationRow::I8(&x[at..][..len]),
        }
    }

    /// Some elements as bytes.
    pub(super) fn bytes(&self, at: usize, len: usize) -> &'a [i8] {
        match self {
            // SAFETY: the layout is the same.
            Self::U8(x) => unsafe { &*(std::ptr::from_ref(&x[at..][..len]) as *const [i8]) },
            Self::I8(x) => &x[at..][..len],
        }
    }

    /// A pixel beside an image, of a zero point, as the kernels' operand has it.
    pub(super) fn outside(&self, zero_point: i32) -> i8 {
        zero_point.wrapping_sub(self.shift()) as i8
    }

    /// The bytes of some elements, and what makes them those of the kernels' operand by an exclusive or.
    fn part(&self, at: usize, len: usize) -> (&'a [u8], u8) {
        match self {
            Self::U8(x) => (&x[at..][..len], 0x80),
            Self::I8(x) => {
                let part = &x[at..][..len];
                // SAFETY: the same elements, as bytes.
                (unsafe { std::slice::from_raw_parts(part.as_ptr().cast(), len) }, 0)
            }
        }
    }
}

/// Images with channels last, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a> {
    pub source: Source<'a>,
    /// Channels.
    pub channels: usize,
    /// What pixels beside the image have in all channels, as the kernels take it.
    pub outside: i8,
    /// What the kernels' operand falls short of the activation by.
    pub shift: i32,
}

/// Where pixels are.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// As the kernels take activations: (pixels, channels), and Σ of each pixel's channels.
    Operand(&'a [i8], &'a [i32]),
    /// As they were given; the channels are those from `start` on of so many as `apart` says.
    Given { image: Image<'a>, start: usize, apart: usize },
}

/// Bytes of a piece of the work.
const PIECE: usize = 1 << 15;

/// Pixels of a piece at the least: those that are transposed in registers.
const PIXELS: usize = 16;

/// Brings the channels of `pixels` pixels, the elements from `at` on, to their last place. `bytes`: the pixels, which are uint8,
/// stay as they are; else they become the kernels' operand, with sums.
pub(super) fn channels_last<'a>(
    (image, at): (Image<'_>, usize),
    (pixels, channels): (usize, usize),
    (zero_point, bytes): (i32, bool),
    (data, sums): (&'a mut Aligned<i8>, &'a mut Vec<i32>),
    pool: &dyn Parallel,
) -> Result<Pixels<'a>, Error> {
    let len = pixels.saturating_mul(channels);
    data.reset(len, "an image with channels last")?;
    resize(sums, pixels, "sums of pixels")?;
    let (from, flip) = image.part(at, len);
    let flip = if bytes { 0 } else { flip };
    let piece = (PIECE / channels.max(1)).next_multiple_of(PIXELS);
    let (to, sums_to) = (Shared::new(&mut data[..len]), Shared::new(&mut sums[..pixels]));
    let run = |task: usize| {
        let (first, count) = (task * piece, piece.min(pixels - task * piece));
        // SAFETY: the pixels of this task, which no other has; both have as many as the image.
        let (part, sums) = unsafe { (to.part(first * channels, count * channels), sums_to.part(first, count)) };
        // SAFETY: of each channel, whose pixels are one row, these columns exist; `part` has room for them.
        unsafe {
            let from = Strided { at: from.as_ptr().add(first), stride: pixels };
            let to = Strided { at: part.as_mut_ptr().cast(), stride: channels };
            transpose_bytes(from, (channels, count), to, flip);
        }
        if bytes {
            return;
        }
        for (sum, pixel) in sums.iter_mut().zip(part.chunks_exact(channels)) {
            // Bytes without sign are added up by one instruction.
            let biased = pixel.iter().fold(0_u32, |all, &v| all.wrapping_add(u32::from(v.cast_unsigned() ^ 0x80)));
            *sum = biased.wrapping_sub((channels as u32).wrapping_mul(128)).cast_signed();
        }
    };
    match pixels.div_ceil(piece) {
        _ if channels == 0 => {}
        1 => run(0),
        tasks => pool.run(tasks, &run),
    }
    let source = if bytes {
        // SAFETY: the layout is the same.
        let image = Image::U8(unsafe { &*(std::ptr::from_ref(&data[..len]) as *const [u8]) });
        Source::Given { image, start: 0, apart: channels }
    } else {
        Source::Operand(&data[..], &sums[..pixels])
    };
    Ok(Pixels { source, channels, outside: image.outside(zero_point), shift: image.shift() })
}
