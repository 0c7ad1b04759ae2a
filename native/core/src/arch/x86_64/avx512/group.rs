//! A group in one register.

use super::roots::spread_top;
use crate::arch::generic::{Expand, Group, LookUp};
use crate::geometry::GROUPS;
use std::arch::asm;
use std::arch::x86_64::*;

/// 64 bytes. The features are those of [`Avx512`](super::Avx512).
#[derive(Clone, Copy)]
pub struct Zmm(pub __m512i);

impl Group for Zmm {
    #[inline(always)]
    unsafe fn splat(byte: u8) -> Self {
        // SAFETY: the caller's contract, here and below.
        Self(unsafe { _mm512_set1_epi8(byte.cast_signed()) })
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) };
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_add_epi8(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn at_least(self, other: Self) -> u64 {
        // SAFETY: as above.
        unsafe { _mm512_cmpge_epu8_mask(self.0, other.0) }
    }
}

impl Expand for Zmm {
    #[inline(always)]
    unsafe fn expand(bits: u64, from: *const u8) -> Self {
        // SAFETY: the caller's contract.
        Self(unsafe { expand_bytes(bits, _mm512_loadu_si512(from.cast())) })
    }
}

/// The first bytes of `from`, one after another, in the lanes whose bits are ones; 0 elsewhere.
///
/// The instruction waits for the register that it overwrites (Zen 4: 5 cycles each where one would do), although it keeps
/// nothing of it. As its own source there is nothing else to wait for, which only assembly can say.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn expand_bytes(bits: u64, from: __m512i) -> __m512i {
    let mut bytes = from;
    // SAFETY: changes nothing but its operand.
    unsafe {
        asm!(
            "vpexpandb {bytes}{{{bits}}}{{z}}, {bytes}",
            bytes = inout(zmm_reg) bytes,
            bits = in(kreg) bits,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    bytes
}

/// The values of a fractal's groups, which the compiler has in registers before it goes on: what is in front of this in the source
/// is in front of it in the instructions. A processor looks some 100 of them ahead, so their order tells which wait for which.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn settled(mut of: [__m512i; GROUPS]) -> [__m512i; GROUPS] {
    let [a, b, c, d, e, f, g, h] = &mut of;
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {} {} {} {} {} {} {} {} */",
            inout(zmm_reg) * a,
            inout(zmm_reg) * b,
            inout(zmm_reg) * c,
            inout(zmm_reg) * d,
            inout(zmm_reg) * e,
            inout(zmm_reg) * f,
            inout(zmm_reg) * g,
            inout(zmm_reg) * h,
            options(nomem, nostack, preserves_flags),
        );
    }
    of
}

impl LookUp for Zmm {
    type Table = [__m512i; 2];
    type Mask = __m512i;
    #[inline(always)]
    unsafe fn table(symbols: &[u8; 256]) -> Self::Table {
        let row = symbols.as_ptr().cast::<__m512i>();
        // SAFETY: the table has 256 bytes; the rest is the caller's contract.
        unsafe { [_mm512_loadu_si512(row), _mm512_loadu_si512(row.add(1))] }
    }
    #[inline(always)]
    unsafe fn mask(mask: u8) -> Self::Mask {
        // SAFETY: the caller's contract, here and below.
        unsafe { _mm512_set1_epi64(spread_top(mask)) }
    }
    #[inline(always)]
    unsafe fn look_up(self, table: &Self::Table) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_permutex2var_epi8(table[0], self.0, table[1]) })
    }
    #[inline(always)]
    unsafe fn high(self, mask: &Self::Mask) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(self.0, *mask) })
    }
}
