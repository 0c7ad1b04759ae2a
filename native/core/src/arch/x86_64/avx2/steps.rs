//! How many groups of a block can be multiplied at once: their products fit 16 bits, whatever the activations.
//!
//! `vpmaddubsw` gives the products of two neighbours along k in 16 bits. Where several such pairs are added before they are
//! widened, nothing is lost as long as the sum fits. Activations are 0 to 255, so it lies between 255 N and 255 P, of all negative
//! and of all positive weights that go into it: it fits if none of both is beyond 128. No pair saturates then, either.

use super::vectors::{LANES, load};
use crate::arch::operands::PanelSteps;
use crate::geometry::GROUP;
use std::arch::x86_64::*;

/// Bytes of a block.
pub(super) const BLOCK: usize = PanelSteps::BLOCK * GROUP;

/// What the weights of one sign may come to.
const LIMIT: i16 = 128;

/// Of a weight that is multiplied as bytes, the blocks that cannot be are less than one in so many: they take twice as long, the
/// others three quarters of the time.
const WIDE: usize = 4;

/// Whether less than one in [`WIDE`] blocks is wide, and each panel says which.
pub(super) fn are_narrow(steps: &[PanelSteps]) -> bool {
    let blocks: usize = steps.iter().map(PanelSteps::blocks).sum();
    let wide: usize = steps.iter().map(|steps| steps.wide().len()).sum();
    steps.iter().all(|steps| !steps.is_empty()) && WIDE * wide < blocks
}

/// Groups of a block of int8 weights that go at once: all four, each two, or one; none where pairs may saturate.
#[target_feature(enable = "avx2")]
pub(super) fn at_once(block: &[u8; BLOCK]) -> u8 {
    let (halves, _) = block.as_chunks::<LANES>();
    let (mut four, mut two, mut one) = (true, true, true);
    for half in 0..2 {
        let pairs = [0, 1].map(|pair| (sums(&halves[4 * pair + half]), sums(&halves[4 * pair + 2 + half])));
        one &= pairs.iter().all(|(a, b)| fit(*a) && fit(*b));
        let twos = pairs.map(|(a, b)| added(a, b));
        two &= twos.iter().all(|sums| fit(*sums));
        four &= fit(added(twos[0], twos[1]));
    }
    if four {
        4
    } else if two {
        2
    } else {
        u8::from(one)
    }
}

/// What the positive and the negative ones of each two weights come to.
type Signs = (__m256i, __m256i);

/// Those of half a group.
#[inline]
#[target_feature(enable = "avx2")]
fn sums(half: &[u8; LANES]) -> Signs {
    let (weights, zero, ones) = (load(half), _mm256_setzero_si256(), _mm256_set1_epi8(1));
    let sums = |of| _mm256_maddubs_epi16(ones, of);
    (sums(_mm256_max_epi8(weights, zero)), sums(_mm256_min_epi8(weights, zero)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn added(a: Signs, b: Signs) -> Signs {
    (_mm256_add_epi16(a.0, b.0), _mm256_add_epi16(a.1, b.1))
}

/// Whether none is beyond the limit.
#[inline]
#[target_feature(enable = "avx2")]
fn fit((positive, negative): Signs) -> bool {
    let beyond = _mm256_or_si256(
        _mm256_cmpgt_epi16(positive, _mm256_set1_epi16(LIMIT)),
        _mm256_cmpgt_epi16(_mm256_set1_epi16(-LIMIT), negative),
    );
    _mm256_testz_si256(beyond, beyond) == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Kernel;
    use mcd_testkit::Rng;

    /// By the definition: the weights of a column in a pair of places along k, of so many groups.
    fn expected(block: &[u8; BLOCK]) -> u8 {
        let fits = |groups: usize| {
            (0..PanelSteps::BLOCK / groups).all(|first| {
                (0..GROUP / 2).all(|pair| {
                    let weights = (0..2 * groups).map(|i| {
                        let at = (first * groups + i / 2) * GROUP + 2 * pair + i % 2;
                        i32::from(block[at].cast_signed())
                    });
                    let positive: i32 = weights.clone().filter(|w| *w > 0).sum();
                    let negative: i32 = weights.filter(|w| *w < 0).sum();
                    255 * positive <= i32::from(i16::MAX) && 255 * negative >= i32::from(i16::MIN)
                })
            })
        };
        [4, 2, 1].into_iter().find(|groups| fits(*groups)).unwrap_or(0) as u8
    }

    #[test]
    fn blocks_at_the_limits() {
        if Kernel::by_name("avx2").is_err() {
            return;
        }
        let mut rng = Rng::new(42);
        let mut seen = [0; 5];
        for round in 0..4000 {
            let mut block = [0; BLOCK];
            let width = [0, 8, 16, 32, 64, 255][round % 6];
            block.iter_mut().for_each(|w| *w = (rng.next() % (width + 1)).wrapping_sub(width / 2) as u8);
            // Eight weights of one column and pair that come to the limit, or to one beyond it.
            if width == 0 {
                let (pair, beyond, sign) = (rng.next() as usize % (GROUP / 2), rng.next() % 2, rng.next() % 2);
                let groups = [4, 2, 1][rng.next() as usize % 3];
                for i in 0..2 * groups {
                    let w = (64 / groups) as i8 + i8::from(i == 0 && beyond == 1);
                    block[i / 2 * GROUP + 2 * pair + i % 2] = if sign == 1 { w } else { -w } as u8;
                }
            }
            // SAFETY: the processor has the feature.
            let found = unsafe { at_once(&block) };
            assert_eq!(found, expected(&block), "{block:?}");
            seen[usize::from(found)] += 1;
        }
        assert!([0, 1, 2, 4].iter().all(|at_once| seen[*at_once] > 100), "{seen:?}");
    }
}
