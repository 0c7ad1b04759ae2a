//! `deqScale`: the bits of an fp32 in a 64-bit word.

use crate::mode::strict;

/// The scales that words stand for, or the place of the first that stands for none, and why.
pub fn scales(words: &[u64]) -> Result<Vec<f32>, String> {
    let named = |(j, &word): (usize, &u64)| {
        scale(word, strict()).map_err(|reason| format!("deqScale[{j}] is {word:#018x}: {reason}"))
    };
    words.iter().enumerate().map(named).collect()
}

/// What one word stands for. The implementation hands words on unread, and of their upper half only bit 46 is known to
/// be set by anybody (torch_npu), and the sign's extension (the document's recipe, msModelSlim).
fn scale(word: u64, strict: bool) -> Result<f32, &'static str> {
    let value = f32::from_bits(word as u32);
    if strict {
        return Ok(value);
    }
    let high = (word >> 32) as u32;
    if high != 0 && !(value.is_sign_negative() && high == u32::MAX) {
        return Err(
            "the upper half must be 0, and the lower half the bits of an fp32 (torch_npu sets bit 46: the document \
                    knows no such bit, MCD_ACLNN_STRICT=1 takes it)",
        );
    }
    if !value.is_finite() {
        return Err("the scale must be finite (CANN's release notes list others as a known issue)");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_words_are_extended_fp32_bits() {
        assert_eq!(scale(0x3f80_0000, false), Ok(1.0));
        assert_eq!(scale(0xbf80_0000, false), Ok(-1.0));
        assert_eq!(scale(0xffff_ffff_bf80_0000, false), Ok(-1.0));
        for word in [0xffff_ffff_3f80_0000, 0x4000_3f80_0000, 0x7f80_0000, 0x7fc0_0000] {
            assert!(scale(word, false).is_err());
        }
    }

    #[test]
    fn the_implementation_takes_any_word() {
        for word in [0x3f80_0000, 0xffff_ffff_3f80_0000, 0x4000_3f80_0000] {
            assert_eq!(scale(word, true), Ok(1.0));
        }
        assert_eq!(scale(0x7f80_0000, true), Ok(f32::INFINITY));
        assert!(scale(0x7fc0_0000, true).is_ok_and(f32::is_nan));
    }
}
