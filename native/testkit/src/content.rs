//! What weights may look like.

use crate::Rng;

/// A kind of content.
#[derive(Debug, Clone, Copy)]
pub enum Content {
    /// A sum of uniform bytes: bell shaped.
    Bell(i32),
    /// Any bytes: nothing to compress.
    Noise,
    /// One byte.
    Constant,
    /// Bell shaped with whole rows along k that are extreme: groups with more than 57 continued lanes.
    ExtremeRows,
    /// Two bytes, one of them seldom.
    TwoValues,
    /// Blocks of 64 rows after one another: constant, noise, and twice bell shaped.
    Mixed,
}

impl Content {
    /// The bytes of a weight (n, k).
    pub fn weight(self, n: usize, k: usize, rng: &mut Rng) -> Vec<u8> {
        (0..n * k).map(|at| self.byte(at / k, at % k, rng)).collect()
    }

    fn byte(self, row: usize, column: usize, rng: &mut Rng) -> u8 {
        let bell = |rng: &mut Rng, width: i32| {
            let sum: i32 = (0..4).map(|_| i32::from(rng.byte()) - 128).sum();
            (sum * width / 128).clamp(-128, 127) as u8
        };
        match self {
            Self::Bell(width) => bell(rng, width),
            Self::Noise => rng.byte(),
            Self::Constant => 0x91,
            Self::ExtremeRows if column % 64 < 8 => 100 + rng.byte() % 20,
            Self::ExtremeRows => bell(rng, 5),
            Self::TwoValues => [3, 250][usize::from(rng.byte() < 20)],
            Self::Mixed => match row / 64 % 4 {
                0 => Self::Constant.byte(row, column, rng),
                1 => rng.byte(),
                _ => bell(rng, 10),
            },
        }
    }
}

/// Bytes as trained weights have them: sums of twelve uniform values, of standard deviation 12.
pub fn bell(count: usize, rng: &mut Rng) -> Vec<u8> {
    (0..count).map(|_| ((0..12).map(|_| rng.unit()).sum::<f64>() * 12.0 - 72.0).round() as i8 as u8).collect()
}
