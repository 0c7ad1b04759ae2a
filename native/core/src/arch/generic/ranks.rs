//! What becomes of root fields, and of the sums that continue them:
//!
//! ```text
//! ranks by distance, whose fields hold offsets from the centre:
//! open   = offset + T / 2 >= T
//! symbol = offset ^ sum + centre
//!
//! stored ranks:
//! open   = field >= T
//! symbol = table[(field + sum) mod 128] ^ mask where field + sum >= 128
//! ```
//!
//! Sums are those of `levels`: 0 in lanes that are not continued.

use super::group::{Group, LookUp};
use crate::arch::operands::TileCode;

/// What is done with root fields and sums.
///
/// # Safety
/// Of all methods: that of [`Group`].
pub trait Ranks<G: Group>: Copy {
    /// Root fields are offsets, sign and all, with the highest bit turned over: 128 is none. Otherwise they are ranks.
    const OFFSETS: bool;
    /// A bit for each lane: 1 where the weight is continued.
    ///
    /// # Safety
    /// See [`Group`].
    unsafe fn open(&self, fields: G) -> u64;
    /// The symbols.
    ///
    /// # Safety
    /// See [`Group`].
    unsafe fn symbols(&self, fields: G, sums: G) -> G;
}

/// Ranks by distance from a centre, which is 128 unless there is an addend.
#[derive(Clone, Copy)]
pub struct ByDistance<G, const ADDEND: bool> {
    to_tested: G,
    threshold: G,
    addend: G,
}

impl<G: Group, const ADDEND: bool> ByDistance<G, ADDEND> {
    /// # Safety
    /// See [`Group`].
    #[inline(always)]
    pub unsafe fn new(code: &TileCode, centre: u8) -> Self {
        debug_assert!(ADDEND || centre == 0x80);
        let code = &code.code;
        // SAFETY: the caller's contract.
        unsafe {
            Self {
                to_tested: G::splat(code.first_continued().wrapping_add(0x80)),
                // At most 128. A code without a step continues nothing: no offset is that large.
                threshold: G::splat(code.direct()),
                addend: G::splat(centre.wrapping_sub(0x80)),
            }
        }
    }
}

impl<G: Group, const ADDEND: bool> Ranks<G> for ByDistance<G, ADDEND> {
    const OFFSETS: bool = true;
    #[inline(always)]
    unsafe fn open(&self, fields: G) -> u64 {
        // SAFETY: the caller's contract.
        unsafe { fields.add(self.to_tested).at_least(self.threshold) }
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: G, sums: G) -> G {
        // SAFETY: the caller's contract.
        unsafe {
            let symbols = fields.xor(sums);
            if ADDEND { symbols.add(self.addend) } else { symbols }
        }
    }
}

/// Stored ranks that are looked up later: their symbols are the ranks themselves.
#[derive(Clone, Copy)]
pub struct ToBeLookedUp<G> {
    threshold: G,
}

impl<G: Group> ToBeLookedUp<G> {
    /// # Safety
    /// See [`Group`].
    #[inline(always)]
    pub unsafe fn new(code: &TileCode) -> Self {
        // SAFETY: the caller's contract.
        Self { threshold: unsafe { G::splat(code.code.direct()) } }
    }
}

impl<G: Group> Ranks<G> for ToBeLookedUp<G> {
    const OFFSETS: bool = false;
    #[inline(always)]
    unsafe fn open(&self, fields: G) -> u64 {
        // SAFETY: the caller's contract.
        unsafe { fields.at_least(self.threshold) }
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: G, sums: G) -> G {
        // SAFETY: the caller's contract.
        unsafe { fields.add(sums) }
    }
}

/// Stored ranks; those of 128 and more have the symbols of others with the bits of a mask turned over, if there is one.
#[derive(Clone, Copy)]
pub struct LookedUp<G: LookUp, const MASK: bool> {
    ranks: ToBeLookedUp<G>,
    table: G::Table,
    mask: G::Mask,
}

impl<G: LookUp, const MASK: bool> LookedUp<G, MASK> {
    /// # Safety
    /// See [`Group`].
    #[inline(always)]
    pub unsafe fn new(code: &TileCode, mask: u8) -> Self {
        debug_assert!(MASK || mask == 0);
        // SAFETY: the caller's contract.
        unsafe { Self { ranks: ToBeLookedUp::new(code), table: G::table(&code.table), mask: G::mask(mask) } }
    }
}

impl<G: LookUp, const MASK: bool> Ranks<G> for LookedUp<G, MASK> {
    const OFFSETS: bool = false;
    #[inline(always)]
    unsafe fn open(&self, fields: G) -> u64 {
        // SAFETY: the caller's contract.
        unsafe { self.ranks.open(fields) }
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: G, sums: G) -> G {
        // SAFETY: the caller's contract.
        unsafe {
            let ranks = self.ranks.symbols(fields, sums);
            let symbols = ranks.look_up(&self.table);
            if MASK { symbols.xor(ranks.high(&self.mask)) } else { symbols }
        }
    }
}
