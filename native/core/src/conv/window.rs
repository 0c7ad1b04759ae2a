//! Where a convolution's kernel looks: its size, steps and padding over an image of up to three dimensions, checked.

use crate::error::Error;

/// Dimensions of an image at the most; one that has fewer has 1 in front.
pub const DIMS: usize = 3;

/// What stands around the image.
#[derive(Debug, Clone, Copy)]
pub enum Padding<'a> {
    /// So many pixels, at the beginning of each dimension and at its end.
    Explicit(&'a [usize], &'a [usize]),
    /// As many as let the output have one pixel for each stride; an odd one at the end.
    SameUpper,
    /// The same, an odd one at the beginning.
    SameLower,
}

/// The way of a kernel over an image. Neither its sizes nor any place that it looks at can wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Of an image, and of the output.
    pub(super) image: [usize; DIMS],
    pub(super) output: [usize; DIMS],
    pub(super) kernel: [usize; DIMS],
    pub(super) strides: [usize; DIMS],
    pub(super) dilations: [usize; DIMS],
    /// In front of the image.
    pub(super) pads: [usize; DIMS],
}

impl Window {
    /// Of a kernel over an image with as many dimensions, one to three.
    ///
    /// # Panics
    /// If strides, dilations or explicit pads are not as many as the dimensions.
    pub fn new(
        image: &[usize],
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
        padding: Padding<'_>,
    ) -> Result<Self, Error> {
        let rank = kernel.len();
        if image.len() != rank || !(1..=DIMS).contains(&rank) {
            return Err(refused(format!("a kernel of {rank} dimensions over an image of {}", image.len())));
        }
        let ones = [1; DIMS];
        let mut window =
            Self { image: ones, output: ones, kernel: ones, strides: ones, dilations: ones, pads: [0; DIMS] };
        for (i, d) in (DIMS - rank..DIMS).enumerate() {
            (window.image[d], window.kernel[d]) = (image[i], kernel[i]);
            (window.strides[d], window.dilations[d]) = (strides[i], dilations[i]);
            let side = Side { size: image[i], kernel: kernel[i], stride: strides[i], dilation: dilations[i] };
            let (begin, output) = side.placed(padding, i)?;
            (window.pads[d], window.output[d]) = (begin, output);
        }
        let countable =
            |dims: [usize; DIMS]| dims.iter().try_fold(1_usize, |all, &dim| all.checked_mul(dim)).is_some();
        if !countable(window.image) || !countable(window.output) || !countable(window.kernel) {
            return Err(refused("more pixels than can be counted".into()));
        }
        Ok(window)
    }

    /// Where number `at` of all places of some dimensions is.
    pub(super) fn place(at: usize, dims: [usize; DIMS]) -> [usize; DIMS] {
        [at / dims[2] / dims[1], at / dims[2] % dims[1], at % dims[2]]
    }

    /// Pixels of an image.
    pub fn pixels(&self) -> usize {
        self.image.iter().product()
    }

    /// Places where the kernel is put: pixels of the output.
    pub fn positions(&self) -> usize {
        self.output.iter().product()
    }

    /// The size of an image with all that the kernel sees beside it.
    pub(super) fn seen(&self) -> [usize; DIMS] {
        std::array::from_fn(|d| {
            let reach = (self.kernel[d] - 1) * self.dilations[d] + 1;
            let seen = self.output[d].checked_sub(1).map_or(0, |last| last * self.strides[d] + reach);
            seen.max(self.pads[d] + self.image[d])
        })
    }

    /// Whether all positions are the image's pixels, in their order, and the kernel sees nothing else of it.
    pub(super) fn sees_one_pixel(&self) -> bool {
        self.taps() == 1 && self.pads == [0; DIMS] && self.output == self.image
    }

    /// Pixels under the kernel.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// The output's dimensions, as many as the image has of its `rank`.
    pub fn output(&self, rank: usize) -> &[usize] {
        &self.output[DIMS - rank..]
    }
}

fn refused(reason: String) -> Error {
    Error::Convolution(reason)
}

/// One dimension.
struct Side {
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
}

