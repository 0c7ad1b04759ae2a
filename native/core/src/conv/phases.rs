//! A channel of an image as runs: with what is beside it, and one *phase* behind the other, of the pixels that a stride goes over.

use super::window::{DIMS, Window};
use crate::error::{Error, refill};

/// Pixels that a channel may have with what is beside it: so many, or so many times its own.
const FEW: usize = 1 << 22;
const TIMES: usize = 16;

/// How the pixels of a channel lie.
#[derive(Clone, Copy)]
pub struct Phases {
    /// Pixels of a phase.
    pub size: [usize; DIMS],
    /// How many there are in each dimension.
    count: [usize; DIMS],
    /// Pixels of a channel.
    pub channel: usize,
}

impl Phases {
    pub fn new(window: &Window) -> Result<Self, Error> {
        let seen = window.seen();
        let size = std::array::from_fn(|d| seen[d].div_ceil(window.strides[d]));
        let count = std::array::from_fn(|d| seen[d].min(window.strides[d]));
        let all = size.iter().chain(&count).try_fold(1_usize, |all, &each| all.checked_mul(each));
        let most = window.pixels().saturating_mul(TIMES).max(FEW);
        let channel = all.filter(|&all| all <= most).ok_or_else(|| {
            let [pixels, most] = [window.pixels(), most];
            Error::Convolution(format!(
                "groups of few output channels whose kernel sees more than {most} pixels beside {pixels}"
            ))
        })?;
        Ok(Self { size, count, channel })
    }

    /// Whether a channel is as the image has it.
    pub fn are_the_image(&self, window: &Window) -> bool {
        self.count == [1; DIMS] && self.size == window.image && window.pads == [0; DIMS]
    }

    /// Where a pixel lies; they are counted from the first that the kernel sees, beside the image or in it.
    fn place(&self, window: &Window, pixel: [usize; DIMS]) -> usize {
        let (mut phase, mut place) = (0, 0);
        for (d, (at, stride)) in pixel.into_iter().zip(window.strides).enumerate() {
            phase = phase * self.count[d] + at % stride;
            place = place * self.size[d] + at / stride;
        }
        phase * self.size.iter().product::<usize>() + place
    }

    /// Where the runs of all weights of an output channel begin, the channels of a tap beside each other; and where those of an
    /// image's lines do.
    pub fn runs(
        &self,
        window: &Window,
        channels: usize,
        starts: &mut Vec<usize>,
        lines: &mut Vec<usize>,
    ) -> Result<(), Error> {
        let weights = 0..window.taps() * channels;
        let places = weights.map(|at| self.tap(window, at / channels) + at % channels * self.channel);
        refill(starts, places, "places of taps")?;
        refill(lines, self.lines(window), "places of lines")
    }

    /// Where the pixel lies that a tap meets at the first position.
    fn tap(&self, window: &Window, tap: usize) -> usize {
        let at = Window::place(tap, window.kernel);
        self.place(window, std::array::from_fn(|d| at[d] * window.dilations[d]))
    }

    /// Where the pixels of an image's lines lie: the first of each phase that a line has.
    fn lines(&self, window: &Window) -> impl ExactSizeIterator<Item = usize> {
        let ([depth, lines, width], pads) = (window.image, window.pads);
        let of_a_line = window.strides[2].min(width);
        (0..depth * lines * of_a_line).map(move |at| {
            let (line, first) = (at / of_a_line, at % of_a_line);
            self.place(window, [pads[0] + line / lines, pads[1] + line % lines, pads[2] + first])
        })
    }
}

/// Writes a channel of an image where its lines belong, as numbers that are `made` of its pixels. What is beside it stays.
pub fn write<T: Copy, U>(window: &Window, lines: &[usize], pixels: &[T], made: impl Fn(T) -> U, to: &mut [U]) {
    let (width, stride) = (window.image[2].max(1), window.strides[2]);
    for (line, places) in pixels.chunks_exact(width).zip(lines.chunks_exact(stride.min(width))) {
        for (first, &at) in places.iter().enumerate() {
            let each = |(to, from): (&mut U, &T)| *to = made(*from);
            match stride {
                1 => to[at..].iter_mut().zip(line).for_each(each),
                _ => to[at..].iter_mut().zip(line[first..].iter().step_by(stride)).for_each(each),
            }
        }
    }
}
