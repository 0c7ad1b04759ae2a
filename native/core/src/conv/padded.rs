//! Images with the pixels beside them, so that what a kernel sees of a line lies together in memory wherever it is put.

use super::window::{DIMS, Window};
use crate::aligned::Aligned;
use crate::error::Error;
use crate::parallel::Parallel;

/// Bytes that pixels beside an image may take where the image has fewer.
const FEW: usize = 1 << 16;

/// Bytes of a piece of the work.
const PIECE: usize = 1 << 15;

/// uint8 images, (batch, pixels, channels), each as large as what the kernel sees of it.
#[derive(Debug, Clone, Copy)]
pub struct Padded<'a> {
    pub bytes: &'a [u8],
    /// Of an image.
    pub size: [usize; DIMS],
    /// Bytes from pixel to pixel.
    pub apart: usize,
}

impl<'a> Padded<'a> {
    /// `images` itself where the kernel sees nothing else, or a copy in `memory` with pixels of `zero_point` around; `None` where
    /// those would be more than the images.
    pub fn new(
        images: &'a [u8],
        (batch, apart): (usize, usize),
        window: &Window,
        zero_point: u8,
        memory: &'a mut Aligned<i8>,
        pool: &dyn Parallel,
    ) -> Result<Option<Self>, Error> {
        let size = window.seen();
        if size == window.image {
            return Ok(Some(Self { bytes: images, size, apart }));
        }
        let line = size[2].saturating_mul(apart);
        let lines = [size[0], size[1]].iter().fold(batch, |all, &each| all.saturating_mul(each));
        let len = lines.saturating_mul(line);
        if len > images.len().max(FEW).saturating_mul(2) {
            return Ok(None);
        }
        memory.reset(len, "images with what is beside them")?;
        let to = Lines { at: memory.as_mut_ptr().cast(), len: line };
        let together = (PIECE / line.max(1)).max(1);
        let run = |task: usize| {
            for number in task * together..lines.min((task + 1) * together) {
                // SAFETY: this line is this task's, and the memory has all of them.
                let to = unsafe { to.line(number) };
                match of_image(number, size, window) {
                    None => to.fill(zero_point),
                    Some(from) => {
                        let (before, rest) = to.split_at_mut(window.pads[2] * apart);
                        let (inside, behind) = rest.split_at_mut(window.image[2] * apart);
                        before.fill(zero_point);
                        inside.copy_from_slice(&images[from * inside.len()..][..inside.len()]);
                        behind.fill(zero_point);
                    }
                }
            }
        };
        match lines.div_ceil(together) {
            0 => {}
            1 => run(0),
            tasks => pool.run(tasks, &run),
        }
        // SAFETY: the layout is the same.
        let bytes = unsafe { &*(std::ptr::from_ref(&memory[..len]) as *const [u8]) };
        Ok(Some(Self { bytes, size, apart }))
    }
}

/// The line of the images that line `number` is, if it is not beside them.
fn of_image(number: usize, size: [usize; DIMS], window: &Window) -> Option<usize> {
    let (of, z, y) = (number / size[1] / size[0], number / size[1] % size[0], number % size[1]);
    let inside = |at: usize, d: usize| at.checked_sub(window.pads[d]).filter(|&at| at < window.image[d]);
    let (z, y) = inside(z, 0).zip(inside(y, 1))?;
    Some((of * window.image[0] + z) * window.image[1] + y)
}

/// Lines of bytes that tasks write, each its own.
struct Lines {
    at: *mut u8,
    len: usize,
}

// SAFETY: what is done with the pointer is unsafe by itself.
unsafe impl Sync for Lines {}

impl Lines {
    /// # Safety
    /// There is such a line, and nobody else has it meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the caller answers for it")]
    unsafe fn line(&self, number: usize) -> &mut [u8] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(number * self.len), self.len) }
    }
}