impl Side {
    /// Pixels in front of the image, and the size of the output, in dimension `i`.
    fn placed(&self, padding: Padding<'_>, i: usize) -> Result<(usize, usize), Error> {
        let Self { size, kernel, stride, dilation } = *self;
        if kernel == 0 || stride == 0 || dilation == 0 {
            let what = format!("kernel {kernel}, stride {stride}, dilation {dilation}");
            return Err(refused(format!("{what} in dimension {i}: each must be 1 or more")));
        }
        let reach = (kernel - 1).checked_mul(dilation).and_then(|reach| reach.checked_add(1));
        let reach = reach.filter(|&reach| isize::try_from(reach).is_ok());
        let reach =
            reach.ok_or_else(|| refused(format!("a kernel in dimension {i} whose reach cannot be counted")))?;
        let (begin, end) = match padding {
            Padding::Explicit(begin, end) => (begin[i], end[i]),
            // No stride has a pixel then, and onnxruntime refuses it as well.
            Padding::SameUpper | Padding::SameLower if size == 0 => {
                return Err(refused(format!("an image of 0 in dimension {i}")));
            }
            Padding::SameUpper | Padding::SameLower => {
                let steps = size.div_ceil(stride).saturating_sub(1);
                // At most one stride more than the image.
                let all = steps.saturating_mul(stride).saturating_add(reach).saturating_sub(size);
                let smaller = all / 2;
                if matches!(padding, Padding::SameUpper) {
                    (smaller, all - smaller)
                } else {
                    (all - smaller, smaller)
                }
            }
        };
        let padded = size.checked_add(begin).and_then(|padded| padded.checked_add(end));
        let padded = padded.filter(|&padded| isize::try_from(padded).is_ok());
        let Some(free) = padded.and_then(|padded| padded.checked_sub(reach)) else {
            let image = format!("an image of {size} with {begin} and {end} beside it");
            return Err(refused(format!("{image} in dimension {i}, where the kernel reaches over {reach}")));
        };
        Ok((begin, free / stride + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(
        size: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pads: (usize, usize),
    ) -> Result<Window, Error> {
        Window::new(&[size], &[kernel], &[stride], &[dilation], Padding::Explicit(&[pads.0], &[pads.1]))
    }

    #[test]
    fn outputs_have_a_pixel_for_each_place() {
        for (size, kernel, stride, dilation, pads, expected) in [
            (10, 3, 1, 1, (0, 0), 8),
            (10, 3, 2, 1, (1, 1), 5),
            (10, 3, 1, 4, (0, 0), 2),
            (1, 1, 5, 9, (0, 0), 1),
            (0, 3, 1, 1, (2, 1), 1),
        ] {
            assert_eq!(explicit(size, kernel, stride, dilation, pads).unwrap().positions(), expected);
        }
    }

    #[test]
    fn same_padding_gives_a_pixel_for_each_stride() {
        for (padding, begin) in [(Padding::SameUpper, 1), (Padding::SameLower, 2)] {
            let window = Window::new(&[7, 10], &[4, 4], &[2, 1], &[1, 1], padding).unwrap();
            assert_eq!((window.output(2), window.pads), (&[4, 10][..], [0, begin, begin]));
        }
        let strided = Window::new(&[10], &[1], &[4], &[1], Padding::SameUpper).unwrap();
        assert_eq!((strided.positions(), strided.pads[2]), (3, 0));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let huge = usize::MAX;
        for (size, kernel, stride, dilation, pads) in [
            (10, 0, 1, 1, (0, 0)),
            (10, 3, 0, 1, (0, 0)),
            (10, 3, 1, 0, (0, 0)),
            (10, 11, 1, 1, (0, 0)),
            (10, 3, 1, huge, (0, 0)),
            (10, 3, 1, huge / 2, (0, 0)),
            (10, huge, 1, huge, (0, 0)),
            (10, 3, 1, 1, (huge, 0)),
            (10, 3, 1, 1, (huge / 2, huge / 2)),
        ] {
            let found = explicit(size, kernel, stride, dilation, pads);
            assert!(matches!(found, Err(Error::Convolution(_))), "{found:?}");
        }
        let many = Padding::Explicit(&[1 << 40; 2], &[0; 2]);
        assert!(Window::new(&[1, 1], &[1, 1], &[1, 1], &[1, 1], many).is_err());
        assert!(Window::new(&[1], &[1, 1], &[1, 1], &[1, 1], Padding::SameUpper).is_err());
        assert!(Window::new(&[], &[], &[], &[], Padding::SameUpper).is_err());
        for padding in [Padding::SameUpper, Padding::SameLower] {
            assert!(Window::new(&[0], &[3], &[2], &[1], padding).is_err());
        }
    }
}
