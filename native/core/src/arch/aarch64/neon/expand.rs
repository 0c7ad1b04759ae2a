//! The next bytes of a list for the lanes whose bits are ones.

use std::arch::aarch64::*;

/// Bytes that are read behind those that are dealt out, for nothing.
pub const BEHIND: usize = 8;

/// No lane's: the instruction gives 0 for it.
const NONE: u8 = u8::MAX;

/// Which of the next eight bytes each of eight lanes takes, for each mask.
static TAKEN: [[u8; 8]; 256] = taken();

const fn taken() -> [[u8; 8]; 256] {
    let mut table = [[NONE; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if mask >> lane & 1 == 1 {
                table[mask][lane] = next;
                next += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
}

/// The bytes of `from`, one after another, in the lanes whose bits are ones, 0 elsewhere.
///
/// # Safety
/// As many bytes as there are ones, and [`BEHIND`] more, are readable.
#[inline]
#[target_feature(enable = "neon")]
pub unsafe fn expand(mask: u64, from: *const u8) -> [uint8x16_t; 4] {
    let counts = vget_lane_u64::<0>(vreinterpret_u64_u8(vcnt_u8(vcreate_u8(mask))));
    // Byte i: ones in bytes 0 to i. There are 64 at the most.
    let ends = counts.wrapping_mul(0x0101_0101_0101_0101);
    let begins = (ends << 8).to_le_bytes();
    let mask = mask.to_le_bytes();
    let eight = |i: usize| {
        // SAFETY: the eight bytes begin at one that is dealt out, or behind the last, and `BEHIND` more are there.
        let next = unsafe { vld1_u8(from.add(begins[i].into())) };
        vtbl1_u8(next, vcreate_u8(u64::from_le_bytes(TAKEN[usize::from(mask[i])])))
    };
    std::array::from_fn(|i| vcombine_u8(eight(2 * i), eight(2 * i + 1)))
}

/// A bit for each of 64 lanes: 1 where all are.
#[inline]
#[target_feature(enable = "neon")]
pub fn mask(lanes: [uint8x16_t; 4]) -> u64 {
    let bits = vcombine_u8(vcreate_u8(0x8040_2010_0804_0201), vcreate_u8(0x8040_2010_0804_0201));
    let [a, b, c, d] = lanes.map(|lanes| vandq_u8(lanes, bits));
    // Sums of neighbours, of those, and of those again: eight lanes become a byte.
    let sums = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
    vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)))
}
